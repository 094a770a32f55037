//! The one writer: a thread that owns the writing connection and runs everybody's jobs on it.
//!
//! Each commit takes every small job that waits, up to a bound, and at most one bulk job. So small
//! artifacts share the cost of a commit, no small one waits behind more than one bulk batch, and bulk
//! is never starved. The checkpointer may hold back bulk jobs, or pause the writer between two commits.
//!
//! Invariant: a job's ticket is answered only after the commit that holds its work, so what was
//! answered is stored. A job that fails is undone alone; a commit that fails takes all its jobs along.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::ticket::{Job, Task, Ticket, Weight};
use super::timing::{self, Timing};

/// Bytes of small jobs that one commit takes at the most; one more job may exceed it.
const GROUP_BYTES_MAX: u64 = 1024 * 1024;

/// Small jobs that one commit takes at the most.
const GROUP_JOBS_MAX: usize = 256;

/// A log of this length holds back bulk jobs, so that the checkpointer can catch up.
pub(super) const LOG_BULK_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// A log of this length holds back every job. Between the two, small jobs go on during a checkpoint.
pub(super) const LOG_BYTES_MAX: u64 = 252 * 1024 * 1024;

/// The handle that submits jobs. Dropping it runs what is queued and closes the connection.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the writer thread, the submitters and the checkpointer share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when the writer may have something to do.
    work: Condvar,
    /// Signalled when the writer has stopped between two commits.
    paused: Condvar,
    /// Bytes in the write-ahead log after the latest commit.
    log_bytes: AtomicU64,
    /// Bytes from which on the checkpointer wants to be woken.
    wake_at_bytes: AtomicU64,
    checkpointer: OnceLock<Thread>,
    /// Since when readers have kept the log from beginning anew.
    blocked_since: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Queue {
    small: VecDeque<Box<dyn Job>>,
    bulk: VecDeque<Box<dyn Job>>,
    /// What the checkpointer asks to leave in the queue.
    hold: Hold,
    /// The writer stands between two commits because everything is held.
    is_paused: bool,
    /// The store closes: what is queued no longer waits for the log to be folded.
    is_hurried: bool,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Hold {
    #[default]
    Nothing,
    Bulk,
    Everything,
}

impl Writer {
    /// Starts the thread on `connection`.
    pub fn start(connection: Connection, timing: &Arc<Timing>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            paused: Condvar::new(),
            log_bytes: AtomicU64::new(0),
            wake_at_bytes: AtomicU64::new(u64::MAX),
            checkpointer: OnceLock::new(),
            blocked_since: Mutex::default(),
        });
        let (for_thread, timing) = (Arc::clone(&shared), Arc::clone(timing));
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || run(&connection, &for_thread, &timing))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Queues `work`, to be run in a transaction; the ticket waits for its commit. The queue is bounded
    /// by what submitters hold: an upload has one job in flight, a housekeeper one.
    pub fn submit<T, W>(&self, weight: Weight, work: W) -> Ticket<T>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (task, ticket) = Task::new(weight, work);
        let mut queue = self.shared.lock();
        if queue.closed {
            drop(queue);
            task.finish(Err(StoreError::Closed));
            return ticket;
        }
        match weight {
            Weight::Small(_) => queue.small.push_back(task),
            Weight::Bulk => queue.bulk.push_back(task),
        }
        drop(queue);
        self.shared.work.notify_one();
        ticket
    }

    /// Whether bulk jobs wait.
    pub fn has_bulk(&self) -> bool {
        !self.shared.lock().bulk.is_empty()
    }

    /// What the checkpointer needs of the writer.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.paused.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panicked writer has closed its connection while unwinding; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A job that panics is caught in `run_group`, so the queue is whole whenever it is locked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in the write-ahead log after the latest commit of this process.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Whether the log has reached the length at which the checkpointer wants to be woken.
    pub fn log_is_long(&self) -> bool {
        self.log_bytes() >= self.wake_at_bytes.load(Ordering::Relaxed)
    }

    /// Names the thread to wake.
    pub fn set_checkpointer(&self, thread: Thread) {
        // There is one checkpointer for each writer, so the first name is the only one.
        let _ = self.checkpointer.set(thread);
    }

    /// Wakes the checkpointer when the log reaches `bytes`.
    pub fn wake_at(&self, bytes: u64) {
        self.wake_at_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Says that the next commit begins the log anew. Only while the writer is paused.
    pub fn log_begins_anew(&self) {
        self.log_bytes.store(0, Ordering::Relaxed);
    }

    /// Says whether the log could begin anew when that was last tried.
    pub fn note_try(&self, is_blocked: bool) {
        let mut since = self.blocked();
        *since = is_blocked.then(|| since.unwrap_or_else(Instant::now));
    }

    /// For how long readers have kept the log from beginning anew; not at all if they do not.
    pub fn blocked_for(&self) -> Option<Duration> {
        self.blocked().map(|since| since.elapsed())
    }

    fn blocked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.blocked_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note_log_bytes(&self, bytes: u64) {
        self.log_bytes.store(bytes, Ordering::Relaxed);
        if self.log_is_long()
            && let Some(checkpointer) = self.checkpointer.get()
        {
            checkpointer.unpark();
        }
    }

    /// Lets jobs run however long the log is: whoever keeps it from being folded must not hold up a stop.
    pub fn hurry(&self) {
        self.lock().is_hurried = true;
        self.work.notify_one();
    }

    /// Leaves bulk jobs in the queue, or takes them again.
    pub fn hold_bulk(&self, hold: bool) {
        self.lock().hold = if hold { Hold::Bulk } else { Hold::Nothing };
        self.work.notify_one();
    }

    /// Runs `quietly` while the writer stands between two commits.
    pub fn paused<T>(&self, quietly: impl FnOnce() -> T) -> T {
        let mut queue = self.lock();
        let held_before = std::mem::replace(&mut queue.hold, Hold::Everything);
        self.work.notify_one();
        while !queue.is_paused && !queue.closed {
            queue = self
                .paused
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        let result = quietly();
        self.lock().hold = held_before;
        self.work.notify_one();
        result
    }

    /// Waits for the next group of jobs; `None` once closed and empty.
    fn next_group(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut queue = self.lock();
        loop {
            if queue.hold == Hold::Everything && !queue.closed {
                queue.is_paused = true;
                self.paused.notify_all();
            } else {
                queue.is_paused = false;
                let group = queue.take_group(self.log_bytes());
                if !group.is_empty() {
                    return Some(group);
                }
                if queue.closed && queue.is_empty() {
                    return None;
                }
            }
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.bulk.is_empty()
    }

    /// Takes what the next commit shall hold. A closing store no longer waits for the checkpointer.
    fn take_group(&mut self, log_bytes: u64) -> Vec<Box<dyn Job>> {
        let mut group = Vec::new();
        let is_hurried = self.is_hurried || self.closed;
        if log_bytes >= LOG_BYTES_MAX && !is_hurried {
            return group;
        }
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX && group.len() < GROUP_JOBS_MAX {
            let Some(job) = self.small.pop_front() else {
                break;
            };
            bytes += job.weight_bytes();
            group.push(job);
        }
        let bulk_fits = self.hold == Hold::Nothing && log_bytes < LOG_BULK_BYTES_MAX;
        if bulk_fits || is_hurried {
            group.extend(self.bulk.pop_front());
        }
        group
    }
}

fn run(connection: &Connection, shared: &Shared, timing: &Timing) {
    connection.wal_hook(Some(log_length::note));
    while let Some(group) = shared.next_group() {
        run_group(connection, group, timing);
        if let Some(pages) = log_length::take() {
            shared.note_log_bytes(pages * PAGE_SIZE_BYTES);
        }
    }
    connection.wal_hook(None);
}

/// Runs `jobs` in one transaction and answers their tickets.
fn run_group(connection: &Connection, mut jobs: Vec<Box<dyn Job>>, timing: &Timing) {
    // Nobody waits any more for a job that was given up in the queue.
    jobs.retain(|job| job.claim());
    if jobs.is_empty() {
        return;
    }
    let outcomes = commit_group(connection, &mut jobs);
    for (index, job) in jobs.into_iter().enumerate() {
        let outcome = match &outcomes {
            Ok(each) => each[index].clone(),
            Err(error) => Err(error.clone()),
        };
        timing::tell(&timing.writes, job.submitted_at().elapsed());
        job.finish(outcome);
    }
}

/// The outcome of each job, or the error that all of them share.
fn commit_group(
    connection: &Connection,
    jobs: &mut [Box<dyn Job>],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    // What the group before did may be there still, if it could not be undone; nothing new may join it.
    undo(connection)?;
    execute(connection, "BEGIN IMMEDIATE")?;
    let outcomes = run_and_commit(connection, jobs);
    if outcomes.is_err() {
        // At once, or the next group would have to come first, and until then nobody else could write.
        let _ = undo(connection);
    }
    outcomes
}

/// Ends a transaction that is open without a trace of it.
fn undo(connection: &Connection) -> Result<(), StoreError> {
    if connection.is_autocommit() {
        return Ok(());
    }
    execute(connection, "ROLLBACK")
}

/// The same in a transaction, which is over only if this succeeds.
fn run_and_commit(
    connection: &Connection,
    jobs: &mut [Box<dyn Job>],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        let outcome = run_in_savepoint(connection, job.as_mut())?;
        if connection.is_autocommit() {
            // A full disk or an I/O error made SQLite roll the whole transaction back.
            return Err(outcome.err().unwrap_or(StoreError::Busy));
        }
        outcomes.push(outcome);
    }
    execute(connection, "COMMIT")?;
    Ok(outcomes)
}

/// The outcome of the job; an error of its own where what the job did could not be undone alone.
fn run_in_savepoint(
    connection: &Connection,
    job: &mut dyn Job,
) -> Result<Result<(), StoreError>, StoreError> {
    execute(connection, "SAVEPOINT job")?;
    let outcome = job.run(connection);
    if connection.is_autocommit() {
        return Ok(outcome);
    }
    if outcome.is_err() {
        execute(connection, "ROLLBACK TO job")?;
    }
    execute(connection, "RELEASE job")?;
    Ok(outcome)
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// The moment at which a caller who waits that long gives up.
pub(super) fn deadline(wait: Duration) -> Instant {
    Instant::now() + wait
}

/// The length of the log, as SQLite tells it after each commit to a plain function.
mod log_length {
    use std::cell::Cell;

    use rusqlite::hooks::Wal;

    thread_local! {
        /// Pages in the log after the latest commit of this thread.
        static PAGES: Cell<Option<u64>> = const { Cell::new(None) };
    }

    #[allow(clippy::unnecessary_wraps)] // the signature is rusqlite's
    pub fn note(_: &Wal, pages: std::ffi::c_int) -> rusqlite::Result<()> {
        PAGES.set(u64::try_from(pages).ok());
        Ok(())
    }

    /// The length that was noted since the last call.
    pub fn take() -> Option<u64> {
        PAGES.take()
    }
}
