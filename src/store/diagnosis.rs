//! What `doctor` asks: the file before SQLite sees it, the database as it is without migrating it, sums and
//! newest times that cost no walk, and a look at the pages that ends in time. Reads only.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::admin::Admin;
use super::error::{OpenError, StoreError};
use super::file::{self, Content};
use super::model::ScopeKind;
use super::{artifacts, chunks, schema, shape};

/// What an entry takes beside its bytes: its row, its keys, and what is left of its last page.
const ENTRY_BYTES: u64 = 512;

/// How many of the newest entries are read.
const ENTRIES_READ: usize = 20;

/// Steps of SQLite's machine between two looks at the clock: some microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

/// The same while pages are checked: a step is a page of a table, with all that its rows have on others. A
/// thousand of them were 17 s of 3 GB.
const PAGES_BETWEEN_LOOKS: i32 = 1;

/// The file before SQLite has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLook {
    /// A server holds it.
    pub is_in_use: bool,
    /// What its header promises and the file does not have, in bytes.
    pub missing_bytes: u64,
    /// How long the log beside it is, in bytes.
    pub log_bytes: u64,
}

/// A database that was opened as it is.
pub enum AsItIs {
    /// Of this schema version.
    Ready(Box<Admin>),
    /// Of an earlier schema version, 0 for an empty file.
    Older(u32),
}

/// What is stored, with what the entries take beside their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoredSums {
    /// In all trusted scopes.
    pub trusted_bytes: u64,
    /// In all isolated scopes.
    pub isolated_bytes: u64,
    /// How many in both.
    pub entries: u64,
}

/// Something in the database that bears a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestTime {
    /// What it is, in words.
    pub what: String,
    /// Milliseconds since 1970 UTC.
    pub at_ms: i64,
}

/// Isolated scopes and what they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolatedUsage {
    /// The workspace.
    pub workspace: String,
    /// The scope; none for all isolated ones of the workspace together.
    pub scope: Option<String>,
    /// What they hold, in bytes.
    pub size_bytes: u64,
}

/// The newest backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastBackup {
    /// When it was finished, milliseconds since 1970 UTC.
    pub finished_at_ms: i64,
    /// Where it went.
    pub destination: String,
}

/// How the pages look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soundness {
    /// Nothing is wrong with what was looked at: all of it, or as much as there was time for.
    Sound {
        /// All of it.
        is_complete: bool,
    },
    /// Something is.
    Damaged(String),
}

/// Looks at the file at `path`. Only for processes that have no connection open (see [`file`]).
pub fn look_at_file(path: &Path) -> Result<FileLook, OpenError> {
    let io = |source| OpenError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(OpenError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(io)?;
    let log_bytes = std::fs::metadata(file::log_path(path)).map_or(0, |log| log.len());
    let content = file::content(&file, path)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    let promised_bytes = match content {
        // With a log the pages at the end may be there only.
        Content::Ours { .. } if log_bytes == 0 => file::promised_bytes(&file).map_err(io)?,
        Content::Ours { .. } | Content::Empty => 0,
    };
    let is_in_use = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    Ok(FileLook {
        is_in_use,
        missing_bytes: promised_bytes.saturating_sub(file_bytes),
        log_bytes,
    })
}

impl Admin {
    /// Opens the database at `path` without bringing it forward.
    pub fn open_as_it_is(path: &Path) -> Result<AsItIs, OpenError> {
        if file::inspect(path)? == Content::Empty {
            return Err(OpenError::Empty(path.to_owned()));
        }
        let admin = Self::connect_raw(path)?;
        // The header may be older than the log.
        let found = schema::version(&admin.connection).map_err(|e| schema::open_error(path, e))?;
        if (1..=schema::VERSION).contains(&found) {
            shape::check(&admin.connection, path, found)?;
        }
        match found {
            schema::VERSION => Ok(AsItIs::Ready(Box::new(admin))),
            0..schema::VERSION => Ok(AsItIs::Older(found)),
            _ => Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: schema::VERSION,
            }),
        }
    }

    /// What is stored, by the counters.
    pub fn stored_sums(&self) -> Result<StoredSums, StoreError> {
        let sum = |sql: &str| -> Result<(u64, u64), StoreError> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let (entries, bytes) = statement.query_row([], |row| {
                Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
            })?;
            let rows_bytes = entries.saturating_mul(ENTRY_BYTES);
            Ok((entries, bytes.saturating_add(rows_bytes)))
        };
        let (trusted, trusted_bytes) =
            sum("SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM trusted_usage")?;
        let (isolated, isolated_bytes) =
            sum("SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM isolated_totals")?;
        Ok(StoredSums {
            trusted_bytes,
            isolated_bytes,
            entries: trusted.saturating_add(isolated),
        })
    }

    /// The size of the largest entry; `None` where there is none, or `time` did not suffice to find it.
    pub fn largest_entry_bytes(&self, time: Duration) -> Result<Option<u64>, StoreError> {
        let largest = self.in_time(time, STEPS_BETWEEN_LOOKS, |connection| {
            let sql = "SELECT max(size_bytes) FROM artifacts WHERE state = 'stored'";
            connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
        })?;
        Ok(largest.flatten().map(|bytes| bytes as u64))
    }

    /// The workspaces whose isolated scopes hold more than `workspace_bytes` together, and the isolated scopes
    /// that hold more than `scope_bytes`; the largest first, a few of each.
    pub fn isolated_above(
        &self,
        workspace_bytes: u64,
        scope_bytes: u64,
    ) -> Result<Vec<IsolatedUsage>, StoreError> {
        let workspaces = "SELECT name, NULL, size_bytes FROM isolated_totals
                          JOIN workspaces ON workspaces.id = workspace_id
                          WHERE size_bytes > ?1 ORDER BY size_bytes DESC LIMIT 5";
        let scopes = "SELECT workspaces.name, scopes.name, size_bytes FROM isolated_usage
                      JOIN scopes ON scopes.id = scope_id JOIN workspaces ON workspaces.id = scopes.workspace_id
                      WHERE size_bytes > ?1 ORDER BY size_bytes DESC LIMIT 5";
        let mut above = Vec::new();
        for (sql, bytes) in [(workspaces, workspace_bytes), (scopes, scope_bytes)] {
            let mut statement = self.connection.prepare_cached(sql)?;
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            let rows = statement.query_map([bytes], |row| {
                Ok(IsolatedUsage {
                    workspace: row.get(0)?,
                    scope: row.get(1)?,
                    size_bytes: row.get::<_, i64>(2)? as u64,
                })
            })?;
            above.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
        }
        Ok(above)
    }

    /// What bears the latest time of all that is stored.
    pub fn newest_time(&self) -> Result<Option<NewestTime>, StoreError> {
        // Each branch is one step in an index, or a pass over few rows.
        let newest = self
            .connection
            .prepare_cached(
                "SELECT what, at_ms FROM (
                 SELECT * FROM (SELECT 'the last read of ' || hash AS what, read_at_ms AS at_ms FROM artifacts
                    WHERE is_isolated = 0 AND state = 'stored' ORDER BY read_at_ms DESC LIMIT 1) UNION ALL
                 SELECT * FROM (SELECT 'the last read of ' || hash, read_at_ms FROM artifacts
                    WHERE is_isolated = 1 AND state = 'stored' ORDER BY read_at_ms DESC LIMIT 1) UNION ALL
                 SELECT 'the making of token ' || public_id, created_at_ms FROM tokens UNION ALL
                 SELECT 'the last use of token ' || public_id, last_used_at_ms FROM tokens
                    WHERE last_used_at_ms IS NOT NULL UNION ALL
                 SELECT 'the backup ' || destination, finished_at_ms FROM backups)
                 ORDER BY at_ms DESC LIMIT 1",
            )?
            .query_row([], |row| {
                Ok(NewestTime {
                    what: row.get(0)?,
                    at_ms: row.get(1)?,
                })
            })
            .optional()?;
        Ok(newest)
    }

    /// The newest backup.
    pub fn last_backup(&self) -> Result<Option<LastBackup>, StoreError> {
        let backup = self
            .connection
            .prepare_cached(
                "SELECT finished_at_ms, destination FROM backups ORDER BY id DESC LIMIT 1",
            )?
            .query_row([], |row| {
                Ok(LastBackup {
                    finished_at_ms: row.get(0)?,
                    destination: row.get(1)?,
                })
            })
            .optional()?;
        Ok(backup)
    }

    /// Looks at the pages for `time` at the most, at those of small tables first, and at the first chunks of the
    /// newest entries.
    pub fn quick_look(&self, time: Duration) -> Result<Soundness, StoreError> {
        let outcome = self.look_at_pages(time);
        match outcome {
            Err(error) if error.is_corruption() => Ok(Soundness::Damaged(error.to_string())),
            Err(StoreError::Damaged {
                artifact_id,
                sequence,
            }) => Ok(Soundness::Damaged(format!(
                "chunk {sequence} of artifact {artifact_id} is damaged or missing"
            ))),
            outcome => outcome,
        }
    }

    fn look_at_pages(&self, time: Duration) -> Result<Soundness, StoreError> {
        self.read_newest()?;
        let deadline = Instant::now() + time;
        for table in self.tables()? {
            let left = deadline.saturating_duration_since(Instant::now());
            // The name comes from the schema of a file that may be damaged.
            let check = format!("PRAGMA quick_check('{}')", table.replace('\'', "''"));
            let said = self.in_time(left, PAGES_BETWEEN_LOOKS, |connection| {
                connection.query_row(&check, [], |row| row.get::<_, String>(0))
            })?;
            match said {
                None => return Ok(Soundness::Sound { is_complete: false }),
                Some(said) if said != "ok" => {
                    return Ok(Soundness::Damaged(format!("table {table}: {said}")));
                }
                Some(_) => {}
            }
        }
        Ok(Soundness::Sound { is_complete: true })
    }

    /// The large tables last.
    fn tables(&self) -> Result<Vec<String>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY name = 'chunks', name = 'artifacts', name",
        )?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    }

    /// Reads the first chunk of each of the newest entries, in one snapshot, so that none goes meanwhile.
    fn read_newest(&self) -> Result<(), StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        let mut statement = snapshot.prepare_cached(
            "SELECT id, size_bytes, created_at_ms, read_at_ms FROM artifacts
             WHERE state = 'stored' ORDER BY id DESC LIMIT ?1",
        )?;
        let newest = statement.query_map([ENTRIES_READ as i64], |row| {
            artifacts::from_row(row, ScopeKind::Trusted)
        })?;
        let mut buffer = vec![0; chunks::CHUNK_BYTES];
        for artifact in newest {
            let artifact = artifact?;
            if artifact.size_bytes > 0 {
                let first = &mut buffer[..artifact.chunk_bytes(0)];
                chunks::read(&snapshot, artifact.id, 0, first)?;
            }
        }
        Ok(())
    }

    /// What `work` yields; `None` where `time` did not suffice.
    fn in_time<T>(
        &self,
        time: Duration,
        steps_between_looks: i32,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let deadline = Instant::now() + time;
        self.connection.progress_handler(
            steps_between_looks,
            Some(move || Instant::now() >= deadline),
        )?;
        let outcome = work(&self.connection);
        self.connection.progress_handler(0, None::<fn() -> bool>)?;
        match outcome {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Ok(None)
            }
            outcome => Ok(Some(outcome?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_in_time_and_says_whether_it_saw_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let admin = Admin::open_or_create(&dir.path().join("x.db")).expect("a database");
        for (time, is_complete) in [(Duration::ZERO, false), (Duration::from_hours(1), true)] {
            let look = admin.quick_look(time).expect("a look");
            assert_eq!(look, Soundness::Sound { is_complete });
        }
        let largest = admin.largest_entry_bytes(Duration::from_hours(1));
        assert_eq!(largest, Ok(None));
    }
}
