//! What the database and its disk come to at this moment, for metrics, `/readyz` and `stats`: sums that are kept, never
//! counted here.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::model::{ScopeKind, WorkspaceId};
use super::purge::Sum;
use super::reader::Reader;
use super::usage::{self, DayUsage};
use super::{Admin, Store, tokens};

/// What is stored, and what became of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// What all scopes of each kind hold.
    pub held: Held,
    /// What eviction took since the database was made.
    pub evicted: Vec<EvictionSum>,
    /// The length of the database file.
    pub file_bytes: u64,
    /// How much of it holds nothing and is written again first.
    pub reusable_bytes: u64,
    /// When the latest backup was finished, milliseconds since 1970 UTC.
    pub backup_at_ms: Option<i64>,
}

/// Entries and their bytes by the kind of their scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// In trusted scopes.
    pub trusted: Sum,
    /// In isolated ones.
    pub isolated: Sum,
}

/// What eviction took for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionSum {
    /// From which kind of scope.
    pub kind: ScopeKind,
    /// The word for why: `size`, `age` or `disk`.
    pub reason: String,
    /// How much.
    pub sum: Sum,
}

impl Reader {
    /// What the database comes to in this snapshot.
    pub fn figures(&self) -> Result<Figures, StoreError> {
        let connection = self.connection();
        let pages = |pragma: &str| -> Result<u64, StoreError> {
            let count: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
            Ok(count as u64 * PAGE_SIZE_BYTES)
        };
        Ok(Figures {
            held: held(connection, None)?,
            evicted: evicted(connection, 0)?,
            file_bytes: pages("page_count")?,
            reusable_bytes: pages("freelist_count")?,
            backup_at_ms: connection
                .prepare_cached("SELECT finished_at_ms FROM backups ORDER BY id DESC LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?,
        })
    }
}

impl Store {
    /// Reads a row, waiting for a connection until `deadline`: whether the database answers.
    pub fn answers(&self, deadline: Instant) -> Result<(), StoreError> {
        let reader = self.reader(deadline)?;
        tokens::any_live(reader.connection()).map(drop)
    }

    /// The length of the write-ahead log beside the file.
    pub fn log_file_bytes(&self) -> u64 {
        std::fs::metadata(&self.log_path).map_or(0, |log| log.len())
    }

    /// For how long somebody who reads the database has kept the log from being folded.
    pub fn log_blocked_for(&self) -> Duration {
        let blocked_for = self.writer.shared().blocked_for();
        blocked_for.unwrap_or_default()
    }

    /// What is free on the disk of the database; as much as can be counted where the system does not say.
    pub fn free_disk_bytes(&self) -> u64 {
        self.space.free_bytes()
    }

    /// What can still be stored: what is free on the disk, and what of the file is written again first.
    pub fn room_bytes(&self) -> u64 {
        self.free_disk_bytes()
            .saturating_add(self.space.reusable_bytes())
    }
}

impl Admin {
    /// What requests came to from this day on, oldest first; of one workspace, or of all.
    pub fn usage_since(
        &self,
        day: i64,
        workspace: Option<WorkspaceId>,
    ) -> Result<Vec<DayUsage>, StoreError> {
        usage::since(&self.connection, day, workspace)
    }

    /// What the scopes hold, of one workspace or of all.
    pub fn held(&self, workspace: Option<WorkspaceId>) -> Result<Held, StoreError> {
        held(&self.connection, workspace)
    }

    /// What eviction took from this day on.
    pub fn evicted_since(&self, day: i64) -> Result<Vec<EvictionSum>, StoreError> {
        evicted(&self.connection, day)
    }
}

/// What the scopes hold, of one workspace or of all.
pub(super) fn held(
    connection: &Connection,
    workspace: Option<WorkspaceId>,
) -> Result<Held, StoreError> {
    let sum = |sql: &str| -> Result<Sum, StoreError> {
        let sum = connection.prepare_cached(sql)?.query_row(
            [workspace.map(|workspace| workspace.0)],
            |row| {
                Ok(Sum {
                    artifacts: row.get::<_, i64>(0)? as u64,
                    size_bytes: row.get::<_, i64>(1)? as u64,
                })
            },
        )?;
        Ok(sum)
    };
    Ok(Held {
        trusted: sum(
            "SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM trusted_usage
             WHERE ?1 IS NULL OR workspace_id = ?1",
        )?,
        isolated: sum(
            "SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM isolated_totals
             WHERE ?1 IS NULL OR workspace_id = ?1",
        )?,
    })
}

/// What eviction took from this day on, by kind and reason.
pub(super) fn evicted(connection: &Connection, day: i64) -> Result<Vec<EvictionSum>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT is_isolated, reason, sum(entries), sum(size_bytes) FROM evictions_by_day
         WHERE day >= ?1 GROUP BY is_isolated, reason",
    )?;
    let rows = statement.query_map([day], |row| {
        let is_isolated: bool = row.get(0)?;
        Ok(EvictionSum {
            kind: if is_isolated {
                ScopeKind::Isolated
            } else {
                ScopeKind::Trusted
            },
            reason: row.get(1)?,
            sum: Sum {
                artifacts: row.get::<_, i64>(2)? as u64,
                size_bytes: row.get::<_, i64>(3)? as u64,
            },
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
