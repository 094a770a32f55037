//! Eviction: which entries go, the least recently read first, and why.
//!
//! Plain functions over a connection, so that the housekeeper of a server and `gc` do the same: [`plan`] says
//! how far each kind must go, [`evict_some`] hides a few entries in the transaction at hand. The cleaner
//! frees them, and who is reading one of them gets all of it.
//!
//! Invariant: whether a trusted entry goes depends on trusted ones alone. Each kind has a budget and an age
//! of its own, and for the disk isolated entries go before any trusted one.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::artifacts;
use super::error::StoreError;
use super::model::{Condemned, Reason, ScopeKind};
use super::purge::Sum;
use super::space::Disk;

/// What an entry counts beside its bytes: its rows in the table and in four indexes, and its share of pages
/// that are not full.
const ENTRY_BYTES: u64 = 512;

/// Eviction of a budget begins above this part of it, in percent, before an upload meets a full one.
const BEGIN_PERCENT: u64 = 95;

/// Eviction of a budget ends at this part of it, in percent: seldom and in bulk rather than at each upload.
const END_PERCENT: u64 = 90;

/// Condemned artifacts that are added up at the most. If there are more, the cleaner is to free them first.
const CONDEMNED_ROWS_MAX: usize = 1000;

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub struct EvictionLimits {
    /// Of trusted entries, all workspaces together.
    pub trusted: Budget,
    /// Of isolated entries, all workspaces together.
    pub isolated: Budget,
    /// What stays free on the disk, in bytes.
    pub min_free_disk_bytes: u64,
}

/// What may be kept of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Their bytes, with what their rows take.
    pub max_bytes: u64,
    /// Since the last read.
    pub max_age: Duration,
}

impl Budget {
    /// What is left when eviction ends, in bytes. A single artifact must fit into it.
    pub fn end_bytes(&self) -> u64 {
        percent(self.max_bytes, END_PERCENT)
    }
}

impl EvictionLimits {
    /// The budget of a kind.
    pub fn of(&self, kind: ScopeKind) -> &Budget {
        match kind {
            ScopeKind::Trusted => &self.trusted,
            ScopeKind::Isolated => &self.isolated,
        }
    }
}

/// Without overflow for budgets that nobody set.
fn percent(bytes: u64, percent: u64) -> u64 {
    bytes / 100 * percent + bytes % 100 * percent / 100
}

/// What was evicted, by kind and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evicted([[Sum; 3]; 2]);

impl Evicted {
    const KINDS: [ScopeKind; 2] = [ScopeKind::Trusted, ScopeKind::Isolated];
    const REASONS: [Reason; 3] = [Reason::Size, Reason::Age, Reason::Disk];

    /// Each kind and reason for which something went.
    pub fn sums(&self) -> impl Iterator<Item = (ScopeKind, Reason, Sum)> {
        let all = Self::KINDS
            .into_iter()
            .flat_map(|kind| Self::REASONS.map(|reason| (kind, reason)));
        let sums = all.map(|(kind, reason)| (kind, reason, self.0[kind as usize][reason as usize]));
        sums.filter(|(_, _, sum)| sum.artifacts > 0)
    }

    /// All together.
    pub fn total(&self) -> Sum {
        let mut total = Sum::default();
        for (_, _, sum) in self.sums() {
            total.artifacts += sum.artifacts;
            total.size_bytes = total.size_bytes.saturating_add(sum.size_bytes);
        }
        total
    }

    /// Adds what another step evicted.
    pub(super) fn add(&mut self, other: &Self) {
        for (kind, reason, sum) in other.sums() {
            self.count(kind, reason, sum);
        }
    }

    fn count(&mut self, kind: ScopeKind, reason: Reason, more: Sum) {
        let sum = &mut self.0[kind as usize][reason as usize];
        sum.artifacts += more.artifacts;
        sum.size_bytes = sum.size_bytes.saturating_add(more.size_bytes);
    }
}

/// Which kinds are on their way down to [`END_PERCENT`] since an earlier plan, which was cut: trusted, isolated.
pub(super) type Unfinished = [bool; 2];

/// How far the eviction of one kind must go, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Course {
    kind: ScopeKind,
    /// What was read before then goes.
    until_ms: i64,
    /// As long as the kind takes more than this, the next one goes.
    keep_bytes: u64,
    /// What is still to go for the disk.
    disk_bytes: u64,
    /// The entry that was looked at last: its time and its id.
    after: (i64, i64),
}

/// Plans the eviction of each kind, isolated first; `None` where nothing has to go. What is condemned and
/// `held` is not about to be free. Of a kind that is `unfinished` a budget is evicted to its end, though it is
/// below where that begins.
pub(super) fn plan(
    connection: &Connection,
    limits: &EvictionLimits,
    disk: &Disk,
    held: impl Fn(i64) -> bool,
    unfinished: Unfinished,
    now_ms: i64,
) -> Result<Option<[Course; 2]>, StoreError> {
    let lack_bytes = lack_bytes(connection, disk, held)?;
    let course = |kind, disk_bytes| -> Result<Course, StoreError> {
        let budget = limits.of(kind);
        let over_percent = if unfinished[kind as usize] {
            END_PERCENT
        } else {
            BEGIN_PERCENT
        };
        let is_over = used(connection, kind)?.bytes() > percent(budget.max_bytes, over_percent);
        let age_ms = i64::try_from(budget.max_age.as_millis()).unwrap_or(i64::MAX);
        Ok(Course {
            kind,
            until_ms: now_ms.saturating_sub(age_ms),
            keep_bytes: if is_over {
                budget.end_bytes()
            } else {
                u64::MAX
            },
            disk_bytes,
            after: (i64::MIN, 0),
        })
    };
    let courses = [
        course(ScopeKind::Isolated, lack_bytes)?,
        course(ScopeKind::Trusted, 0)?,
    ];
    for mut course in courses {
        // What isolated entries do not yield for the disk, trusted ones must.
        course.disk_bytes = lack_bytes;
        if !course.next(connection, 1)?.is_empty() {
            return Ok(Some(courses));
        }
    }
    Ok(None)
}

/// What all entries of a kind take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// How many there are, and their bytes.
    pub sum: Sum,
}

impl Used {
    /// What counts against the budget.
    pub fn bytes(&self) -> u64 {
        // A counter may be damaged.
        let rows_bytes = self.sum.artifacts.saturating_mul(ENTRY_BYTES);
        self.sum.size_bytes.saturating_add(rows_bytes)
    }
}

/// What the entries of a kind take: a row for each workspace is read.
pub(super) fn used(connection: &Connection, kind: ScopeKind) -> Result<Used, StoreError> {
    let sql = match kind {
        ScopeKind::Trusted => {
            "SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM trusted_usage"
        }
        ScopeKind::Isolated => {
            "SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM isolated_totals"
        }
    };
    let sum = connection.prepare_cached(sql)?.query_row([], |row| {
        Ok(Sum {
            artifacts: row.get::<_, i64>(0)? as u64,
            size_bytes: row.get::<_, i64>(1)? as u64,
        })
    })?;
    Ok(Used { sum })
}

/// How many bytes must go so that the disk has what it must have. Nothing where all entries together would
/// not be enough: the disk is full of something else, and an empty cache would not mend that.
fn lack_bytes(
    connection: &Connection,
    disk: &Disk,
    held: impl Fn(i64) -> bool,
) -> Result<u64, StoreError> {
    let file = FilePages::of(connection)?;
    if disk.lack_bytes(file, 0) == 0 {
        return Ok(0);
    }
    let condemned_bytes = artifacts::condemned_bytes(connection, CONDEMNED_ROWS_MAX, held)?;
    let Some(condemned_bytes) = condemned_bytes else {
        return Ok(0);
    };
    let lack_bytes = disk.lack_bytes(file, condemned_bytes);
    let trusted_bytes = used(connection, ScopeKind::Trusted)?.sum.size_bytes;
    let isolated_bytes = used(connection, ScopeKind::Isolated)?.sum.size_bytes;
    let all_bytes = trusted_bytes.saturating_add(isolated_bytes);
    Ok(if lack_bytes <= all_bytes {
        lack_bytes
    } else {
        0
    })
}

/// The file as SQLite counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilePages {
    pub all: u64,
    pub free: u64,
}

impl FilePages {
    pub fn of(connection: &Connection) -> Result<Self, StoreError> {
        let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
        let (all, free): (i64, i64) = (number("page_count")?, number("freelist_count")?);
        Ok(Self {
            all: all as u64,
            free: free as u64,
        })
    }
}

/// An entry that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaving {
    id: i64,
    size_bytes: u64,
    reason: Reason,
}

/// By the index, from where the last look ended.
pub(super) const NEXT: &str = "SELECT id, size_bytes, read_at_ms FROM artifacts
    WHERE is_isolated = ?1 AND state = 'stored' AND (read_at_ms, id) > (?2, ?3)
    ORDER BY read_at_ms, id LIMIT ?4";

impl Course {
    /// What goes next, at most `rows_max` entries; none when the end is reached.
    fn next(
        &mut self,
        connection: &Connection,
        rows_max: usize,
    ) -> Result<Vec<Leaving>, StoreError> {
        let mut used_bytes = used(connection, self.kind)?.bytes();
        self.next_of(connection, rows_max, &mut used_bytes)
    }

    /// The same where the entries of the kind take `used_bytes`.
    fn next_of(
        &mut self,
        connection: &Connection,
        rows_max: usize,
        used_bytes: &mut u64,
    ) -> Result<Vec<Leaving>, StoreError> {
        let mut statement = connection.prepare_cached(NEXT)?;
        let mut rows = statement.query(params![
            self.kind == ScopeKind::Isolated,
            self.after.0,
            self.after.1,
            rows_max as i64
        ])?;
        let mut leaving = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, read_at_ms) = (row.get(0)?, row.get(2)?);
            let size_bytes = row.get::<_, i64>(1)? as u64;
            let Some(reason) = self.reason(read_at_ms, *used_bytes) else {
                break;
            };
            *used_bytes = used_bytes.saturating_sub(size_bytes.saturating_add(ENTRY_BYTES));
            self.disk_bytes = self.disk_bytes.saturating_sub(size_bytes);
            self.after = (read_at_ms, id);
            leaving.push(Leaving {
                id,
                size_bytes,
                reason,
            });
        }
        Ok(leaving)
    }

    /// Why an entry goes, if it does.
    fn reason(&self, read_at_ms: i64, used_bytes: u64) -> Option<Reason> {
        if read_at_ms < self.until_ms {
            Some(Reason::Age)
        } else if used_bytes > self.keep_bytes {
            Some(Reason::Size)
        } else if self.disk_bytes > 0 {
            Some(Reason::Disk)
        } else {
            None
        }
    }

    /// Notes whether a budget is over, so that a plan after one that was cut goes on to its end.
    pub fn note(&self, unfinished: &mut Unfinished) {
        unfinished[self.kind as usize] = self.keep_bytes < u64::MAX;
    }

    /// Notes that the course is at its end.
    pub fn note_end(&self, unfinished: &mut Unfinished) {
        unfinished[self.kind as usize] = false;
    }

    /// Lets this kind yield for the disk what the one before it did not.
    pub fn follow(&mut self, before: &Self) {
        self.disk_bytes = before.disk_bytes;
    }
}

/// Hides the next entries of a course, at most `rows_max`, in the transaction at hand; nothing at its end.
pub(super) fn evict_some(
    connection: &Connection,
    course: &mut Course,
    rows_max: usize,
    now_ms: i64,
) -> Result<Evicted, StoreError> {
    let mut evicted = Evicted::default();
    for leaving in course.next(connection, rows_max)? {
        if artifacts::condemn(connection, leaving.id, Condemned::Evicted(leaving.reason))? {
            leaving.count(course.kind, &mut evicted);
        }
    }
    note_day(connection, &evicted, now_ms)?;
    Ok(evicted)
}

/// Counts what [`evict_some`] would hide, all of it.
pub(super) fn count_all(
    connection: &Connection,
    course: &mut Course,
) -> Result<Evicted, StoreError> {
    let mut evicted = Evicted::default();
    let mut used_bytes = used(connection, course.kind)?.bytes();
    loop {
        let some = course.next_of(connection, COUNT_ROWS, &mut used_bytes)?;
        if some.is_empty() {
            return Ok(evicted);
        }
        for leaving in some {
            leaving.count(course.kind, &mut evicted);
        }
    }
}

/// Rows that one read counts: some milliseconds' worth, so that the log of a server can be folded.
const COUNT_ROWS: usize = 5_000;

impl Leaving {
    fn count(&self, kind: ScopeKind, evicted: &mut Evicted) {
        let sum = Sum {
            artifacts: 1,
            size_bytes: self.size_bytes,
        };
        evicted.count(kind, self.reason, sum);
    }
}

/// Adds to what was evicted on this day.
fn note_day(connection: &Connection, evicted: &Evicted, now_ms: i64) -> Result<(), StoreError> {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    for (kind, reason, sum) in evicted.sums() {
        connection
            .prepare_cached(
                "INSERT INTO evictions_by_day (day, is_isolated, reason, entries, size_bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (day, is_isolated, reason) DO UPDATE
                 SET entries = entries + excluded.entries, size_bytes = size_bytes + excluded.size_bytes",
            )?
            .execute(params![
                now_ms.div_euclid(DAY_MS),
                kind == ScopeKind::Isolated,
                reason.as_str(),
                sum.artifacts as i64,
                sum.size_bytes as i64
            ])?;
    }
    Ok(())
}
