//! The thread that does what nobody waits for, a small step at a time: one chore after the other, every second.
//!
//! Each chore submits jobs of its own to the writer and bounds them; the housekeeper only says when.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::cleaner::{self, Kept, Leftovers, Progress};
use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::eviction::{self, Course, Evicted, EvictionLimits, FilePages, Unfinished};
use super::now_ms;
use super::observer::{Event, Observer};
use super::read_times::ReadTimes;
use super::shrink::Due;
use super::space::{Disk, Space};
use super::steady::Steady;
use super::ticket::Weight;
use super::usage::Counts;
use super::writer::{Writer, deadline};

/// How often there may be something to do.
const TICK: Duration = Duration::from_secs(1);

/// From one writing of read times to the next, in ticks; before each eviction they are written, too.
const READ_TIMES_TICKS: u64 = 5;

/// Entries that one job evicts at the most: each changes a page of the table and of two indexes.
const EVICTION_ROWS: usize = 128;

/// Jobs of eviction for each kind in one tick at the most: whoever stores small entries as fast as others go
/// must not keep everything else waiting. The next tick goes on.
const EVICTION_JOBS_MAX: usize = 64;

/// From one telling of what was evicted to the next, in ticks: what goes by its age goes one by one.
const TELL_TICKS: u64 = 60;

/// Steps by which the file is shrunk in one tick at the most, while no other bulk job waits: 128 MiB.
const SHRINK_STEPS_MAX: usize = 64;

/// How long a stop waits for a chore that must not be left undone, if it can be done at all.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What the chores work on.
pub(super) struct Chores {
    pub writer: Arc<Writer>,
    pub space: Arc<Space>,
    pub leftovers: Arc<Leftovers>,
    pub usage: Arc<Counts>,
    pub kept: Arc<Kept>,
    pub read_times: Arc<ReadTimes>,
    pub limits: EvictionLimits,
    pub observer: Observer,
}

/// What is remembered from one tick to the next.
struct State {
    steady: Steady,
    ticks: u64,
    /// What was evicted and not told yet, and the tick from which on it may be.
    untold: Evicted,
    tell_from: u64,
    /// Budgets whose eviction has begun and is not at its end, for it was cut or failed.
    unfinished: Unfinished,
    due: Due,
    /// What uploads wanted since the tick before, and were refused.
    wanted_bytes: u64,
    /// Eviction failed at the last try, which was told.
    is_failing: bool,
    /// So did cleaning.
    is_stuck: bool,
}

/// The thread; ends when dropped.
pub(super) struct Housekeeper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl State {
    fn new() -> Self {
        Self {
            steady: Steady::new(Instant::now(), now_ms()),
            ticks: 0,
            untold: Evicted::default(),
            tell_from: 0,
            unfinished: Unfinished::default(),
            due: Due::NONE,
            wanted_bytes: 0,
            is_failing: false,
            is_stuck: false,
        }
    }
}

impl Housekeeper {
    /// Starts the thread.
    pub fn start(chores: Chores) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let signal = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || {
                let mut state = State::new();
                while !signal.wait(TICK) {
                    chores.tick(&mut state, &signal);
                }
                chores.finish(&mut state);
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // What it left undone is found again at the next start.
            let _ = thread.join();
        }
    }
}

impl Chores {
    /// A tick of its own, which has nothing to remember; what was evicted.
    #[cfg(test)]
    pub fn tick_once(&self) -> Result<Evicted, StoreError> {
        let (mut state, stop) = (State::new(), Stop::default());
        self.evict_all(&mut state, &stop)?;
        let evicted = state.untold;
        self.tick(&mut state, &stop);
        Ok(evicted)
    }

    fn tick(&self, state: &mut State, stop: &Stop) {
        state.ticks += 1;
        self.leftovers.condemn(&self.writer, cleaner::WAIT);
        if state.ticks.is_multiple_of(READ_TIMES_TICKS) {
            // What could not be written stays for the next time.
            let _ = self.read_times.flush(&self.writer, cleaner::WAIT);
        }
        self.usage.flush_if_due(&self.writer, cleaner::WAIT);
        self.evict(state, stop);
        self.clean(state, stop);
        if let Ok(file) = self.run(Weight::Small(0), FilePages::of) {
            self.space.set_reusable_bytes(file.free * PAGE_SIZE_BYTES);
            self.shrink(file, state, stop);
        }
    }

    /// Frees what is hidden, and says so once where that cannot be done.
    fn clean(&self, state: &mut State, stop: &Stop) {
        let mut damage = None;
        let outcome = loop {
            let damaged = self.kept.damaged_count();
            match cleaner::clean_some(&self.writer, &self.kept) {
                Ok(Progress::Done) => break Ok(()),
                Err(error) if self.kept.damaged_count() > damaged => damage = Some(error),
                Err(error) => break Err(error),
                Ok(Progress::More) => {}
            }
            if stop.is_set() {
                break Ok(());
            }
        };
        let trouble = outcome.err().filter(|error| *error != StoreError::Closed);
        let is_told = std::mem::replace(&mut state.is_stuck, trouble.is_some());
        for error in trouble.filter(|_| !is_told).into_iter().chain(damage) {
            self.observer.tell(&Event::CleaningFailed(&error));
        }
    }

    /// Evicts what the limits let go, and says so.
    fn evict(&self, state: &mut State, stop: &Stop) {
        let outcome = self.evict_all(state, stop);
        if state.ticks >= state.tell_from && state.untold != Evicted::default() {
            self.tell(state);
            state.tell_from = state.ticks + TELL_TICKS;
        }
        let trouble = outcome.err().filter(|error| *error != StoreError::Closed);
        if let Some(error) = trouble.as_ref().filter(|_| !state.is_failing) {
            self.observer.tell(&Event::EvictionFailed(error));
        }
        state.is_failing = trouble.is_some();
    }

    fn tell(&self, state: &mut State) {
        for (kind, reason, sum) in std::mem::take(&mut state.untold).sums() {
            self.observer.tell(&Event::Evicted(kind, reason, sum));
        }
    }

    fn evict_all(&self, state: &mut State, stop: &Stop) -> Result<(), StoreError> {
        let disk = self.space.take_wants();
        state.wanted_bytes = disk.wanted_bytes;
        let steady_for = state.steady.look(Instant::now(), now_ms());
        let limits = self.limits.when_steady_for(steady_for);
        let unfinished = state.unfinished;
        let plan = || {
            let kept = Arc::clone(&self.kept);
            move |connection: &Connection| {
                let held = |id| kept.holds(id);
                eviction::plan(connection, &limits, &disk, held, unfinished, now_ms())
            }
        };
        if self.run(Weight::Small(0), plan())?.is_none() {
            state.unfinished = Unfinished::default();
            return Ok(());
        }
        // The order is to be that of now.
        self.read_times.flush(&self.writer, cleaner::WAIT)?;
        let Some([mut isolated, mut trusted]) = self.run(Weight::Small(0), plan())? else {
            return Ok(());
        };
        for course in [&isolated, &trusted] {
            course.note(&mut state.unfinished);
        }
        if self.evict_kind(&mut isolated, state, stop)? {
            trusted.follow(&isolated);
        }
        self.evict_kind(&mut trusted, state, stop)?;
        Ok(())
    }

    /// One batch a job, so that others take turns with it; whether the course is at its end.
    fn evict_kind(
        &self,
        course: &mut Course,
        state: &mut State,
        stop: &Stop,
    ) -> Result<bool, StoreError> {
        for _ in 0..EVICTION_JOBS_MAX {
            if stop.is_set() {
                return Ok(false);
            }
            let mut next = *course;
            let (after, some) = self.run(Weight::Bulk, move |connection| {
                let some = eviction::evict_some(connection, &mut next, EVICTION_ROWS, now_ms())?;
                Ok((next, some))
            })?;
            *course = after;
            if some == Evicted::default() {
                course.note_end(&mut state.unfinished);
                return Ok(true);
            }
            state.untold.add(&some);
        }
        Ok(false)
    }

    /// Gives free pages back to the disk: a step in each tick, more while nobody waits.
    fn shrink(&self, mut file: FilePages, state: &mut State, stop: &Stop) {
        for _ in 0..SHRINK_STEPS_MAX {
            let disk = Disk {
                wanted_bytes: state.wanted_bytes,
                ..self.space.disk()
            };
            state.due = Due::of(file, &disk, state.due);
            if state.due == Due::NONE || stop.is_set() {
                break;
            }
            let due = state.due;
            // A disk without room for the log is tried again at the next tick.
            let Ok(after) = self.run(Weight::Bulk, move |connection| due.step(connection)) else {
                break;
            };
            file = after;
            if self.writer.has_bulk() {
                break;
            }
        }
    }

    /// Runs `work` on the writer and waits for its commit.
    fn run<T, W>(&self, weight: Weight, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.writer
            .submit(weight, work)
            .wait(deadline(cleaner::WAIT))
    }

    /// What must not be lost when the server stops.
    fn finish(&self, state: &mut State) {
        self.tell(state);
        self.leftovers.condemn(&self.writer, STOP_WAIT);
        self.usage.flush(&self.writer, STOP_WAIT);
        let _ = self.read_times.flush(&self.writer, STOP_WAIT);
    }
}

impl Stop {
    fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time` or for the stop; whether it is set.
    fn wait(&self, time: Duration) -> bool {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(is_set, time, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
