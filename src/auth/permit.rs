//! Permits: how many Argon2 runs there are at once.
//!
//! One run takes a core for some 30 ms and 19 MiB. With a permit for half the cores, a flood of tokens
//! seen for the first time leaves the other half to those who are already known.

use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A counting semaphore.
pub(super) struct Permits {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            freed: Condvar::new(),
        }
    }

    /// A permit for every second core, at least one.
    pub(super) fn for_half_the_cores() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::new((cores / 2).max(1))
    }

    /// Waits for a permit; `None` when there was none in time.
    pub(super) fn take(&self, wait_max: Duration) -> Option<Permit<'_>> {
        // A poisoned lock is a whole count: nothing here can panic between its parts.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut free, _) = self
            .freed
            .wait_timeout_while(free, wait_max, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        // The count decides, not the clock: a permit that came back at the last moment is taken.
        *free = free.checked_sub(1)?;
        Some(Permit(self))
    }
}

/// The right to run Argon2 once; given back when dropped, also by a panic.
pub(super) struct Permit<'p>(&'p Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
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
    fn a_machine_with_one_core_has_one_permit() {
        assert!(Permits::for_half_the_cores().take(Duration::ZERO).is_some());
    }
}
