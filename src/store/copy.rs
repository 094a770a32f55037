//! The file that a backup is written into: the schema of the migrations, the entries that were read, the small
//! tables, and everything that follows from these.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::backup::{BackupError, Lost, VERSION};
use super::beside::PlaceError;
use super::catalog::{self, ScopeRecord};
use super::connection;
use super::error::StoreError;
use super::facts::{self, Counted};
use super::model::{ScopeId, ScopeKind};
use super::schema::APPLICATION_ID;
use super::shape::{self, Object};
use super::survey::{self, Flaw, Read, Row, Survey, Visitor};
use super::{chunks, survey::snapshot};

/// Tables that are copied entry by entry; all others are small.
const BY_ENTRY: [&str; 2] = ["artifacts", "chunks"];

/// Rows of both files that are compared at once.
const PAGE_ROWS: usize = 2_000;

/// Steps of SQLite between two looks at the clock while it checks the copy.
const CHECK_STEPS: i32 = 1_000;

/// The copy while it is made.
pub(super) struct Copy {
    connection: Connection,
    path: PathBuf,
    schema: Vec<Object>,
    /// The columns of artifacts, as a list in SQL.
    artifact_columns: String,
    damaged: Vec<Lost>,
    /// The rows of these, to be found in.
    damaged_ids: HashSet<i64>,
    /// Bytes written since somebody set this to 0.
    pub unsynced_bytes: u64,
}

impl Copy {
    /// Begins a copy in the empty file at `path`.
    pub fn create(source: &Connection, path: &Path) -> Result<Self, BackupError> {
        let made = shape::expected(VERSION)?.iter();
        // SQLite makes the others again.
        let schema = made.filter(|object| !object.is_of_sqlite()).cloned();
        let written = |error: rusqlite::Error| PlaceError::written(path, error.into());
        let connection = connection::open_copy(path).map_err(written)?;
        let mut copy = Self {
            connection,
            path: path.to_owned(),
            schema: schema.collect(),
            artifact_columns: String::new(),
            damaged: Vec::new(),
            damaged_ids: HashSet::new(),
            unsynced_bytes: 0,
        };
        copy.in_transaction(|copy| {
            let marked = copy
                .connection
                .pragma_update(None, "application_id", APPLICATION_ID);
            copy.written(marked)?;
            copy.make("table")
        })?;
        copy.artifact_columns = copy.columns("artifacts")?;
        // Now, rather than after an hour.
        source
            .prepare(&format!("SELECT {} FROM artifacts", copy.artifact_columns))
            .map_err(StoreError::from)?;
        Ok(copy)
    }

    /// Runs `work` in a transaction of the copy.
    pub fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        // One that failed is thrown away with the file.
        self.execute("BEGIN")?;
        let outcome = work(self)?;
        self.execute("COMMIT")?;
        Ok(outcome)
    }

    /// Makes the copy agree with one snapshot of the source, but for what is damaged and for what does not fit
    /// into `bytes_max`; how many entries that were.
    pub fn finish(
        &mut self,
        source: &Connection,
        survey: &mut Survey,
        bytes_max: u64,
    ) -> Result<u64, BackupError> {
        self.execute("BEGIN")?;
        let (left_out, gone) = snapshot(source, || {
            survey.next_round(source)?;
            survey.finish(source, self, bytes_max)?;
            let differences = self.reconcile(source)?;
            for table in self.small_tables() {
                self.copy_table(source, &table)?;
            }
            self.copy_table(source, "sqlite_sequence")?;
            Ok::<_, BackupError>(differences)
        })?;
        // The source is no longer needed for this.
        for id in gone {
            self.written_by(chunks::delete_all(&self.connection, id))?;
        }
        self.leave_dangling()?;
        self.execute("COMMIT")?;
        Ok(left_out)
    }

    /// Compares the entries of both: takes over when they were read, and deletes the rows of those that are not
    /// stored any more. The number of those that are missing, and the ids of those that went.
    fn reconcile(&mut self, source: &Connection) -> Result<(u64, Vec<i64>), BackupError> {
        let (mut left_out, mut gone) = (0, Vec::new());
        let mut after_id = 0;
        loop {
            let stored = entries(source, after_id, i64::MAX)?;
            let is_last = stored.len() < PAGE_ROWS;
            let until_id = match stored.last() {
                Some((id, _)) if !is_last => *id,
                _ => i64::MAX,
            };
            let mut copied_after = after_id;
            let mut stored = stored.into_iter().peekable();
            loop {
                let copied = self.written_by(entries(&self.connection, copied_after, until_id))?;
                for (id, read_at_ms) in &copied {
                    while let Some((missing, _)) = stored.next_if(|(stored, _)| stored < id) {
                        left_out += u64::from(!self.is_damaged(missing));
                    }
                    match stored.next_if(|(stored, _)| stored == id) {
                        None => {
                            self.forget(*id)?;
                            gone.push(*id);
                        }
                        Some((_, read)) if read != *read_at_ms => self.set_read(*id, read)?,
                        Some(_) => {}
                    }
                }
                match copied.last() {
                    Some((id, _)) if copied.len() == PAGE_ROWS => copied_after = *id,
                    _ => break,
                }
            }
            left_out += stored.filter(|(id, _)| !self.is_damaged(*id)).count() as u64;
            if is_last {
                return Ok((left_out, gone));
            }
            after_id = until_id;
        }
    }

    /// Leaves out entries of a token or a scope that is not there: with them the copy would be none, for as long
    /// as they are stored.
    fn leave_dangling(&mut self) -> Result<(), BackupError> {
        let found: rusqlite::Result<Vec<(i64, i64, String)>> = self
            .connection
            .prepare(
                "SELECT id, scope_id, hash FROM artifacts WHERE scope_id NOT IN (SELECT id FROM scopes)
                 OR writer_token_id NOT IN (SELECT id FROM tokens)",
            )
            .and_then(|mut select| {
                let rows = select.query_map([], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
                rows.collect()
            });
        for (id, scope, hash) in self.written(found)? {
            let scope = scope_of(&self.connection, scope);
            self.lose(Lost { id, scope, hash });
            self.forget(id)?;
            self.written_by(chunks::delete_all(&self.connection, id))?;
        }
        Ok(())
    }

    fn lose(&mut self, lost: Lost) {
        self.damaged_ids.insert(lost.id);
        self.damaged.push(lost);
    }

    fn is_damaged(&self, id: i64) -> bool {
        self.damaged_ids.contains(&id)
    }

    fn forget(&self, id: i64) -> Result<(), BackupError> {
        let mut statement = self.written(
            self.connection
                .prepare_cached("DELETE FROM artifacts WHERE id = ?1"),
        )?;
        self.written(statement.execute([id]))?;
        Ok(())
    }

    fn set_read(&self, id: i64, read_at_ms: i64) -> Result<(), BackupError> {
        let update = "UPDATE artifacts SET read_at_ms = ?2 WHERE id = ?1";
        let mut statement = self.written(self.connection.prepare_cached(update))?;
        self.written(statement.execute([id, read_at_ms]))?;
        Ok(())
    }

    /// Adds what follows from the rest, checks the whole, and closes it as one file that a server can open.
    pub fn complete(mut self, stop: &Arc<AtomicBool>) -> Result<(Read, Vec<Lost>), BackupError> {
        let copied = self.in_transaction(|copy| {
            let counted = copy.written_by(Counted::of(&copy.connection))?;
            copy.written_by(counted.write(&copy.connection))?;
            copy.make("index")?;
            copy.make("trigger")?;
            // Last: what is cut short before this is no database of ours.
            let marked = copy.connection.pragma_update(None, "user_version", VERSION);
            copy.written(marked)?;
            Ok(counted.stored())
        })?;
        self.check(stop)?;
        self.written(self.connection.pragma_update(None, "journal_mode", "WAL"))?;
        let path = self.path;
        let closed = self.connection.close();
        closed.map_err(|(_, error)| PlaceError::written(&path, error.into()))?;
        Ok((copied, self.damaged))
    }

    /// What SQLite says about the copy, gently.
    fn check(&self, stop: &Arc<AtomicBool>) -> Result<(), BackupError> {
        let (asked, mut since) = (Arc::clone(stop), Instant::now());
        let watch = move || {
            if survey::is_time_to_pause(since) {
                survey::pause(since);
                since = Instant::now();
            }
            asked.load(Ordering::Relaxed)
        };
        self.written(self.connection.progress_handler(CHECK_STEPS, Some(watch)))?;
        let verdict: rusqlite::Result<String> =
            self.connection
                .query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        let orphan: rusqlite::Result<bool> = self
            .connection
            .prepare("PRAGMA foreign_key_check")
            .and_then(|mut check| check.exists([]));
        if stop.load(Ordering::Relaxed) {
            return Err(BackupError::Interrupted);
        }
        self.written(self.connection.progress_handler(0, None::<fn() -> bool>))?;
        match (self.written(verdict)?.as_str(), self.written(orphan)?) {
            ("ok", false) => Ok(()),
            ("ok", true) => Err(BackupError::Unsound(
                "a row refers to one that is not there".to_owned(),
            )),
            (verdict, _) => Err(BackupError::Unsound(verdict.to_owned())),
        }
    }

    /// Makes the objects of a kind.
    fn make(&self, kind: &str) -> Result<(), BackupError> {
        for object in self.schema.iter().filter(|object| object.kind == kind) {
            self.execute(&object.sql)?;
        }
        Ok(())
    }

    fn small_tables(&self) -> Vec<String> {
        let is_small =
            |object: &&Object| object.kind == "table" && !BY_ENTRY.contains(&object.name.as_str());
        let small = self.schema.iter().filter(is_small);
        small.map(|object| object.name.clone()).collect()
    }

    /// Copies all rows of a table, in the place of those that are there.
    fn copy_table(&self, source: &Connection, table: &str) -> Result<(), BackupError> {
        let columns = self.columns(table)?;
        self.execute(&format!("DELETE FROM {table}"))?;
        let mut select = source
            .prepare(&format!("SELECT {columns} FROM {table}"))
            .map_err(StoreError::from)?;
        let mut rows = select.query([]).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            self.insert(table, &columns, values(row)?)?;
        }
        Ok(())
    }

    fn insert(&self, table: &str, columns: &str, row: Vec<Value>) -> Result<(), BackupError> {
        let places = vec!["?"; row.len()].join(",");
        let insert = format!("INSERT INTO {table} ({columns}) VALUES ({places})");
        let mut statement = self.written(self.connection.prepare_cached(&insert))?;
        self.written(statement.execute(params_from_iter(row)))?;
        Ok(())
    }

    fn columns(&self, table: &str) -> Result<String, BackupError> {
        let columns = self.written_by(facts::columns(&self.connection, table))?;
        Ok(columns.join(", "))
    }

    fn execute(&self, sql: &str) -> Result<(), BackupError> {
        let mut statement = self.written(self.connection.prepare_cached(sql))?;
        self.written(statement.execute([]))?;
        Ok(())
    }

    fn written<T>(&self, outcome: rusqlite::Result<T>) -> Result<T, BackupError> {
        self.written_by(outcome.map_err(StoreError::from))
    }

    /// Says of an error that it is one of the copy.
    fn written_by<T>(&self, outcome: Result<T, StoreError>) -> Result<T, BackupError> {
        outcome.map_err(|error| PlaceError::written(&self.path, error).into())
    }
}

impl Visitor for Copy {
    type Error = BackupError;

    fn chunk(&mut self, row: &Row, sequence: u32, data: &[u8]) -> Result<(), BackupError> {
        let data_hash = chunks::data_hash(data);
        self.written_by(chunks::insert(
            &self.connection,
            row.id,
            sequence,
            data,
            data_hash,
        ))?;
        self.unsynced_bytes += data.len() as u64;
        Ok(())
    }

    fn whole(&mut self, source: &Connection, row: &Row) -> Result<(), BackupError> {
        let select = format!(
            "SELECT {} FROM artifacts WHERE id = ?1",
            self.artifact_columns
        );
        let mut select = source.prepare_cached(&select).map_err(StoreError::from)?;
        let values: rusqlite::Result<Result<_, StoreError>> =
            select.query_row([row.id], |row| Ok(values(row)));
        self.insert(
            "artifacts",
            &self.artifact_columns,
            values.map_err(StoreError::from)??,
        )
    }

    fn flawed(&mut self, source: &Connection, row: &Row, _: Flaw) -> Result<(), BackupError> {
        let mut select = source
            .prepare_cached("SELECT scope_id, hash FROM artifacts WHERE id = ?1")
            .map_err(StoreError::from)?;
        let (scope, hash) = select
            .query_row([row.id], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(StoreError::from)?;
        self.lose(Lost {
            id: row.id,
            scope: scope_of(source, scope),
            hash,
        });
        self.gone(row)
    }

    fn gone(&mut self, row: &Row) -> Result<(), BackupError> {
        self.written_by(chunks::delete_all(&self.connection, row.id))
    }
}

/// The scope of an entry, with words in the place of one that is not there.
fn scope_of(connection: &Connection, id: i64) -> ScopeRecord {
    catalog::scope(connection, ScopeId(id)).unwrap_or_else(|_| ScopeRecord {
        workspace: "unknown".to_owned(),
        kind: ScopeKind::Isolated,
        name: Some(format!("number {id}")),
        created_at_ms: 0,
    })
}

fn values(row: &rusqlite::Row<'_>) -> Result<Vec<Value>, StoreError> {
    let columns = row.as_ref().column_count();
    let values = (0..columns).map(|at| row.get(at));
    Ok(values.collect::<rusqlite::Result<_>>()?)
}

/// Stored entries with the time of their last read, at most a page of them.
fn entries(
    connection: &Connection,
    after_id: i64,
    until_id: i64,
) -> Result<Vec<(i64, i64)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, read_at_ms FROM artifacts NOT INDEXED
         WHERE state = 'stored' AND id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
    )?;
    let rows = statement.query_map((after_id, until_id, PAGE_ROWS as i64), |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    let found = rows.collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    let ids = || found.iter().map(|(id, _)| *id);
    if !std::iter::once(after_id)
        .chain(ids())
        .is_sorted_by(|a, b| a < b)
    {
        return Err(StoreError::out_of_order());
    }
    Ok(found)
}
