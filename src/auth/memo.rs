//! The memo of verified tokens: what Argon2 found once, it need not find again.
//!
//! A verdict follows from id, secret and stored hash alone, so it is kept under an HMAC of the three and
//! is true for as long as it is kept: a changed hash is another key. The HMAC's own key is drawn when
//! the process starts, so a dump of the memo is worth nothing elsewhere, and the time a look-up takes
//! says nothing about a secret. Whether a token is alive is never remembered; the caller reads it anew.
//!
//! Right and wrong verdicts are kept apart, so that wrong secrets cannot push the right ones out.
//! Failures are not kept.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use rand::TryRng;
use rand::rngs::{SysError, SysRng};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::flight::{Boarding, Flights, Outcome};
use super::hash::{VERIFY_WAIT_MAX, Verdict};
use super::token::PresentedToken;

/// How many verified tokens are remembered; some 100 bytes each.
pub const MEMO_MAX_ENTRIES: usize = 4096;

/// How many wrong secrets are remembered that had the right pre-tag. Guessing finds none; the holder of
/// the right one can find more than any memo holds, and gets one run at a time for them (see `turn`).
const WRONG_MAX_ENTRIES: usize = 256;

/// Stands for one id, one secret and one stored hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MemoKey([u8; 32]);

/// The memo, and the verifications that will enter it.
pub(super) struct Memo {
    keyed: Hmac<Sha256>,
    right: KeySet,
    wrong: KeySet,
    upgraded: KeySet,
    flights: Flights,
}

impl Memo {
    pub(super) fn new() -> Result<Self, SysError> {
        Self::with_limit(MEMO_MAX_ENTRIES)
    }

    fn with_limit(max_entries: usize) -> Result<Self, SysError> {
        let mut process_key = Zeroizing::new([0; 64]);
        SysRng.try_fill_bytes(process_key.as_mut_slice())?;
        Ok(Self {
            keyed: Hmac::new(&(*process_key).into()),
            right: KeySet::new(max_entries),
            wrong: KeySet::new(WRONG_MAX_ENTRIES),
            upgraded: KeySet::new(max_entries),
            flights: Flights::default(),
        })
    }

    /// The key of a presented token against a stored hash.
    pub(super) fn key(&self, presented: &PresentedToken, phc: &str) -> MemoKey {
        let mut mac = self.keyed.clone();
        // Id and secret have fixed lengths, so no two triples read the same.
        mac.update(presented.public_id().as_str().as_bytes());
        mac.update(presented.secret().expose());
        mac.update(phc.as_bytes());
        MemoKey(mac.finalize().into_bytes().into())
    }

    /// The verdict, where it is known.
    pub(super) fn recall(&self, key: &MemoKey) -> Option<Verdict> {
        if self.right.contains(key) {
            Some(Verdict::Right)
        } else if self.wrong.contains(key) {
            Some(Verdict::Wrong)
        } else {
            None
        }
    }

    /// The verdict, for which `verify` is called unless it is known or being found out: once for any
    /// number of threads that ask at the same time.
    pub(super) fn settle(&self, key: MemoKey, verify: impl FnOnce() -> Outcome) -> Outcome {
        match self.flights.board(key, || self.recall(&key)) {
            Boarding::Settled(verdict) => Ok(verdict),
            Boarding::Follower(flight) => flight.outcome(VERIFY_WAIT_MAX),
            Boarding::Leader(leader) => {
                let outcome = verify();
                // Before landing: see `Flights::board`.
                self.remember(key, outcome);
                leader.land(outcome);
                outcome
            }
        }
    }

    /// Whether the caller is the first to upgrade the hash behind `key`, which was verified. Never true
    /// for a secret that was not: its hash would replace the right one.
    pub(super) fn claim_upgrade(&self, key: MemoKey) -> bool {
        self.right.contains(&key) && self.upgraded.insert(key)
    }

    /// Enters a verdict that was had without a verification.
    pub(super) fn remember(&self, key: MemoKey, outcome: Outcome) {
        match outcome {
            Ok(Verdict::Right) => self.right.insert(key),
            Ok(Verdict::Wrong) => self.wrong.insert(key),
            Err(_) => return,
        };
    }
}

/// A bounded set of keys that many threads read.
struct KeySet {
    // Nothing panics while the lock is held, so a poisoned one is taken as it is.
    generations: RwLock<Generations>,
}

impl KeySet {
    fn new(max_entries: usize) -> Self {
        let generation_max_entries = (max_entries / 2).max(1);
        let generations = Generations {
            generation_max_entries,
            ..Generations::default()
        };
        Self {
            generations: RwLock::new(generations),
        }
    }

    fn contains(&self, key: &MemoKey) -> bool {
        let generations = self
            .generations
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if generations.young.contains(key) {
            return true;
        }
        let is_old = generations.old.contains(key);
        drop(generations);
        if is_old {
            // At most once per generation: from now on it is found among the young.
            self.insert(*key);
        }
        is_old
    }

    /// Adds a key; whether it was not there before.
    fn insert(&self, key: MemoKey) -> bool {
        self.generations
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key)
    }
}

/// Keys in two generations. When the young are as many as one generation holds, they become the old
/// ones, and those who were old and not asked for since are forgotten: the cost of one insertion for
/// each insertion, and what is in use stays.
#[derive(Default)]
struct Generations {
    young: HashSet<MemoKey>,
    old: HashSet<MemoKey>,
    generation_max_entries: usize,
}

impl Generations {
    fn insert(&mut self, key: MemoKey) -> bool {
        let is_new = !self.old.remove(&key) && !self.young.contains(&key);
        if self.young.len() >= self.generation_max_entries {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
        is_new
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::super::hash::HashError;
    use super::super::token;
    use super::*;

    const PHC: &str = "$argon2id$v=19$m=8,t=1,p=1$salt$hash";

    fn memo() -> Memo {
        Memo::new().expect("random bytes")
    }

    fn presented() -> PresentedToken {
        let text = token::draw().expect("random bytes").2;
        PresentedToken::parse(text.expose().as_bytes()).expect("well-formed")
    }

    fn key(number: usize) -> MemoKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        MemoKey(key)
    }

    fn never() -> Outcome {
        panic!("verified although the verdict is known")
    }

    fn remembered(set: &KeySet) -> usize {
        set.generations.read().expect("not poisoned").len()
    }

    /// Lets `verify` go only when all 200 threads verify or wait for one who does. Returns how often
    /// anyone verified, and what each of the 200 came to.
    fn two_hundred_at_once(
        memo: &Memo,
        verify: fn() -> Outcome,
    ) -> (usize, Vec<thread::Result<Outcome>>) {
        let runs = AtomicUsize::new(0);
        let outcomes = thread::scope(|scope| {
            let settle = || {
                memo.settle(key(0), || {
                    runs.fetch_add(1, Ordering::SeqCst);
                    let all_are_here =
                        || runs.load(Ordering::SeqCst) + memo.flights.followers(&key(0)) == 200;
                    while !all_are_here() {
                        thread::yield_now();
                    }
                    verify()
                })
            };
            let threads: Vec<_> = (0..200).map(|_| scope.spawn(settle)).collect();
            threads
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect()
        });
        (runs.into_inner(), outcomes)
    }

    #[test]
    fn two_hundred_threads_with_the_right_secret_verify_once() {
        let (runs, outcomes) = two_hundred_at_once(&memo(), || Ok(Verdict::Right));
        assert_eq!(runs, 1);
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Ok(Ok(Verdict::Right))))
        );
    }

    #[test]
    fn two_hundred_threads_with_a_wrong_secret_verify_once() {
        let (runs, outcomes) = two_hundred_at_once(&memo(), || Ok(Verdict::Wrong));
        assert_eq!(runs, 1);
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Ok(Ok(Verdict::Wrong))))
        );
    }

    #[test]
    fn two_hundred_threads_share_one_failure_and_nobody_remembers_it() {
        let memo = memo();
        let (runs, outcomes) = two_hundred_at_once(&memo, || Err(HashError::Busy));
        assert_eq!(runs, 1);
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Ok(Err(HashError::Busy))))
        );
        assert_eq!(memo.recall(&key(0)), None);
        assert_eq!(
            memo.settle(key(0), || Ok(Verdict::Wrong)),
            Ok(Verdict::Wrong)
        );
    }

    #[test]
    fn a_panic_of_the_one_who_verifies_strands_nobody() {
        let memo = memo();
        let (runs, outcomes) = two_hundred_at_once(&memo, || panic!("on purpose"));
        assert_eq!(runs, 1);
        let panicked = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(panicked, 1);
        let abandoned =
            |outcome: &&thread::Result<_>| matches!(outcome, Ok(Err(HashError::Abandoned)));
        assert_eq!(outcomes.iter().filter(abandoned).count(), 199);
        assert_eq!(memo.recall(&key(0)), None);
        assert_eq!(
            memo.settle(key(0), || Ok(Verdict::Wrong)),
            Ok(Verdict::Wrong)
        );
    }

    #[test]
    fn the_verification_of_one_token_does_not_hold_up_another() {
        let memo = memo();
        let (go, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                memo.settle(key(1), move || {
                    wait.recv().expect("the other one is done");
                    Ok(Verdict::Right)
                })
            });
            assert_eq!(
                memo.settle(key(2), || Ok(Verdict::Wrong)),
                Ok(Verdict::Wrong)
            );
            go.send(()).expect("the first one waits");
            assert_eq!(first.join().expect("no panic"), Ok(Verdict::Right));
        });
    }

    #[test]
    fn a_known_verdict_is_not_verified_again() {
        let memo = memo();
        for (number, verdict) in [(1, Verdict::Right), (2, Verdict::Wrong)] {
            assert_eq!(memo.recall(&key(number)), None);
            assert_eq!(memo.settle(key(number), || Ok(verdict)), Ok(verdict));
            assert_eq!(memo.settle(key(number), never), Ok(verdict));
            assert_eq!(memo.recall(&key(number)), Some(verdict));
        }
    }

    #[test]
    fn nothing_is_under_way_after_a_verification_however_it_ended() {
        let memo = memo();
        let _ = memo.settle(key(1), || Ok(Verdict::Right));
        let _ = memo.settle(key(2), || Err(HashError::Undecodable));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            memo.settle(key(3), || panic!("on purpose"))
        }));
        assert!(panicked.is_err());
        for number in 1..=3 {
            let boarding = memo.flights.board(key(number), || None);
            assert!(matches!(boarding, Boarding::Leader(_)), "{number}");
        }
    }

    #[test]
    fn the_memo_is_bounded_and_keeps_the_newest() {
        let memo = memo();
        for number in 0..3 * MEMO_MAX_ENTRIES {
            memo.remember(key(number), Ok(Verdict::Right));
            memo.remember(key(number), Ok(Verdict::Wrong));
            assert!(remembered(&memo.right) <= MEMO_MAX_ENTRIES);
            assert!(remembered(&memo.wrong) <= WRONG_MAX_ENTRIES);
        }
        let newest = 3 * MEMO_MAX_ENTRIES - MEMO_MAX_ENTRIES / 2..3 * MEMO_MAX_ENTRIES;
        assert!(
            newest
                .clone()
                .all(|number| memo.right.contains(&key(number)))
        );
        assert!(!memo.right.contains(&key(0)));
    }

    #[test]
    fn what_is_in_use_is_not_forgotten_when_the_memo_is_full() {
        let memo = Memo::with_limit(16).expect("random bytes");
        memo.remember(key(0), Ok(Verdict::Right));
        for number in 1..1000 {
            memo.remember(key(number), Ok(Verdict::Right));
            assert_eq!(memo.recall(&key(0)), Some(Verdict::Right), "after {number}");
            assert!(remembered(&memo.right) <= 16);
        }
        assert_eq!(memo.recall(&key(1)), None);
    }

    #[test]
    fn wrong_secrets_do_not_push_out_the_right_ones() {
        let memo = memo();
        memo.remember(key(0), Ok(Verdict::Right));
        for number in 1..3 * MEMO_MAX_ENTRIES {
            memo.remember(key(number), Ok(Verdict::Wrong));
        }
        assert_eq!(memo.recall(&key(0)), Some(Verdict::Right));
    }

    #[test]
    fn an_upgrade_is_claimed_once_and_only_for_a_verified_secret() {
        let memo = memo();
        memo.remember(key(2), Ok(Verdict::Wrong));
        assert!(!memo.claim_upgrade(key(1)));
        assert!(!memo.claim_upgrade(key(2)));
        memo.remember(key(1), Ok(Verdict::Right));
        assert!(memo.claim_upgrade(key(1)));
        assert!(!memo.claim_upgrade(key(1)));
    }

    #[test]
    fn the_key_stands_for_id_secret_and_hash_in_one_process() {
        let (memo, presented) = (memo(), presented());
        let key = memo.key(&presented, PHC);
        assert!(key == memo.key(&presented, PHC));
        assert!(key != memo.key(&presented, &PHC[1..]));
        assert!(key != memo.key(&self::presented(), PHC));
        assert!(key != self::memo().key(&presented, PHC));
    }

    #[test]
    fn the_key_differs_when_only_the_id_or_only_the_secret_does() {
        let memo = memo();
        let (id, secret, _) = token::draw().expect("random bytes");
        let (other_id, other_secret, _) = token::draw().expect("random bytes");
        let key = |id, secret: &token::Secret| {
            let text = token::NewTokenText::spell(id, secret);
            let presented = PresentedToken::parse(text.expose().as_bytes()).expect("well-formed");
            memo.key(&presented, PHC)
        };
        assert!(key(&id, &secret) != key(&other_id, &secret));
        assert!(key(&id, &secret) != key(&id, &other_secret));
    }
}
