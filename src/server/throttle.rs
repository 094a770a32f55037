//! Reports that could come in floods: one each second, and the number of the others.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one report through each second, and counts the others.
#[derive(Default)]
pub(super) struct Throttle(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// How many reports were held back, if one is due now.
    pub(super) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .last
            .is_some_and(|last| last.elapsed() < Self::INTERVAL)
        {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.suppressed))
    }
}
