//! The writer when SQLite fails it between jobs, where it runs out of memory most likely: nothing of a group that
//! failed is stored, later or with others, and nobody is locked out by it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};

use super::ticket::{Ticket, Weight};
use super::timing::Timing;
use super::writer::{Writer, deadline};
use super::*;

const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";
const ROLLBACK_TO: &str = "ROLLBACK TO";

/// The writer alone on a database of its own.
struct Bare {
    writer: Writer,
    /// Sees what others see, and does not wait for them.
    beside: Connection,
    _directory: tempfile::TempDir,
}

impl Bare {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.db");
        let connection = Connection::open(&path).expect("a database");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;
                 CREATE TABLE names (name TEXT PRIMARY KEY, of REFERENCES names (name) DEFERRABLE INITIALLY DEFERRED)",
            )
            .expect("a table");
        let beside = Connection::open(&path).expect("the database");
        beside.busy_timeout(Duration::ZERO).expect("a setting");
        Self {
            writer: Writer::start(connection, &Arc::<Timing>::default()).expect("a thread"),
            beside,
            _directory: directory,
        }
    }

    fn add(&self, name: &'static str) -> Ticket<()> {
        self.add_and(name, |_| Ok(()))
    }

    /// Stores a name and does something more.
    fn add_and(
        &self,
        name: &'static str,
        more: impl FnOnce(&Connection) -> Result<(), StoreError> + Send + 'static,
    ) -> Ticket<()> {
        self.writer.submit(Weight::Small(0), move |connection| {
            connection.execute("INSERT INTO names (name) VALUES (?1)", [name])?;
            more(connection)
        })
    }

    fn names(&self) -> String {
        let select = "SELECT ifnull(group_concat(name ORDER BY name), '') FROM names";
        let names = self.beside.query_row(select, [], |row| row.get(0));
        names.expect("names")
    }

    /// Others can write.
    #[track_caller]
    fn is_free(&self) {
        let taken = self.beside.execute_batch("BEGIN IMMEDIATE; ROLLBACK");
        assert_eq!(taken, Ok(()), "a transaction was left open");
    }
}

fn ended(ticket: Ticket<()>) -> Result<(), StoreError> {
    ticket.wait(deadline(Duration::from_mins(1)))
}

/// Each of these statements fails the next time, before it has done anything.
fn fail_next(connection: &Connection, statements: &[&'static str]) {
    let mut failing: HashSet<_> = statements.iter().copied().collect();
    let hook = move |context: AuthContext<'_>| {
        let statement = match context.action {
            AuthAction::Transaction {
                operation: TransactionOperation::Rollback,
            } => ROLLBACK,
            AuthAction::Transaction {
                operation: TransactionOperation::Unknown,
            } => COMMIT,
            AuthAction::Savepoint {
                operation: TransactionOperation::Rollback,
                ..
            } => ROLLBACK_TO,
            _ => return Authorization::Allow,
        };
        if failing.remove(statement) {
            Authorization::Deny
        } else {
            Authorization::Allow
        }
    };
    connection.authorizer(Some(hook)).expect("a hook");
}

#[test]
fn a_commit_that_fails_leaves_no_transaction_open() {
    let bare = Bare::new();
    let failed = bare.add_and("a", |connection| {
        fail_next(connection, &[COMMIT]);
        Ok(())
    });
    assert!(ended(failed).is_err());
    bare.is_free();
    // The same where SQLite has begun with it: what is referred to is not there.
    let failed = bare.add_and("b", |connection| {
        connection.execute("UPDATE names SET of = 'nobody'", [])?;
        Ok(())
    });
    assert!(ended(failed).is_err());
    bare.is_free();
    assert_eq!(ended(bare.add("c")), Ok(()));
    assert_eq!(bare.names(), "c");
}

#[test]
fn what_could_not_be_undone_is_undone_before_the_next_job() {
    let bare = Bare::new();
    let failed = bare.add_and("a", |connection| {
        fail_next(connection, &[COMMIT, ROLLBACK]);
        Ok(())
    });
    assert!(ended(failed).is_err());
    assert_eq!(ended(bare.add("b")), Ok(()));
    assert_eq!(bare.names(), "b");
    bare.is_free();
}

/// All at once, so that they share a commit: the first one waits for the others.
fn in_one_commit(
    bare: &Bare,
    more: impl FnOnce(&Connection) -> Result<(), StoreError> + Send + 'static,
) -> [Result<(), StoreError>; 3] {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let first = bare.writer.submit(Weight::Small(0), move |_| {
        let _ = wait.recv();
        Ok(())
    });
    let tickets = [bare.add("a"), bare.add_and("b", more), bare.add("c")];
    drop(go);
    // It is in the commit before, or in theirs.
    let _ = ended(first);
    tickets.map(ended)
}

#[test]
fn a_job_that_fails_is_undone_alone_within_a_commit() {
    let bare = Bare::new();
    let outcomes = in_one_commit(&bare, |_| Err(StoreError::DiskFull));
    assert_eq!(outcomes, [Ok(()), Err(StoreError::DiskFull), Ok(())]);
    assert_eq!(bare.names(), "a,c");
    bare.is_free();
}

#[test]
fn a_job_that_cannot_be_undone_alone_takes_its_commit_along() {
    let bare = Bare::new();
    let outcomes = in_one_commit(&bare, |connection| {
        fail_next(connection, &[ROLLBACK_TO]);
        Err(StoreError::DiskFull)
    });
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert_eq!(bare.names(), "");
    bare.is_free();
    assert_eq!(ended(bare.add("d")), Ok(()));
    assert_eq!(bare.names(), "d");
}
