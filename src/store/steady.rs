//! Whether the clock can be trusted with the age of entries.
//!
//! A server that starts with an old backup, after a long stop or with a clock that is ahead finds all entries
//! old. So for a while nothing goes by its age: who needs an entry reads it meanwhile, and who runs the
//! server can set the clock right.

use std::time::{Duration, Instant};

use super::eviction::{Budget, EvictionLimits};

/// How long a server must have been up before an entry goes by its age; for entries that may not get that old,
/// as long as they may.
const GRACE: Duration = Duration::from_hours(1);

/// A clock that goes ahead by more than this was set, or the machine slept.
const JUMP: Duration = Duration::from_mins(5);

/// The two clocks at the last look, and since when they agree.
#[derive(Debug)]
pub(super) struct Steady {
    since: Instant,
    last: (Instant, i64),
}

impl Steady {
    /// From now on.
    pub fn new(now: Instant, now_ms: i64) -> Self {
        Self {
            since: now,
            last: (now, now_ms),
        }
    }

    /// Looks at the clocks; how long they have agreed.
    pub fn look(&mut self, now: Instant, now_ms: i64) -> Duration {
        let (last, last_ms) = std::mem::replace(&mut self.last, (now, now_ms));
        let passed_ms = now.saturating_duration_since(last).as_millis() as i64;
        let ahead_ms = now_ms.saturating_sub(last_ms).saturating_sub(passed_ms);
        if ahead_ms > JUMP.as_millis() as i64 {
            self.since = now;
        }
        now.saturating_duration_since(self.since)
    }
}

impl EvictionLimits {
    /// The same where the clocks have agreed for this long: without the ages that cannot be trusted yet.
    pub(super) fn when_steady_for(mut self, time: Duration) -> Self {
        let judge = |budget: &mut Budget| {
            if time < budget.max_age.min(GRACE) {
                budget.max_age = Duration::MAX;
            }
        };
        judge(&mut self.trusted);
        judge(&mut self.isolated);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::UNLIMITED;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_that_goes_ahead_begins_the_time_anew_and_one_that_is_set_right_does_not() {
        let began = Instant::now();
        let mut steady = Steady::new(began, 1_000_000);
        let mut look = |seconds: u32, ms: i64| steady.look(began + seconds * SECOND, ms);
        assert_eq!(look(10, 1_010_000), 10 * SECOND);
        // A little ahead, and back.
        assert_eq!(look(20, 1_020_000 + 300_000), 20 * SECOND);
        assert_eq!(look(30, 30_000), 30 * SECOND);
        // A tick that took long.
        assert_eq!(look(1030, 1_030_000), 1030 * SECOND);
        assert_eq!(look(1040, 1_040_000 + 300_001), Duration::ZERO);
        assert_eq!(look(1050, 1_050_000 + 300_001), 10 * SECOND);
    }

    #[test]
    fn nothing_goes_by_its_age_until_the_server_has_been_up_for_a_while() {
        let mut limits = UNLIMITED;
        limits.trusted.max_age = 100 * GRACE;
        limits.isolated.max_age = 4 * SECOND;
        let ages = |time| {
            let limits = limits.when_steady_for(time);
            [limits.trusted.max_age, limits.isolated.max_age]
        };
        assert_eq!(ages(3 * SECOND), [Duration::MAX; 2]);
        assert_eq!(ages(4 * SECOND), [Duration::MAX, 4 * SECOND]);
        assert_eq!(ages(3599 * SECOND), [Duration::MAX, 4 * SECOND]);
        assert_eq!(ages(GRACE), [100 * GRACE, 4 * SECOND]);
    }
}
