//! Puts a backup in the place of the database.
//!
//! The order, so that a crash between any two steps leaves a database that is whole:
//!
//! 1. The backup is copied beside the database, synced, and checked as `verify` does. Nothing else was touched.
//! 2. The log of the old database is folded into it and removed, by SQLite, which refuses as long as anybody has
//!    the database open. Where the old one is too damaged for that, its log is just removed.
//! 3. What may be left of log, index and journal is removed, and that is made durable.
//! 4. The copy is renamed to the name of the database, and that is made durable.
//!
//! SQLite does not bind a log to its file: an old log beside the new file would be taken for the new one's. So
//! the log is gone for good before the new file has the name. A crash after 3 leaves the old database.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::beside::{self, Beside, PlaceError};
use super::connection::{self, Profile, Role, Synchronous};
use super::error::{OpenError, StoreError};
use super::file::{self, FileLock, sibling};
use super::verify::{Verdict, Verifier, VerifyError, VerifyProgress};
use super::{facts, now_ms, schema, shape};

/// What is copied between two looks at the wish to stop.
const PIECE_BYTES: usize = 1024 * 1024;

/// How long another command may keep the old database open.
const OTHERS_WAIT: Duration = Duration::from_secs(5);

/// Why a backup was not restored; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup, or the database in its way, cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database is there, and was not to be replaced.
    #[error("'{}' exists; '{}' would take its place", target.display(), backup.display())]
    Exists {
        /// What is there.
        target: PathBuf,
        /// The backup.
        backup: PathBuf,
    },
    /// A server works with the database.
    #[error("a cachesrv server is running on '{0}'")]
    Serving(PathBuf),
    /// Another command works with the database.
    #[error("another command is working with '{0}'")]
    Busy(PathBuf),
    /// The copy cannot come to its place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The backup cannot be checked.
    #[error("cannot check '{}': {error}", path.display())]
    Check {
        /// The backup.
        path: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// A backup that may take the place of a database, which nobody else uses meanwhile.
pub struct Restore {
    source: PathBuf,
    source_file: File,
    size_bytes: u64,
    target: PathBuf,
    /// Of the database that is in the place.
    lock: Option<FileLock>,
    replace: bool,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreProgress {
    /// The backup is copied.
    Copy {
        /// So much of it, in bytes.
        done_bytes: u64,
        /// Of so much.
        total_bytes: u64,
    },
    /// It is checked.
    Check(VerifyProgress),
}

/// What a backup is, and what becomes of tokens with it.
#[derive(Debug)]
pub struct Restored {
    /// What was found in the backup. It is in its place only where nothing is wrong with it.
    pub verdict: Verdict,
    /// Tokens that live in the backup and do not, or shorter, in the database that it replaces.
    pub revived: Vec<Revived>,
    /// Whether there was a database whose tokens could be compared.
    pub before: Before,
}

/// The database that was in the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// There was none, so all living tokens are listed.
    Nothing,
    /// Its tokens could not be read, so all living tokens are listed.
    Unreadable,
    /// Its tokens were compared.
    Known,
}

/// A token that comes back to life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revived {
    /// The part that may be shown.
    pub public_id: String,
    /// Its name.
    pub name: Option<String>,
    /// The name of its workspace.
    pub workspace: String,
    /// The word for what it may do.
    pub access: String,
    /// What had become of it.
    pub was: Was,
}

/// What had become of a token since the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// It was revoked.
    Revoked,
    /// Another had taken its place.
    Replaced,
    /// Its end was set earlier.
    Ended,
    /// It was not there.
    Unknown,
}

impl Restore {
    /// Looks at both files, and keeps servers away from them; changes nothing.
    pub fn prepare(source: &Path, target: &Path, replace: bool) -> Result<Self, RestoreError> {
        let verifier = Verifier::open_still(source)?;
        drop(verifier);
        let source_file = File::open(source).map_err(|error| beside::io("open", source, error))?;
        match source_file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                return Err(PlaceError::InUse(source.to_owned()).into());
            }
            // A file system without locks has no server on it either.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        for log in ["-wal", "-journal"].map(|end| sibling(source, end)) {
            if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
                let path = source.to_owned();
                return Err(PlaceError::HasLog { path, log }.into());
            }
        }
        if beside::is_same_file(source, target) {
            return Err(PlaceError::Itself(source.to_owned()).into());
        }
        // A link stays one: what it leads to is replaced.
        let target = match fs::symlink_metadata(target) {
            Ok(link) if link.is_symlink() => fs::canonicalize(target),
            _ => Ok(target.to_owned()),
        }
        .map_err(|error| beside::io("follow the link", target, error))?;
        let directory = beside::directory_of(&target);
        if !directory.is_dir() {
            return Err(PlaceError::NoDirectory(directory.to_owned()).into());
        }
        let lock = keep_away(source, &target, replace)?;
        let metadata = source_file.metadata();
        let metadata = metadata.map_err(|error| beside::io("read", source, error))?;
        Ok(Self {
            source: source.to_owned(),
            source_file,
            size_bytes: metadata.len(),
            target,
            lock,
            replace,
        })
    }

    /// Checks the backup where it is, and compares the tokens; changes nothing.
    pub fn check(
        &self,
        stop: &Arc<AtomicBool>,
        watch: &mut dyn FnMut(RestoreProgress),
    ) -> Result<Restored, RestoreError> {
        let verifier = Verifier::open_still(&self.source)?;
        self.judge(&verifier, stop, watch)
    }

    /// Copies the backup, checks the copy, and puts it in its place if nothing is wrong with it.
    pub fn run(
        mut self,
        stop: &Arc<AtomicBool>,
        watch: &mut dyn FnMut(RestoreProgress),
    ) -> Result<Restored, RestoreError> {
        beside::check_room(&self.target, self.size_bytes, 0)?;
        let beside = Beside::create(&self.target)?;
        // The server may run as another user than whoever restores.
        file::hand_over(beside.file(), beside.path());
        self.copy(&beside, stop, watch)?;
        let verifier = Verifier::open_still(beside.path())?;
        let restored = self.judge(&verifier, stop, watch)?;
        drop(verifier);
        if !restored.verdict.is_ok() {
            return Ok(restored);
        }
        let mut busy = false;
        let placed = beside.place(self.lock.is_some(), || {
            self.fold().map_err(|error| {
                busy = error == StoreError::Busy;
                PlaceError::written(&self.target, error)
            })?;
            beside::remove_logs(&self.target);
            beside::sync_directory(&self.target)
        });
        if busy {
            return Err(RestoreError::Busy(self.target));
        }
        placed?;
        Ok(restored)
    }

    fn copy(
        &mut self,
        beside: &Beside,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(RestoreProgress),
    ) -> Result<(), RestoreError> {
        let mut piece = vec![0; PIECE_BYTES];
        let (mut done_bytes, total_bytes) = (0, self.size_bytes);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(RestoreError::Interrupted);
            }
            let count = match self.source_file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(beside::io("read", &self.source, error).into()),
            };
            let written = beside.file().write_all(&piece[..count]);
            written.map_err(|error| beside::io("write", beside.path(), error))?;
            done_bytes += count as u64;
            watch(RestoreProgress::Copy {
                done_bytes,
                total_bytes,
            });
        }
        Ok(beside.sync_some()?)
    }

    fn judge(
        &self,
        verifier: &Verifier,
        stop: &Arc<AtomicBool>,
        watch: &mut dyn FnMut(RestoreProgress),
    ) -> Result<Restored, RestoreError> {
        let verdict = verifier.run(false, stop, &mut |now| watch(RestoreProgress::Check(now)));
        let verdict = verdict.map_err(|error| match error {
            VerifyError::Open(error) => error.into(),
            VerifyError::Read(error) => self.unchecked(error),
            VerifyError::Interrupted => RestoreError::Interrupted,
        })?;
        let (before, known) = self.tokens_before();
        // What is not restored brings no token back, and its tables may be anything.
        let tokens = if verdict.is_ok() {
            tokens(verifier.connection()).map_err(|error| self.unchecked(error))?
        } else {
            Vec::new()
        };
        Ok(Restored {
            revived: revived(tokens, &known),
            verdict,
            before,
        })
    }

    fn unchecked(&self, error: StoreError) -> RestoreError {
        let path = self.source.clone();
        RestoreError::Check { path, error }
    }

    /// The tokens of the database that is in the place.
    fn tokens_before(&self) -> (Before, HashMap<String, Token>) {
        let is_empty = fs::metadata(&self.target).map_or(true, |file| file.len() == 0);
        if is_empty {
            return (Before::Nothing, HashMap::new());
        }
        match self.tokens_of_target() {
            Ok(Some(tokens)) => {
                let by_id = tokens
                    .into_iter()
                    .map(|token| (token.public_id.clone(), token));
                (Before::Known, by_id.collect())
            }
            Ok(None) | Err(_) => (Before::Unreadable, HashMap::new()),
        }
    }

    /// Only from tables that are ours: others may say anything, and take any time to say it.
    fn tokens_of_target(&self) -> Result<Option<Vec<Token>>, StoreError> {
        let connection = self.open_target()?;
        let version = schema::version(&connection)?;
        let differences = shape::differences(&connection, version.min(schema::VERSION))?;
        if !shape::spare_tables(&differences) {
            return Ok(None);
        }
        tokens(&connection).map(Some)
    }

    fn open_target(&self) -> rusqlite::Result<Connection> {
        let profile = Profile {
            synchronous: Synchronous::Full,
            mmap: false,
        };
        let connection = connection::open(&self.target, Role::Admin, profile)?;
        connection.busy_timeout(OTHERS_WAIT)?;
        Ok(connection)
    }

    /// Folds the log of the old database into it, which leaves it complete without one. One that is too damaged
    /// for that loses what is in its log, and is replaced next; one that is sound does not.
    fn fold(&self) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Ok(());
        }
        let folded = self
            .open_target()
            .and_then(|connection| connection.pragma_update(None, "journal_mode", "DELETE"));
        match folded {
            Err(error) if !is_damage(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether there is a database to be replaced.
    pub fn replaces(&self) -> bool {
        self.replace && self.lock.is_some()
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// Locks what is in the place, as a server does; `None` where nothing is.
fn keep_away(
    source: &Path,
    target: &Path,
    replace: bool,
) -> Result<Option<FileLock>, RestoreError> {
    let logs = ["-wal", "-journal"].map(|end| sibling(target, end));
    let is_there = target.exists() || logs.iter().any(|log| log.exists());
    if is_there && !replace {
        return Err(RestoreError::Exists {
            target: target.to_owned(),
            backup: source.to_owned(),
        });
    }
    if !target.exists() {
        return Ok(None);
    }
    let lock = FileLock::acquire(target, false).map_err(|error| match error {
        OpenError::InUse(path) => RestoreError::Serving(path),
        error => error.into(),
    })?;
    lock.content(target)?;
    Ok(Some(lock))
}

/// A token, of any schema version.
#[derive(Debug)]
struct Token {
    public_id: String,
    name: Option<String>,
    workspace: String,
    access: String,
    expires_at_ms: Option<i64>,
    revoked_at_ms: Option<i64>,
    is_replaced: bool,
}

impl Token {
    fn is_living(&self, now_ms: i64) -> bool {
        self.revoked_at_ms.is_none() && self.end_ms() > now_ms
    }

    fn end_ms(&self) -> i64 {
        self.expires_at_ms.unwrap_or(i64::MAX)
    }
}

fn tokens(connection: &Connection) -> Result<Vec<Token>, StoreError> {
    // Since version 2.
    let has_successors = facts::columns(connection, "tokens")?.contains(&"replaced_by".to_owned());
    let replaced = if has_successors {
        "replaced_by IS NOT NULL"
    } else {
        "0"
    };
    let mut statement = connection.prepare(&format!(
        "SELECT public_id, tokens.name, workspaces.name, access, expires_at_ms, revoked_at_ms, {replaced}
         FROM tokens JOIN workspaces ON workspaces.id = workspace_id ORDER BY tokens.id"
    ))?;
    let rows = statement.query_map([], |row| {
        Ok(Token {
            public_id: row.get(0)?,
            name: row.get(1)?,
            workspace: row.get(2)?,
            access: row.get(3)?,
            expires_at_ms: row.get(4)?,
            revoked_at_ms: row.get(5)?,
            is_replaced: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The living ones among `tokens` that do not live, or not so long, in what was `known`.
fn revived(tokens: Vec<Token>, known: &HashMap<String, Token>) -> Vec<Revived> {
    let now_ms = now_ms();
    let was = |token: &Token| match known.get(&token.public_id) {
        None => Some(Was::Unknown),
        Some(before) if before.revoked_at_ms.is_some() => Some(Was::Revoked),
        Some(before) if before.is_replaced && !token.is_replaced => Some(Was::Replaced),
        Some(before) if before.end_ms() < token.end_ms() => Some(Was::Ended),
        Some(_) => None,
    };
    let living = tokens.into_iter().filter(|token| token.is_living(now_ms));
    let revived = living.filter_map(|token| {
        Some(Revived {
            was: was(&token)?,
            public_id: token.public_id,
            name: token.name,
            workspace: token.workspace,
            access: token.access,
        })
    });
    revived.collect()
}

/// Whether a backup of this version is brought forward by the next `serve`.
pub fn is_older(version: u32) -> bool {
    version < schema::VERSION
}
