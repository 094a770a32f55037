//! Eviction by a command: the same plan as the server's, in short transactions beside a server at work. Where
//! there is none, what is hidden is freed, too, and the file shrunk, which is the server's to do otherwise.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::admin::Admin;
use super::cleaner::{self, Progress};
use super::connection::{self, PAGE_SIZE_BYTES, Synchronous};
use super::error::StoreError;
use super::eviction::{self, Course, Evicted, EvictionLimits, FilePages, Unfinished, Used};
use super::model::ScopeKind;
use super::now_ms;
use super::shrink::Due;
use super::space::Disk;

/// Entries hidden in one transaction: the server's writer waits for a few milliseconds at the most.
const BATCH_ROWS: usize = 250;

/// How long the write lock is left alone after each batch, at the least, and for as long as it was held (see
/// `purge`).
const PAUSE: Duration = Duration::from_millis(10);

/// What to do.
#[derive(Debug, Clone)]
pub struct Gc {
    /// What is kept.
    pub limits: EvictionLimits,
    /// Count only.
    pub dry_run: bool,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcStep {
    /// Entries are hidden, or counted.
    Evicting,
    /// What they occupied is freed.
    Freeing,
    /// The file is shrunk.
    Shrinking,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcProgress {
    /// What is being done.
    pub step: GcStep,
    /// How much of it is done; a measure, not a count.
    pub done: u64,
    /// The same, at its end.
    pub total: u64,
}

/// What there is, and what it takes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// By trusted entries.
    pub trusted: Used,
    /// By isolated entries.
    pub isolated: Used,
    /// What is hidden and not freed yet, in artifacts; what may still be read, too.
    pub condemned: u64,
    /// The file, in bytes.
    pub file_bytes: u64,
    /// What of it is free pages, in bytes.
    pub reusable_bytes: u64,
    /// What is free on its disk, in bytes.
    pub free_disk_bytes: u64,
}

impl Admin {
    /// Evicts what the limits let go, or counts it, with nothing for the disk where a server does that; `watch`
    /// hears of every step. `stop` ends it after the step that is being made.
    pub fn evict(
        &mut self,
        gc: &Gc,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(GcProgress),
    ) -> Result<Evicted, StoreError> {
        let is_alone = self.is_alone();
        let connection = &mut self.connection;
        let mut evicted = Evicted::default();
        // A server does it for the disk by itself: both at once would evict twice as much.
        let floor_bytes = if gc.dry_run || is_alone {
            gc.limits.min_free_disk_bytes
        } else {
            0
        };
        let disk = Disk::look(&database(connection), floor_bytes);
        let plan = eviction::plan(
            connection,
            &gc.limits,
            &disk,
            |_| false,
            Unfinished::default(),
            now_ms(),
        )?;
        let Some([mut isolated, mut trusted]) = plan else {
            return Ok(evicted);
        };
        if gc.dry_run {
            evicted.add(&eviction::count_all(connection, &mut isolated)?);
            trusted.follow(&isolated);
            evicted.add(&eviction::count_all(connection, &mut trusted)?);
            return Ok(evicted);
        }
        // A part that is lost when the power fails is evicted again: no batch waits for the disk.
        connection::set_synchronous(connection, Synchronous::Normal)?;
        let total = eviction::used(connection, ScopeKind::Trusted)?
            .sum
            .artifacts
            + eviction::used(connection, ScopeKind::Isolated)?
                .sum
                .artifacts;
        let mut watch = |evicted: &Evicted| {
            watch(GcProgress {
                step: GcStep::Evicting,
                done: evicted.total().artifacts,
                total,
            });
            !stop.load(Ordering::Relaxed)
        };
        evict_kind(connection, &mut isolated, &mut evicted, &mut watch)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(evicted);
        }
        trusted.follow(&isolated);
        evict_kind(connection, &mut trusted, &mut evicted, &mut watch)?;
        Ok(evicted)
    }

    /// Frees everything that is hidden and shrinks the file, where no server does it; whether it did. Only
    /// for who has the database alone: nobody may be reading. What lies on a malformed page stays. `stop` ends it
    /// early, and then it did not.
    pub fn free(
        &mut self,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(GcProgress),
    ) -> Result<bool, StoreError> {
        if !self.is_alone() {
            return Ok(false);
        }
        let is_told = || stop.load(Ordering::Relaxed);
        let connection = &mut self.connection;
        connection::set_synchronous(connection, Synchronous::Normal)?;
        let total = condemned(connection)?;
        let mut left = total;
        let kept = cleaner::Kept::default();
        loop {
            let damaged = kept.damaged_count();
            let cleaned = in_transaction(connection, |connection| {
                cleaner::clean(connection, i64::MAX, &kept)
            });
            match cleaned {
                Ok(Progress::Done) => break,
                Err(error) if kept.damaged_count() == damaged => return Err(error),
                _ => {}
            }
            left = left.min(condemned(connection)?);
            watch(GcProgress {
                step: GcStep::Freeing,
                done: total - left,
                total,
            });
            if is_told() {
                return Ok(false);
            }
        }
        shrink_all(connection, &is_told, watch)?;
        Ok(!is_told())
    }

    /// What there is, and what it takes.
    pub fn room(&self) -> Result<Room, StoreError> {
        let connection = &self.connection;
        let file = FilePages::of(connection)?;
        Ok(Room {
            trusted: eviction::used(connection, ScopeKind::Trusted)?,
            isolated: eviction::used(connection, ScopeKind::Isolated)?,
            condemned: condemned(connection)?,
            file_bytes: file.all * PAGE_SIZE_BYTES,
            reusable_bytes: file.free * PAGE_SIZE_BYTES,
            free_disk_bytes: Disk::look(&database(connection), 0).free_bytes,
        })
    }
}

/// Hides all that a course takes, by batches, until `watch` says no.
fn evict_kind(
    connection: &mut Connection,
    course: &mut Course,
    evicted: &mut Evicted,
    watch: &mut dyn FnMut(&Evicted) -> bool,
) -> Result<(), StoreError> {
    loop {
        let began = Instant::now();
        let some = in_transaction(connection, |connection| {
            eviction::evict_some(connection, course, BATCH_ROWS, now_ms())
        })?;
        thread::sleep(PAUSE.max(began.elapsed()));
        if some == Evicted::default() {
            return Ok(());
        }
        evicted.add(&some);
        if !watch(evicted) {
            return Ok(());
        }
    }
}

fn shrink_all(
    connection: &mut Connection,
    is_told: &dyn Fn() -> bool,
    watch: &mut dyn FnMut(GcProgress),
) -> Result<(), StoreError> {
    let before = FilePages::of(connection)?;
    // For the disk's sake the server does it.
    let disk = Disk::look(&database(connection), 0);
    let (mut now, mut due) = (before, Due::NONE);
    loop {
        due = Due::of(now, &disk, due);
        if due == Due::NONE || is_told() {
            return Ok(());
        }
        now = in_transaction(connection, |connection| due.step(connection))?;
        watch(GcProgress {
            step: GcStep::Shrinking,
            done: before.free.saturating_sub(now.free),
            total: before.free,
        });
    }
}

/// Runs `work` in a transaction.
fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// How many artifacts are hidden and not freed yet, by the index.
pub(super) const CONDEMNED: &str =
    "SELECT count(*) FROM artifacts WHERE state = 'condemned' AND state <> 'stored'";

fn condemned(connection: &Connection) -> Result<u64, StoreError> {
    let count: i64 = connection
        .prepare_cached(CONDEMNED)?
        .query_row([], |row| row.get(0))?;
    Ok(count as u64)
}

fn database(connection: &Connection) -> PathBuf {
    connection.path().map_or_else(PathBuf::new, PathBuf::from)
}
