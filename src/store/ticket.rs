//! A piece of work for the writer, and the ticket by which its submitter learns the outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::error::StoreError;

/// How much a job writes; decides which queue it waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// At most [`Weight::SMALL_BYTES_MAX`] bytes: shares a commit with others.
    Small(u64),
    /// More: one in each commit.
    Bulk,
}

impl Weight {
    /// What counts as small: twice the size of nearly all task outputs without bundles.
    pub const SMALL_BYTES_MAX: u64 = 128 * 1024;

    /// The weight of a job that writes `bytes`.
    pub fn of(bytes: u64) -> Self {
        if bytes <= Self::SMALL_BYTES_MAX {
            Self::Small(bytes)
        } else {
            Self::Bulk
        }
    }
}

/// How long one wait for a job that is running may take; it is waited for again. The answer comes with
/// the commit, or with the end of the writer.
const CLAIMED_WAIT: Duration = Duration::from_mins(1);

/// What the writer sees of a job.
pub(super) trait Job: Send {
    /// Bytes this job writes, roughly.
    fn weight_bytes(&self) -> u64;
    /// When it was handed to the writer.
    fn submitted_at(&self) -> Instant;
    /// Takes the job on, unless its submitter has given it up.
    fn claim(&self) -> bool;
    /// Does the work, once, inside a transaction. An error undoes it.
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError>;
    /// Answers the ticket, after the commit.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// A job that yields a `T`.
pub(super) struct Task<T, W> {
    weight: Weight,
    submitted_at: Instant,
    work: Option<W>,
    result: Option<T>,
    slot: Arc<Slot<T>>,
}

/// The submitter's end of a job.
pub(super) struct Ticket<T> {
    slot: Arc<Slot<T>>,
}

struct Slot<T> {
    state: Mutex<State<T>>,
    answered: Condvar,
}

enum State<T> {
    /// In the queue.
    Waiting,
    /// In the transaction that is running: its outcome will come.
    Claimed,
    /// Given up by the submitter while it was in the queue; it will not be run.
    Abandoned,
    Done(Result<T, StoreError>),
    /// The answer was given to the submitter.
    Taken,
}

impl<T, W> Task<T, W>
where
    T: Send + 'static,
    W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    pub fn new(weight: Weight, work: W) -> (Box<Self>, Ticket<T>) {
        let slot = Arc::new(Slot {
            state: Mutex::new(State::Waiting),
            answered: Condvar::new(),
        });
        let ticket = Ticket {
            slot: Arc::clone(&slot),
        };
        (
            Box::new(Self {
                weight,
                submitted_at: Instant::now(),
                work: Some(work),
                result: None,
                slot,
            }),
            ticket,
        )
    }
}

impl<T, W> Job for Task<T, W>
where
    T: Send + 'static,
    W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    fn weight_bytes(&self) -> u64 {
        match self.weight {
            Weight::Small(bytes) => bytes,
            Weight::Bulk => Weight::SMALL_BYTES_MAX,
        }
    }

    fn submitted_at(&self) -> Instant {
        self.submitted_at
    }

    fn claim(&self) -> bool {
        let mut state = self.slot.lock();
        let is_wanted = matches!(*state, State::Waiting);
        if is_wanted {
            *state = State::Claimed;
        }
        is_wanted
    }

    fn run(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let Some(work) = self.work.take() else {
            return Err(StoreError::Closed);
        };
        // A panic must cost the job, not the writer that everybody depends on.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(connection)));
        self.result = Some(outcome.unwrap_or_else(|_| Err(StoreError::panicked()))?);
        Ok(())
    }

    fn finish(mut self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.result.take()) {
            (Ok(()), Some(result)) => Ok(result),
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error),
        };
        self.slot.answer(answer);
    }
}

impl<T, W> Drop for Task<T, W> {
    /// A job that is dropped without an answer, by a writer that ended, must not leave anybody waiting.
    fn drop(&mut self) {
        if !matches!(*self.slot.lock(), State::Done(_) | State::Taken) {
            self.slot.answer(Err(StoreError::Closed));
        }
    }
}

impl<T> Slot<T> {
    fn answer(&self, answer: Result<T, StoreError>) {
        *self.lock() = State::Done(answer);
        self.answered.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Ticket<T> {
    /// Waits for the commit. A job that has not begun by `deadline` is given up and will not be run; one
    /// that has begun is waited for, so that the answer always says what happened.
    pub fn wait(self, deadline: Instant) -> Result<T, StoreError> {
        let mut state = self.slot.lock();
        loop {
            let left = match *state {
                State::Waiting => deadline.saturating_duration_since(Instant::now()),
                State::Claimed => CLAIMED_WAIT,
                State::Abandoned | State::Done(_) | State::Taken => break,
            };
            if left.is_zero() {
                *state = State::Abandoned;
                return Err(StoreError::Busy);
            }
            let woken = self.slot.answered.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(answer) => answer,
            State::Waiting | State::Claimed | State::Abandoned | State::Taken => {
                Err(StoreError::Closed)
            }
        }
    }
}
