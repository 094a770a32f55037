//! Permits: how many Argon2 runs there are at once.
//!
//! One run takes a core for some 30 ms and 19 MiB. With a permit for half the cores, a flood of tokens
//! seen for the first time leaves the other half to those who are already known.
//!
//! First come, first served: a permit that is given back goes to the one who has waited longest, never to
//! one who just came.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A counting semaphore with a queue.
pub(super) struct Permits(Mutex<Queue>);

struct Queue {
    /// Permits that nobody holds; none while anybody waits.
    free: usize,
    /// Who waits, the one who came first in front. Each has a bell of his own: only he wakes whose turn it is.
    waiting: VecDeque<Arc<Condvar>>,
}

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self(Mutex::new(Queue {
            free: count,
            waiting: VecDeque::new(),
        }))
    }

    /// A permit for every second core, at least one.
    pub(super) fn for_half_the_cores() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::new((cores / 2).max(1))
    }

    /// Waits for a permit behind all who came before; `None` when there was none in time.
    pub(super) fn take(&self, wait_max: Duration) -> Option<Permit<'_>> {
        let mut queue = self.queue();
        if let Some(left) = queue.free.checked_sub(1) {
            queue.free = left;
            return Some(Permit(self));
        }
        let bell = Arc::<Condvar>::default();
        queue.waiting.push_back(Arc::clone(&bell));
        let (mut queue, _) = bell
            .wait_timeout_while(queue, wait_max, |queue| queue.place_of(&bell).is_some())
            .unwrap_or_else(PoisonError::into_inner);
        // The queue decides, not the clock: a permit that came at the last moment is taken.
        match queue.place_of(&bell) {
            None => Some(Permit(self)),
            Some(place) => {
                queue.waiting.remove(place);
                None
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A poisoned lock is a whole queue: nothing here can panic between its parts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn place_of(&self, bell: &Arc<Condvar>) -> Option<usize> {
        self.waiting
            .iter()
            .position(|other| Arc::ptr_eq(other, bell))
    }
}

/// The right to run Argon2 once; given back when dropped, also by a panic.
pub(super) struct Permit<'p>(&'p Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        // Who is taken out of the queue has the permit.
        match queue.waiting.pop_front() {
            Some(bell) => bell.notify_one(),
            None => queue.free += 1,
        }
    }
}

#[cfg(test)]
impl Permits {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    #[test]
    fn there_are_never_more_holders_than_permits() {
        let permits = Permits::new(3);
        let (holders, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _permit = permits.take(LONG).expect("a permit in time");
                        most.fetch_max(
                            holders.fetch_add(1, Ordering::SeqCst) + 1,
                            Ordering::SeqCst,
                        );
                        thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
    }

    #[test]
    fn a_permit_can_be_had_again_once_it_is_given_back() {
        let permits = Permits::new(1);
        let first = permits.take(Duration::ZERO).expect("free");
        assert!(permits.take(Duration::ZERO).is_none());
        assert!(permits.take(Duration::from_millis(1)).is_none());
        drop(first);
        assert!(permits.take(Duration::ZERO).is_some());
    }

    #[test]
    fn a_panic_gives_the_permit_back() {
        let permits = Permits::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _permit = permits.take(Duration::ZERO).expect("free");
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(permits.take(Duration::ZERO).is_some());
    }

    #[test]
    fn permits_are_given_to_those_who_wait_in_the_order_in_which_they_came() {
        let permits = Permits::new(1);
        let served = Mutex::new(Vec::new());
        let first = permits.take(Duration::ZERO).expect("free");
        thread::scope(|scope| {
            for number in 0..32 {
                let (permits, served) = (&permits, &served);
                scope.spawn(move || {
                    let _permit = permits.take(LONG).expect("a permit in time");
                    served.lock().expect("not poisoned").push(number);
                });
                while permits.waiting() <= number {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        let served = served.into_inner().expect("not poisoned");
        assert_eq!(served, (0..32).collect::<Vec<_>>());
    }

    #[test]
    fn one_who_gave_up_waiting_is_passed_over() {
        let permits = Permits::new(1);
        let first = permits.take(Duration::ZERO).expect("free");
        thread::scope(|scope| {
            let before = scope.spawn(|| permits.take(LONG).is_some());
            while permits.waiting() == 0 {
                thread::yield_now();
            }
            assert!(permits.take(Duration::ZERO).is_none());
            assert_eq!(permits.waiting(), 1);
            drop(first);
            assert!(before.join().expect("no panic"));
        });
        assert_eq!(permits.waiting(), 0);
        assert!(permits.take(Duration::ZERO).is_some());
    }

    #[test]
    fn a_machine_with_one_core_has_one_permit() {
        assert!(Permits::for_half_the_cores().take(Duration::ZERO).is_some());
    }
}
