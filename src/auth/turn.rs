//! Turns: of each token one verification at a time.
//!
//! One who holds a token's secret knows its pre-tag, and finds other secrets with the same one at his
//! leisure: each costs a run of Argon2. Those who present secrets for one id wait here for each other,
//! and only the one whose turn it is waits for a permit. Permits go to who came first, so before anybody
//! else's token at most one run of each such id is waited for, however many secrets were found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::permit::{Permit, Permits};
use super::token::PublicId;

/// The lanes of all tokens that are being verified: never more than there are requests.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<PublicId, Users>>);

/// A lane in the table, and how many there are in it.
struct Users {
    count: usize,
    turn: Arc<Permits>,
}

impl Turns {
    /// Enters the lane of this token.
    pub(super) fn enter(&self, id: PublicId) -> Lane<'_> {
        let mut lanes = self.lanes();
        let users = lanes.entry(id).or_insert_with(|| Users {
            count: 0,
            turn: Arc::new(Permits::new(1)),
        });
        users.count += 1;
        let turn = Arc::clone(&users.turn);
        Lane {
            turns: self,
            id,
            turn,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<PublicId, Users>> {
        // Nothing panics while the lock is held, so a poisoned one is taken as it is.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lane of one token; left when dropped, and gone with the last who leaves.
pub(super) struct Lane<'t> {
    turns: &'t Turns,
    id: PublicId,
    turn: Arc<Permits>,
}

impl Lane<'_> {
    /// Waits for the turn, behind all who came before; `None` when it did not come in time.
    pub(super) fn turn(&self, wait_max: Duration) -> Option<Permit<'_>> {
        self.turn.take(wait_max)
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let mut lanes = self.turns.lanes();
        if let Some(users) = lanes.get_mut(&self.id) {
            users.count -= 1;
            if users.count == 0 {
                lanes.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
impl Turns {
    /// How many wait for their turn in the lane of this token.
    pub(super) fn waiting(&self, id: PublicId) -> usize {
        self.lanes()
            .get(&id)
            .map_or(0, |users| users.turn.waiting())
    }

    /// How many lanes there are.
    pub(super) fn len(&self) -> usize {
        self.lanes().len()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::token;
    use super::*;

    fn id() -> PublicId {
        token::draw().expect("random bytes").0
    }

    #[test]
    fn a_token_has_one_turn_and_another_token_its_own() {
        let (turns, id) = (Turns::default(), id());
        let (first, second, other) = (turns.enter(id), turns.enter(id), turns.enter(self::id()));
        let turn = first.turn(Duration::ZERO).expect("nobody before");
        assert!(second.turn(Duration::ZERO).is_none());
        assert!(other.turn(Duration::ZERO).is_some());
        drop(turn);
        assert!(second.turn(Duration::ZERO).is_some());
    }

    #[test]
    fn a_lane_is_kept_for_those_in_it_and_gone_with_the_last() {
        let (turns, id) = (Turns::default(), id());
        let (first, second) = (turns.enter(id), turns.enter(id));
        let turn = second.turn(Duration::ZERO).expect("nobody before");
        drop(first);
        assert!(turns.enter(id).turn(Duration::ZERO).is_none());
        assert_eq!(turns.len(), 1);
        drop(turn);
        drop(second);
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn a_panic_gives_the_turn_back_and_leaves_the_lane() {
        let (turns, id) = (Turns::default(), id());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let lane = turns.enter(id);
            let _turn = lane.turn(Duration::ZERO).expect("nobody before");
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(turns.len(), 0);
        assert!(turns.enter(id).turn(Duration::ZERO).is_some());
    }
}
