//! Verifications under way: whoever presents a token that is being verified waits for that outcome
//! instead of running Argon2 again.
//!
//! The first to board leads, and his outcome is everybody's. A leader always lands, by a panic too, so
//! nobody waits for one who is gone.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::hash::{HashError, Verdict};
use super::memo::MemoKey;

/// What a verification comes to.
pub(super) type Outcome = Result<Verdict, HashError>;

/// All verifications under way: never more than there are requests.
#[derive(Default)]
pub(super) struct Flights {
    // Nothing panics while the lock is held, so a poisoned one is taken as it is.
    under_way: Mutex<HashMap<MemoKey, Arc<Flight>>>,
}

/// What one who asks for a verification has to do.
pub(super) enum Boarding<'f> {
    /// Nothing: it was settled in the meantime.
    Settled(Verdict),
    /// Verify, and land with the outcome.
    Leader(Leader<'f>),
    /// Wait for another's outcome.
    Follower(Arc<Flight>),
}

impl Flights {
    /// Joins the verification of `key`, or begins it unless `settled` knows its verdict.
    ///
    /// A leader tells the memo before he lands. So one who finds no flight here and then asks the memo,
    /// under the same lock, cannot have missed both.
    pub(super) fn board(
        &self,
        key: MemoKey,
        settled: impl FnOnce() -> Option<Verdict>,
    ) -> Boarding<'_> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.get(&key) {
            return Boarding::Follower(Arc::clone(flight));
        }
        if let Some(verdict) = settled() {
            return Boarding::Settled(verdict);
        }
        let flight = Arc::<Flight>::default();
        under_way.insert(key, Arc::clone(&flight));
        let outcome = Err(HashError::Abandoned);
        Boarding::Leader(Leader {
            flights: self,
            key,
            flight,
            outcome,
        })
    }
}

/// One verification under way.
#[derive(Default)]
pub(super) struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

impl Flight {
    /// Waits for the outcome, but not for ever.
    pub(super) fn outcome(&self, wait_max: Duration) -> Outcome {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, _) = self
            .landed
            .wait_timeout_while(outcome, wait_max, |outcome| outcome.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        outcome.unwrap_or(Err(HashError::Busy))
    }
}

/// The one who verifies. Lands when dropped, with `Abandoned` unless an outcome was given.
pub(super) struct Leader<'f> {
    flights: &'f Flights,
    key: MemoKey,
    flight: Arc<Flight>,
    outcome: Outcome,
}

impl Leader<'_> {
    /// Gives the outcome to all who wait for it.
    pub(super) fn land(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.flights
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
        *self
            .flight
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(self.outcome);
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
impl Flights {
    /// How many wait for the outcome of `key`.
    pub(super) fn followers(&self, key: &MemoKey) -> usize {
        let under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // One reference is the table's, one the leader's.
        under_way
            .get(key)
            .map_or(0, |flight| Arc::strong_count(flight).saturating_sub(2))
    }
}
