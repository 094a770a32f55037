//! What can go wrong in the store, in its own words: callers branch on these, operators read the chain.
//!
//! SQLite's errors are told apart by code, never by text. Nothing here knows of HTTP.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::holders::server_of;

/// Why an operation on an open store failed. `Clone`, because the jobs of one commit share its fate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection or no turn within the wait.
    #[error("the database stayed busy for longer than the wait")]
    Busy,
    /// The disk, or the quota on it, has no room for what was to be written.
    #[error("the disk is full")]
    DiskFull,
    /// Stored bytes are not the bytes that were written.
    #[error("artifact {artifact_id}: chunk {sequence} is damaged or missing")]
    Damaged {
        /// The artifact's row id.
        artifact_id: i64,
        /// The place of the chunk in it, from 0.
        sequence: u32,
    },
    /// An upload was to be published before all of it was there: a mistake of the caller.
    #[error("the upload is not complete")]
    Incomplete,
    /// The store is being closed.
    #[error("the store is closing")]
    Closed,
    /// Anything else that SQLite reports.
    #[error("sqlite error {code}: {message}")]
    Sqlite {
        /// The extended result code, <https://sqlite.org/rescode.html>.
        code: i32,
        /// SQLite's text for it.
        message: String,
    },
}

impl StoreError {
    /// The error of a job whose code panicked: a mistake of ours, which must cost that job alone.
    pub(super) fn panicked() -> Self {
        Self::Sqlite {
            code: rusqlite::ffi::SQLITE_INTERNAL,
            message: "the job panicked".to_owned(),
        }
    }

    /// What the file says contradicts itself, and SQLite did not notice.
    pub(super) fn malformed(what: &str) -> Self {
        Self::Sqlite {
            code: rusqlite::ffi::SQLITE_CORRUPT,
            message: what.to_owned(),
        }
    }

    /// Rows came in another order than that of their ids, in which they were asked for. Whoever goes on behind the
    /// last one would go in circles.
    pub(super) fn out_of_order() -> Self {
        Self::malformed("rows are not in the order of their ids")
    }

    /// Whether it is what is in the file that cannot be read: malformed pages, a table that is not there, a
    /// value of a wrong kind. All that is left are the disk and the moment.
    pub fn is_fault_of_the_file(&self) -> bool {
        let is_of_statement =
            matches!(self, Self::Sqlite { code, .. } if *code == rusqlite::ffi::SQLITE_ERROR);
        self.is_corruption() || is_of_statement
    }

    /// Whether SQLite says that the file itself is malformed.
    pub(super) fn is_corruption(&self) -> bool {
        matches!(self, Self::Sqlite { code, .. } if code & 0xff == rusqlite::ffi::SQLITE_CORRUPT)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::SqliteFailure(cause, _) => match cause.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                ErrorCode::DiskFull => Self::DiskFull,
                _ => Self::Sqlite {
                    code: cause.extended_code,
                    message: error.to_string(),
                },
            },
            _ => Self::Sqlite {
                code: rusqlite::ffi::SQLITE_ERROR,
                message: error.to_string(),
            },
        }
    }
}

/// Why a database was not opened. A file that is not ours, or newer, is untouched.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path names a directory or a device.
    #[error("'{0}' is not a regular file, so it cannot be the database")]
    NotAFile(PathBuf),
    /// The file is not there, and this command does not make one.
    #[error("there is no database '{0}'")]
    Missing(PathBuf),
    /// The directory does not exist or does not let us create the file and its log.
    #[error("cannot {action} '{path}': {source}")]
    Io {
        /// What was tried: `create`, `open`, `lock`, …
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could write tokens or artifacts into the file.
    #[error("the database '{path}' may be written by others (mode {mode:04o})")]
    WritableByOthers {
        /// The database.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// SQLite keeps a log for each name, so what is written by one name is lost to the other, and the file with it.
    #[error(
        "the database '{0}' is one file with several names (hard links): used by two of them it would be damaged"
    )]
    SeveralNames(PathBuf),
    /// The log would be on another file system than the file, and go without it.
    #[error("the database '{0}' is mounted alone: its log, which must go with it, would not be")]
    MountedAlone(PathBuf),
    /// The file is no SQLite database, or one of another program.
    #[error("'{0}' is not a cachesrv database; it was left untouched")]
    NotOurs(PathBuf),
    /// The file has no byte in it.
    #[error("'{0}' is empty: a server makes a database of it when it starts")]
    Empty(PathBuf),
    /// The file was written by a newer version of this program.
    #[error(
        "the database '{path}' has schema version {found}, this cachesrv knows versions up to {known}; \
         it was left untouched"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The schema version in the file.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
    /// An older schema in use by a running server: migrating it now would pull the ground from under it.
    #[error("the database '{0}' has an older schema and is in use by a running cachesrv")]
    OlderInUse(PathBuf),
    /// Another server holds the file.
    #[error("the database '{}' is in use by another cachesrv server{}", .0.display(), by(.0))]
    InUse(PathBuf),
    /// SQLite finds the file damaged.
    #[error("the database '{path}' is damaged: {message}")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's text.
        message: String,
    },
    /// Its schema is not the one that the migrations make, or what holds for the whole file is another.
    #[error("the database '{path}' is not as cachesrv makes it: it {what}")]
    Altered {
        /// The database.
        path: PathBuf,
        /// The first difference, after "it ".
        what: String,
        /// A backup can read it: the tables are ours.
        is_readable: bool,
    },
    /// Anything else that SQLite reports while opening.
    #[error("cannot open the database '{path}': {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's error.
        source: StoreError,
    },
}

/// Which process that is, where the system tells.
fn by(path: &Path) -> String {
    server_of(path).map_or_else(String::new, |server| format!(": process {}", server.pid))
}

impl OpenError {
    /// Words what an open database reported while it was being prepared.
    pub(super) fn from_store(path: &Path, error: StoreError) -> Self {
        let path = path.to_owned();
        match error {
            error if error.is_corruption() => Self::Corrupt {
                path,
                message: error.to_string(),
            },
            source => Self::Sqlite { path, source },
        }
    }
}
