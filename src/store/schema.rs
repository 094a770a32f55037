//! Creates the database and brings it forward: embedded migrations, forward only, one transaction each.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::connection::PAGE_SIZE_BYTES;
use super::error::{OpenError, StoreError};
use super::shape;

/// Marks a SQLite file as ours: "csrv" in ASCII (<https://sqlite.org/pragma.html#pragma_application_id>).
pub(super) const APPLICATION_ID: u32 = 0x6373_7276;

/// Migration `n` (from 1) brings a file from schema version `n - 1` to `n`. Never edit one that was released.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_isolation.sql"),
    include_str!("../../migrations/0003_operation.sql"),
];

/// The schema version this program works with.
pub const VERSION: u32 = MIGRATIONS.len() as u32;

/// Brings the database to [`VERSION`] and into write-ahead mode. `path` is for the messages.
///
/// The first migration runs before write-ahead mode is on, so that the header of a new file says what
/// it is from its first byte on: a crash leaves an empty file or a cachesrv database, nothing between.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    migrate_to(connection, path, VERSION)
}

/// The same, to an earlier version: how a file of that version came to be.
pub(super) fn migrate_to(
    connection: &mut Connection,
    path: &Path,
    target: u32,
) -> Result<(), OpenError> {
    let fail = |error| open_error(path, error);
    let mut version = version(connection).map_err(fail)?;
    if version > VERSION {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    if version > 0 {
        shape::check(connection, path, version)?;
    } else if !is_blank(connection).map_err(fail)? {
        // Marked as ours, without a version, and not empty: of nobody that we know.
        return Err(OpenError::NotOurs(path.to_owned()));
    }
    let mmap_size_bytes = unmap(connection).map_err(fail)?;
    for migration in &MIGRATIONS[version as usize..target.max(version) as usize] {
        version += 1;
        apply(connection, migration, version).map_err(fail)?;
    }
    connection
        .pragma_update(None, "mmap_size", mmap_size_bytes)
        .map_err(fail)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(fail)
}

/// Makes the schema of a version in a database that is nowhere but in memory.
pub(super) fn migrate_in_memory(connection: &mut Connection, target: u32) -> rusqlite::Result<()> {
    for (migration, version) in MIGRATIONS[..target as usize].iter().zip(1..) {
        apply(connection, migration, version)?;
    }
    Ok(())
}

/// Whether nothing was ever made in a database.
fn is_blank(connection: &Connection) -> rusqlite::Result<bool> {
    let mut any = connection.prepare("SELECT 1 FROM sqlite_schema")?;
    Ok(!any.exists([])?)
}

/// The schema version of an open database, its log included.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Turns the memory mapping off; how large it was. With a mapping SQLite lengthens the file by zeros
/// before it writes to it, and a new file whose header is zeros says nothing of what it is.
fn unmap(connection: &Connection) -> rusqlite::Result<i64> {
    let size_bytes = connection.pragma_query_value(None, "mmap_size", |row| row.get(0));
    connection.pragma_update(None, "mmap_size", 0)?;
    size_bytes
}

fn apply(connection: &mut Connection, migration: &str, version: u32) -> rusqlite::Result<()> {
    if version == 1 {
        // Must be set before the first page is written, and holds for the life of the file.
        connection.pragma_update(None, "page_size", PAGE_SIZE_BYTES as i64)?;
    }
    // Deferred, because `auto_vacuum` must be set before the first page is written, too; on its own it
    // would write that page, without the mark of ours. Nobody else writes: the file is locked.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    if version == 1 {
        transaction.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    transaction.execute_batch(migration)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// Words an error that SQLite reported while opening the file at `path`.
pub(super) fn open_error(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => OpenError::NotOurs(path),
        // The file can be written, or it would not have been locked: its directory cannot.
        Some(rusqlite::ErrorCode::ReadOnly) => OpenError::Io {
            action: "create a log beside",
            path,
            source: std::io::ErrorKind::PermissionDenied.into(),
        },
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => OpenError::Corrupt {
            path,
            message: error.to_string(),
        },
        _ => OpenError::Sqlite {
            path,
            source: StoreError::from(error),
        },
    }
}
