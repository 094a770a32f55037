//! What requests came to, by day, workspace and access: counted in memory, added to the database every few seconds,
//! and read by `stats`.
//!
//! Nobody waits for a count. A server that is killed loses those of the last seconds, one that stops loses none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::error::StoreError;
use super::model::{Access, WorkspaceId};
use super::now_ms;
use super::ticket::Weight;
use super::writer::Writer;

/// How often counts are added to the database.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Rows that wait in memory: a day of 4,096 workspaces with each access. While the database takes none, what would be
/// a further row is not counted.
const ROWS_MAX: usize = 16 * 1024;

/// How long rows are kept, in days.
pub const USAGE_DAYS_MAX: i64 = 400;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Counts of requests by tokens that were admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// GETs that were answered with an artifact, to its end.
    pub hits: u64,
    /// Bytes of those.
    pub hit_bytes: u64,
    /// GETs that were not, for whatever reason.
    pub misses: u64,
    /// PUTs that stored an artifact.
    pub stored: u64,
    /// Bytes of those.
    pub stored_bytes: u64,
    /// PUTs of a hash that was taken.
    pub conflicts: u64,
    /// Requests that the token was not allowed, or that did not fit.
    pub refused: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.hits += more.hits;
        self.hit_bytes += more.hit_bytes;
        self.misses += more.misses;
        self.stored += more.stored;
        self.stored_bytes += more.stored_bytes;
        self.conflicts += more.conflicts;
        self.refused += more.refused;
    }
}

/// The day of a moment, counted from 1970-01-01, UTC.
pub fn day_of(ms: i64) -> i64 {
    ms.div_euclid(DAY_MS)
}

/// Whose requests of which day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    day: i64,
    workspace: WorkspaceId,
    access: Access,
}

/// What is not in the database yet.
#[derive(Debug)]
pub(super) struct Counts {
    pending: Mutex<HashMap<Key, Usage>>,
    flushed: Mutex<Instant>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            pending: Mutex::default(),
            flushed: Mutex::new(Instant::now()),
        }
    }
}

impl Counts {
    /// Counts requests of this moment.
    pub fn add(&self, workspace: WorkspaceId, access: Access, usage: Usage) {
        let day = day_of(now_ms());
        let key = Key {
            day,
            workspace,
            access,
        };
        self.add_row(key, usage);
    }

    fn add_row(&self, key: Key, usage: Usage) {
        let mut pending = self.lock();
        let is_full = pending.len() >= ROWS_MAX;
        match pending.entry(key) {
            Entry::Occupied(mut row) => *row.get_mut() += usage,
            Entry::Vacant(row) if !is_full => {
                row.insert(usage);
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Adds what was counted to the database, if it is time to; tried again at the next tick where that fails.
    pub fn flush_if_due(&self, writer: &Writer, wait: Duration) {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        if flushed.elapsed() >= FLUSH_EVERY {
            *flushed = Instant::now();
            drop(flushed);
            self.flush(writer, wait);
        }
    }

    /// Adds what was counted to the database.
    pub fn flush(&self, writer: &Writer, wait: Duration) {
        let pending = std::mem::take(&mut *self.lock());
        if pending.is_empty() {
            return;
        }
        let rows: Vec<(Key, Usage)> = pending.into_iter().collect();
        let for_job = rows.clone();
        let ticket = writer.submit(Weight::Small(0), move |connection| {
            write(connection, &for_job)
        });
        // What failed is not in the database: the ticket is answered after the commit, or the job was not run.
        if ticket.wait(Instant::now() + wait).is_err() {
            for (key, usage) in rows {
                self.add_row(key, usage);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Usage>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(connection: &Connection, rows: &[(Key, Usage)]) -> Result<(), StoreError> {
    write_at(connection, rows, day_of(now_ms()))
}

fn write_at(connection: &Connection, rows: &[(Key, Usage)], today: i64) -> Result<(), StoreError> {
    let newest: Option<i64> = connection
        .prepare_cached("SELECT max(day) FROM usage_by_day")?
        .query_row([], |row| row.get(0))?;
    let mut add = connection.prepare_cached(
        "INSERT INTO usage_by_day (day, workspace_id, access, hits, hit_bytes, misses, stored, stored_bytes,
                                   conflicts, refused)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO UPDATE SET
             hits = hits + excluded.hits, hit_bytes = hit_bytes + excluded.hit_bytes,
             misses = misses + excluded.misses, stored = stored + excluded.stored,
             stored_bytes = stored_bytes + excluded.stored_bytes,
             conflicts = conflicts + excluded.conflicts, refused = refused + excluded.refused",
    )?;
    for (key, usage) in rows {
        add.execute(params![
            key.day,
            key.workspace.0,
            key.access.as_str(),
            usage.hits as i64,
            usage.hit_bytes as i64,
            usage.misses as i64,
            usage.stored as i64,
            usage.stored_bytes as i64,
            usage.conflicts as i64,
            usage.refused as i64,
        ])?;
    }
    // A clock that is far ahead for a moment must not make all of them old.
    let today = newest.map_or(today, |newest| today.min(newest));
    connection
        .prepare_cached("DELETE FROM usage_by_day WHERE day <= ?1")?
        .execute([today - USAGE_DAYS_MAX])?;
    Ok(())
}

/// What the tokens of one access in one workspace did on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayUsage {
    /// Counted from 1970-01-01, UTC.
    pub day: i64,
    /// The name of the workspace.
    pub workspace: String,
    /// What the tokens may do.
    pub access: Access,
    /// What they did.
    pub usage: Usage,
}

/// From this day on, oldest first; of one workspace, or of all.
pub(super) fn since(
    connection: &Connection,
    day: i64,
    workspace: Option<WorkspaceId>,
) -> Result<Vec<DayUsage>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT day, name, access, hits, hit_bytes, misses, stored, stored_bytes, conflicts, refused
         FROM usage_by_day JOIN workspaces ON workspaces.id = workspace_id
         WHERE day >= ?1 AND (?2 IS NULL OR workspace_id = ?2)
         ORDER BY day, workspace_id, access",
    )?;
    let mut rows = statement.query(params![day, workspace.map(|workspace| workspace.0)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let count = |at| row.get::<_, i64>(at).map(|count| count as u64);
        let access: String = row.get(2)?;
        // The schema allows no other word.
        let Some(access) = Access::parse(&access) else {
            continue;
        };
        found.push(DayUsage {
            day: row.get(0)?,
            workspace: row.get(1)?,
            access,
            usage: Usage {
                hits: count(3)?,
                hit_bytes: count(4)?,
                misses: count(5)?,
                stored: count(6)?,
                stored_bytes: count(7)?,
                conflicts: count(8)?,
                refused: count(9)?,
            },
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const USAGE: Usage = Usage {
        hits: 1,
        hit_bytes: 10,
        misses: 2,
        stored: 3,
        stored_bytes: 30,
        conflicts: 4,
        refused: 5,
    };

    fn row(day: i64, access: Access) -> Key {
        Key {
            day,
            workspace: WorkspaceId(1),
            access,
        }
    }

    /// A database with the schema of this program, and the writer on it.
    fn writer() -> (tempfile::TempDir, std::path::PathBuf, Writer) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.db");
        drop(crate::store::Admin::open_or_create(&path).unwrap());
        let writer = Writer::start(Connection::open(&path).unwrap(), &Arc::default()).unwrap();
        (directory, path, writer)
    }

    #[test]
    fn counts_of_several_flushes_add_up_by_day_and_access() {
        let (_directory, path, writer) = writer();
        let counts = Counts::default();
        let today = day_of(now_ms());
        for _ in 0..2 {
            counts.add_row(row(today, Access::Read), USAGE);
            counts.add_row(row(today, Access::Write), USAGE);
            counts.flush(&writer, Duration::from_mins(1));
        }
        counts.add_row(row(today - 1, Access::Read), USAGE);
        counts.flush(&writer, Duration::from_mins(1));
        drop(writer);
        let found = since(&Connection::open(&path).unwrap(), 0, None).unwrap();
        let mut twice = USAGE;
        twice += USAGE;
        let found: Vec<_> = found
            .iter()
            .map(|row| (row.day - today, row.access, row.usage))
            .collect();
        assert_eq!(
            found,
            [
                (-1, Access::Read, USAGE),
                (0, Access::Read, twice),
                (0, Access::Write, twice)
            ]
        );
    }

    #[test]
    fn what_could_not_be_written_is_counted_the_next_time() {
        let (_directory, path, writer) = writer();
        let counts = Counts::default();
        counts.add_row(row(day_of(now_ms()), Access::Read), USAGE);
        let blocker = Connection::open(&path).unwrap();
        blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
        counts.flush(&writer, Duration::from_mins(1));
        blocker.execute_batch("ROLLBACK").unwrap();
        assert_eq!(since(&blocker, 0, None).unwrap(), []);
        counts.flush(&writer, Duration::from_mins(1));
        assert_eq!(since(&blocker, 0, None).unwrap()[0].usage, USAGE);
    }

    #[test]
    fn days_go_when_they_are_old() {
        let (_directory, path, writer) = writer();
        let counts = Counts::default();
        let today = day_of(now_ms());
        for ago in [0, USAGE_DAYS_MAX - 1, USAGE_DAYS_MAX, USAGE_DAYS_MAX + 1] {
            counts.add_row(row(today - ago, Access::Read), USAGE);
        }
        counts.flush(&writer, Duration::from_mins(1));
        let found = since(&Connection::open(&path).unwrap(), 0, None).unwrap();
        let ages: Vec<_> = found.iter().map(|row| today - row.day).collect();
        assert_eq!(ages, [USAGE_DAYS_MAX - 1, 0]);
    }

    #[test]
    fn a_clock_that_is_far_ahead_for_one_flush_deletes_nothing() {
        let (_directory, path, writer) = writer();
        drop(writer);
        let connection = Connection::open(path).unwrap();
        let today = day_of(now_ms());
        let ahead = today + 2 * USAGE_DAYS_MAX;
        for day in [today - 1, today, ahead, today] {
            write_at(&connection, &[(row(day, Access::Read), USAGE)], day).unwrap();
        }
        let found = since(&connection, 0, None).unwrap();
        let days: Vec<_> = found.iter().map(|row| row.day - today).collect();
        assert_eq!(days, [-1, 0, 2 * USAGE_DAYS_MAX]);
    }

    #[test]
    fn memory_is_bounded_while_the_database_takes_nothing() {
        let counts = Counts::default();
        for day in 0..2 * ROWS_MAX as i64 {
            counts.add_row(row(day, Access::Read), USAGE);
            counts.add_row(row(0, Access::Read), USAGE);
        }
        assert_eq!(counts.lock().len(), ROWS_MAX);
        let first = counts.lock()[&row(0, Access::Read)];
        assert_eq!(first.hits, 2 * ROWS_MAX as u64 + 1);
    }
}
