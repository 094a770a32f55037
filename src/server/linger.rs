//! The last moments of a connection that closes after its answer.
//!
//! A socket that is closed with unread bytes resets the connection, and the reset overtakes the answer:
//! the client sees an error in place of our sentence. So the server says that it writes no more, then
//! discards what still arrives, within bounds.

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::limits::Limits;
use super::pace::Pace;
use super::stream::Stream;

/// What is discarded at most for a client whose token was verified: more than any link moves in the
/// time it is given.
const BYTES_MAX: u64 = 64 << 30;
/// What is discarded at most for a stranger.
const STRANGER_BYTES_MAX: u64 = 1 << 30;
/// How long a stranger may be silent.
const STRANGER_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a client may be silent that has sent all it announced.
const COMPLETE_SILENCE_MAX: Duration = Duration::from_secs(2);
/// How much is discarded with each read.
const DISCARD_BYTES: usize = 16 * 1024;

/// How long the rest of a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// For a client that has sent everything: it only has to take the answer and hang up. One that does
    /// not must not hold up a restart.
    Complete,
    /// For anybody.
    Stranger,
    /// For a client that the application trusts: enough to take a whole artifact.
    Trusted,
}

/// A buffer for bytes that nobody wants; wiped, for they may be the rest of a head.
pub(super) fn discard_buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![0; DISCARD_BYTES])
}

/// Sees the answer off: returns once the client closed its side, or a bound was reached.
pub(super) fn linger<S: Stream>(stream: &mut S, patience: Patience, limits: &Limits) {
    let (timeout, mut bytes_left, silence_max) = match patience {
        Patience::Complete => (
            limits.linger_timeout_stranger,
            STRANGER_BYTES_MAX,
            COMPLETE_SILENCE_MAX,
        ),
        Patience::Stranger => (
            limits.linger_timeout_stranger,
            STRANGER_BYTES_MAX,
            STRANGER_SILENCE_MAX,
        ),
        Patience::Trusted => (limits.linger_timeout, BYTES_MAX, limits.body_timeout),
    };
    if stream.finish_writing().is_err() {
        return;
    }
    let deadline = Instant::now() + timeout;
    let mut pace = Pace::new(silence_max.min(timeout), limits.body_rate_min_bytes);
    let mut buffer = discard_buffer();
    while Instant::now() < deadline {
        match stream.read_paced(&mut buffer, &mut pace) {
            Ok(0) | Err(_) => return,
            Ok(count) => match bytes_left.checked_sub(count as u64) {
                Some(left) => bytes_left = left,
                None => return,
            },
        }
    }
}
