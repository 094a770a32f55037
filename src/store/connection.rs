//! Opens connections: the one place that sets pragmas, each with its reason.
//!
//! Invariant: no connection of this program is used before [`configure`] was applied to it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// Bytes in a database page. 16 KiB reads as fast as plain files and writes small entries at a bearable
/// cost (design/storage.md, first two tables).
pub(super) const PAGE_SIZE_BYTES: u64 = 16 * 1024;

/// How much of the file is mapped into memory. SQLite lowers it to the limit it was compiled with
/// (just under 2 GiB as rusqlite builds it); what lies beyond is read with `pread`.
const MMAP_SIZE_BYTES: i64 = 1 << 40;

/// Private page cache of the writer: one bulk batch and the interior pages above it. Under load it takes twice
/// as much (heaptrack).
const WRITER_CACHE_KIB: i64 = 4 * 1024;

/// Private page cache of whoever writes a backup, in order and once.
const COPY_CACHE_KIB: i64 = 2 * 1024;

/// Private page cache of each reader: interior pages and the pages that are still in the log; mapped
/// pages do not go through it.
const READER_CACHE_KIB: i64 = 1024;

/// How long a statement waits for a lock of another process: admin commands are short.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long the log may become before a command folds it, in pages: 128 MiB.
const ADMIN_LOG_PAGES_MAX: u32 = 8192;

/// How many prepared statements a connection keeps: more than this program has.
const STATEMENTS_KEPT: usize = 64;

/// When a commit is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// A killed process loses nothing; a machine that loses power may lose the newest commits, never
    /// the consistency of the file.
    #[default]
    Normal,
    /// Every acknowledged commit survives a loss of power too.
    Full,
}

/// What the configuration says about connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile {
    pub synchronous: Synchronous,
    pub mmap: bool,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The server's one writer, or its checkpointer.
    Writer,
    /// One of the server's readers.
    Reader,
    /// A command beside the server: reads and writes, rarely and shortly.
    Admin,
    /// The new file that a backup is written into, of which nobody else knows.
    Copy,
}

impl Role {
    pub(super) fn flags(self) -> OpenFlags {
        // A connection is used by one thread at a time, so SQLite's own mutexes would only cost.
        let access = if self == Self::Reader {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        } else {
            OpenFlags::SQLITE_OPEN_READ_WRITE
        };
        access | OpenFlags::SQLITE_OPEN_NO_MUTEX
    }
}

/// Opens the database at `path`, which must exist.
pub(super) fn open(path: &Path, role: Role, profile: Profile) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, role.flags())?;
    configure(&mut connection, role, profile)?;
    Ok(connection)
}

/// Opens the empty file at `path` for a copy. A copy that is cut short is thrown away and a finished one is
/// synced as a whole, so nothing is written twice and nothing waits for the disk before its end.
pub(super) fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    let profile = Profile {
        synchronous: Synchronous::Normal,
        mmap: false,
    };
    // Without locks, which some network file systems have not.
    let mut connection =
        Connection::open_with_flags_and_vfs(path, Role::Copy.flags(), "unix-none")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "page_size", PAGE_SIZE_BYTES as i64)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // Before DEFENSIVE, which forbids it.
    connection.pragma_update(None, "journal_mode", "OFF")?;
    configure(&mut connection, Role::Copy, profile)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    // Tables are copied in any order; what refers to what is checked at the end.
    connection.pragma_update(None, "foreign_keys", false)?;
    Ok(connection)
}

/// Opens a database that nobody changes, and leaves nothing beside it.
pub(super) fn open_still(path: &Path) -> rusqlite::Result<Connection> {
    let profile = Profile {
        synchronous: Synchronous::Normal,
        mmap: false,
    };
    let mut uri = if path.is_absolute() {
        "file://"
    } else {
        "file:"
    }
    .to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.extend(format!("%{byte:02x}").chars());
        }
    }
    let flags = Role::Reader.flags() | OpenFlags::SQLITE_OPEN_URI;
    let mut connection = Connection::open_with_flags(uri + "?immutable=1", flags)?;
    configure(&mut connection, Role::Reader, profile)?;
    Ok(connection)
}

/// Sets everything that SQLite keeps for each connection.
pub(super) fn configure(
    connection: &mut Connection,
    role: Role,
    profile: Profile,
) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // A damaged or hostile file must not get code to run, nor its schema changed behind our back.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Finds damaged pages while they are parsed instead of believing them, wherever pages are changed.
    // Readers do without: it walks every cell of each page on the way, which doubled the cost of a
    // small GET among 20,000 artifacts (4.9 µs to 10.9 µs), and what they serve has its checksum.
    connection.pragma_update(None, "cell_size_check", role != Role::Reader)?;
    // References between tables are part of the schema, but SQLite asks each connection to hold them.
    connection.pragma_update(None, "foreign_keys", true)?;
    // Nothing of ours may land in a file that this program does not guard.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let mmap_size_bytes = if profile.mmap { MMAP_SIZE_BYTES } else { 0 };
    connection.pragma_update(None, "mmap_size", mmap_size_bytes)?;
    set_synchronous(connection, profile.synchronous)?;
    let cache_kib = match role {
        Role::Writer => WRITER_CACHE_KIB,
        Role::Copy => COPY_CACHE_KIB,
        Role::Reader | Role::Admin => READER_CACHE_KIB,
    };
    // Negative: KiB rather than pages.
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    match role {
        // The checkpointer folds the log; a request's commit must never have to (design/storage.md).
        Role::Writer => connection.pragma_update(None, "wal_autocheckpoint", 0)?,
        Role::Reader => connection.pragma_update(None, "query_only", true)?,
        // Beside a server its checkpointer folds the log long before that; without one a command that
        // writes much must do so itself.
        Role::Admin => {
            connection.pragma_update(None, "wal_autocheckpoint", ADMIN_LOG_PAGES_MAX)?;
        }
        Role::Copy => {}
    }
    Ok(())
}

/// Says when the commits of a connection are durable from now on.
pub(super) fn set_synchronous(
    connection: &Connection,
    synchronous: Synchronous,
) -> rusqlite::Result<()> {
    let word = match synchronous {
        Synchronous::Normal => "NORMAL",
        Synchronous::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", word)
}

/// Waits until the disk has what was committed before, where commits of this connection wait for it: makes a commit that
/// changes a page to what it is.
pub(super) fn write_through(connection: &Connection) -> rusqlite::Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "user_version", version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By effect, for each role: what a schema wants to run does not run, and what is SQLite's own is not written.
    #[test]
    fn a_schema_gets_no_code_to_run_and_cannot_be_written_behind_our_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        let hostile = "CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIEW v AS SELECT * FROM f; CREATE TABLE t (x);
            CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT fts3_tokenizer('simple'); END;
            CREATE VIEW l AS SELECT load_extension('x'); CREATE VIEW d AS SELECT * FROM dbstat";
        let careless = Connection::open(&path).expect("a database");
        careless.execute_batch(hostile).expect("a schema");
        let reads = |connection: &Connection, sql: &str| -> rusqlite::Result<()> {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        };
        reads(&careless, "SELECT * FROM v").expect("SQLite trusts a schema by default");
        careless
            .execute_batch("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql; INSERT INTO f_data VALUES (77, x'00')")
            .expect("and lets it be written");
        drop(careless);
        let profile = Profile {
            synchronous: Synchronous::Normal,
            mmap: true,
        };
        for role in [Role::Writer, Role::Reader, Role::Admin] {
            let connection = open(&path, role, profile).expect("a connection");
            // Nothing that SQLite brings with it depends on this one; it is for what it may bring some day.
            let trusts: bool = connection
                .pragma_query_value(None, "trusted_schema", |row| row.get(0))
                .expect("a pragma");
            assert!(!trusts, "{role:?}");
            for sql in ["SELECT * FROM l", "SELECT * FROM d"] {
                assert!(reads(&connection, sql).is_err(), "{role:?}: {sql}");
            }
            let written = connection.execute_batch("PRAGMA writable_schema = ON");
            assert_eq!(written, Ok(()), "it says nothing");
            for sql in [
                "UPDATE sqlite_schema SET sql = sql",
                "INSERT INTO f_data VALUES (78, x'00')",
                "INSERT INTO t VALUES (1)",
            ] {
                assert!(connection.execute_batch(sql).is_err(), "{role:?}: {sql}");
            }
        }
    }
}
