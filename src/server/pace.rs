//! How fast a client has to be: never silent for long, and not too slow on average.
//!
//! Only the time that the server spends waiting for the client counts. A handler that is slow itself
//! (a busy database) does not use up the patience that its client is owed.

use std::time::Duration;

/// The patience with one message.
#[derive(Debug)]
pub(super) struct Pace {
    silence_max: Duration,
    rate_min_bytes: u64,
    moved_bytes: u64,
    waited: Duration,
}

impl Pace {
    /// At most `silence_max` without a byte, and `rate_min_bytes` each second on average after a first
    /// `silence_max`.
    pub(super) fn new(silence_max: Duration, rate_min_bytes: u64) -> Self {
        Self {
            silence_max,
            rate_min_bytes: rate_min_bytes.max(1),
            moved_bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// How long the next byte may take; `None` once the patience is used up. For a client that keeps
    /// the rate this is always `silence_max`, so that the timeout of the socket need not be set again.
    pub(super) fn allowance(&self) -> Option<Duration> {
        let earned_ms = self.moved_bytes.saturating_mul(1000) / self.rate_min_bytes;
        let patience = self.silence_max + Duration::from_millis(earned_ms);
        let left = patience.checked_sub(self.waited)?;
        (!left.is_zero()).then_some(left.min(self.silence_max))
    }

    /// `bytes` moved after a wait of `waited`.
    pub(super) fn moved(&mut self, bytes: usize, waited: Duration) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes as u64);
        self.waited += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    #[test]
    fn client_that_keeps_the_rate_always_has_the_whole_patience() {
        let mut pace = Pace::new(SILENCE, 1000);
        for _ in 0..100 {
            assert_eq!(pace.allowance(), Some(SILENCE));
            pace.moved(1000, Duration::from_secs(1));
        }
    }

    #[test]
    fn client_below_the_rate_runs_out_of_patience_however_often_it_sends() {
        let mut pace = Pace::new(SILENCE, 1000);
        pace.moved(1, Duration::from_secs(20));
        assert_eq!(pace.allowance(), Some(Duration::from_millis(10_001)));
        pace.moved(1, Duration::from_secs(10));
        assert_eq!(pace.allowance(), Some(Duration::from_millis(2)));
        pace.moved(1, Duration::from_millis(4));
        assert_eq!(pace.allowance(), None);
    }

    #[test]
    fn numbers_at_the_end_of_their_range_do_not_overflow() {
        let mut pace = Pace::new(SILENCE, 0);
        pace.moved(usize::MAX, SILENCE);
        assert_eq!(pace.allowance(), Some(SILENCE));
    }
}
