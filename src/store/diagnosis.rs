//! What `doctor` asks: the file before SQLite sees it, the database as it is without migrating it, sums and
//! newest times that cost no walk, and a look at the pages that ends in time. And the probe: the few rows
//! that `doctor` stores through a running server and takes away again.
//!
//! Invariant: nothing here changes a row that is not a probe's.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::admin::Admin;
use super::error::{OpenError, StoreError};
use super::file::{self, Content};
use super::model::{Artifact, Condemned, WorkspaceId};
use super::{artifacts, chunks, now_ms, schema};

/// What an entry takes beside its bytes: its row, its keys, and what is left of its last page.
const ENTRY_BYTES: u64 = 512;

/// How many of the newest entries are read.
const ENTRIES_READ: usize = 20;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

/// No probe lives longer than this, milliseconds.
const PROBE_LIFE_MAX_MS: i64 = 10 * 60 * 1000;

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

/// The rows of one probe: all their names derive from one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeName(String);

impl ProbeName {
    const BEGIN: &str = "doctor-";
    const WORD_LENGTH: usize = 16;
    const ROLES: [&str; 3] = ["read", "write", "isolated"];
    const HASHES: [&str; 3] = ["trusted", "isolated", "refused"];

    /// The probe of this word: 16 of `a-z0-9`.
    pub fn new(word: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = word.len() == Self::WORD_LENGTH && word.bytes().all(is_plain);
        fits.then(|| Self(word.to_owned()))
    }

    /// The name of its isolated scope, with which all its names begin.
    pub fn scope(&self) -> String {
        format!("{}{}", Self::BEGIN, self.0)
    }

    /// The name of its token for `role`: read, write or isolated.
    pub fn token(&self, role: &str) -> String {
        format!("{}-{role}", self.scope())
    }

    /// The hash of its entry for `purpose`: trusted, isolated or refused.
    pub fn hash(&self, purpose: &str) -> String {
        format!("{}-{purpose}", self.scope())
    }

    /// The probe that a token of this name belongs to.
    fn of_token(name: &str) -> Option<Self> {
        let (word, role) = name.strip_prefix(Self::BEGIN)?.split_once('-')?;
        Self::new(word).filter(|_| Self::ROLES.contains(&role))
    }
}

/// Looks at the file at `path`. Only for processes that have no connection open (see [`file`]).
pub fn look_at_file(path: &Path) -> Result<FileLook, OpenError> {
    let io = |source| OpenError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
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
            return Ok(AsItIs::Older(0));
        }
        let admin = Self::connect_raw(path)?;
        // The header may be older than the log.
        let found = schema::version(&admin.connection).map_err(|e| schema::open_error(path, e))?;
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
            Ok((entries, bytes.saturating_add(entries * ENTRY_BYTES)))
        };
        let (trusted, trusted_bytes) =
            sum("SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM trusted_usage")?;
        let (isolated, isolated_bytes) =
            sum("SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM isolated_totals")?;
        Ok(StoredSums {
            trusted_bytes,
            isolated_bytes,
            entries: trusted + isolated,
        })
    }

    /// The size of the largest entry; `None` where there is none, or `time` did not suffice to find it.
    pub fn largest_entry_bytes(&self, time: Duration) -> Result<Option<u64>, StoreError> {
        let largest = self.in_time(time, |connection| {
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
            let said = self.in_time(left, |connection| {
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
            "SELECT id, size_bytes FROM artifacts WHERE state = 'stored' ORDER BY id DESC LIMIT ?1",
        )?;
        let newest = statement.query_map([ENTRIES_READ as i64], |row| {
            Ok(Artifact {
                id: row.get(0)?,
                size_bytes: row.get::<_, i64>(1)? as u64,
            })
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
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let deadline = Instant::now() + time;
        self.connection.progress_handler(
            STEPS_BETWEEN_LOOKS,
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

/// The probe.
impl Admin {
    /// Revokes the tokens of a probe.
    pub fn revoke_probe(
        &mut self,
        workspace: WorkspaceId,
        probe: &ProbeName,
    ) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for role in ProbeName::ROLES {
            transaction
                .prepare_cached(
                    "UPDATE tokens SET revoked_at_ms = ?3
                     WHERE workspace_id = ?1 AND name = ?2 AND revoked_at_ms IS NULL",
                )?
                .execute(params![workspace.0, probe.token(role), now_ms()])?;
        }
        Ok(transaction.commit()?)
    }

    /// Removes what a probe stored, its scope and its tokens, which must be dead.
    pub fn remove_probe(
        &mut self,
        workspace: WorkspaceId,
        probe: &ProbeName,
    ) -> Result<(), StoreError> {
        // SQLite would look through all artifacts for one that refers to a row that goes, under the write lock.
        // Nobody but the probe knows its tokens, and its entries are found by their keys.
        self.connection.pragma_update(None, "foreign_keys", false)?;
        let removed = self.remove_rows(workspace, probe);
        self.connection.pragma_update(None, "foreign_keys", true)?;
        removed
    }

    fn remove_rows(&mut self, workspace: WorkspaceId, probe: &ProbeName) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for purpose in ProbeName::HASHES {
            let hash = probe.hash(purpose);
            for id in entries_under(&transaction, workspace, &hash)? {
                artifacts::condemn(&transaction, id, Condemned::Purged)?;
                while !chunks::delete_some(&transaction, id)? {}
                artifacts::delete(&transaction, id)?;
            }
            // An upload that was cut: the server sweeps it away, and the next doctor the tokens.
            if is_uploading(&transaction, &hash)? {
                return Ok(transaction.commit()?);
            }
        }
        let scope = probe.scope();
        transaction.execute(
            "DELETE FROM isolated_usage WHERE entries = 0 AND scope_id IN
                 (SELECT id FROM scopes WHERE workspace_id = ?1 AND name = ?2)",
            params![workspace.0, scope],
        )?;
        transaction.execute(
            "DELETE FROM scopes WHERE workspace_id = ?1 AND name = ?2 AND kind = 'isolated'
             AND id NOT IN (SELECT scope_id FROM isolated_usage)",
            params![workspace.0, scope],
        )?;
        for role in ProbeName::ROLES {
            transaction.execute(
                "DELETE FROM tokens WHERE workspace_id = ?1 AND name = ?2
                 AND (revoked_at_ms IS NOT NULL OR expires_at_ms <= ?3)",
                params![workspace.0, probe.token(role), now_ms()],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// The probes of which a killed doctor left dead tokens behind.
    pub fn dead_probes(&self, workspace: WorkspaceId) -> Result<Vec<ProbeName>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name FROM tokens WHERE workspace_id = ?1 AND name GLOB 'doctor-*'
             AND expires_at_ms - created_at_ms <= ?2 AND expires_at_ms <= ?3",
        )?;
        let values = params![workspace.0, PROBE_LIFE_MAX_MS, now_ms()];
        let names = statement.query_map(values, |row| row.get::<_, String>(0))?;
        let mut probes: Vec<ProbeName> = Vec::new();
        for name in names {
            let probe = ProbeName::of_token(&name?);
            probes.extend(probe.filter(|probe| !probes.contains(probe)));
        }
        Ok(probes)
    }
}

/// The entries under a hash that nobody but a probe has, condemned ones too.
fn entries_under(
    connection: &Connection,
    workspace: WorkspaceId,
    hash: &str,
) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT artifacts.id FROM scopes CROSS JOIN artifacts ON scope_id = scopes.id
         WHERE workspace_id = ?1 AND hash = ?2 AND state = 'stored'
         UNION ALL
         SELECT artifacts.id FROM artifacts JOIN scopes ON scopes.id = scope_id
         WHERE workspace_id = ?1 AND hash = ?2 AND state = 'condemned' AND state <> 'stored'",
    )?;
    let ids = statement.query_map(params![workspace.0, hash], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn is_uploading(connection: &Connection, hash: &str) -> Result<bool, StoreError> {
    let sql =
        "SELECT 1 FROM artifacts WHERE state = 'uploading' AND state <> 'stored' AND hash = ?1";
    Ok(connection.prepare_cached(sql)?.exists([hash])?)
}
