//! The bounded buffer between those who log and the one thread that writes.
//!
//! Nobody who logs ever waits for the sink: a line that finds the buffer full is dropped and counted, and
//! the count is told as soon as there is room. The lock is held to copy one line or to swap two
//! buffers, never while the sink is written to.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines that wait to be written, in bytes. A second buffer of this size is being written meanwhile.
pub const QUEUE_MAX_BYTES: usize = 1 << 20;

/// From here on the writer is woken early, to make room.
const HALF_FULL_BYTES: usize = QUEUE_MAX_BYTES / 2;

/// How long the writer gathers lines before it writes them, so that a busy server pays for one wake-up
/// and one system call for many lines, and a person at a terminal notices nothing.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Tells the writer that there is something to do.
    filled: Condvar,
    /// Tells those who flush that something was written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: String,
    pending_lines: u64,
    /// Lines lost since that was last told.
    dropped_lines: u64,
    /// Lines lost since the start.
    lost_lines: u64,
    /// Lines that were accepted, and lines that the sink has taken or refused, since the start.
    accepted: u64,
    finished: u64,
    /// Whether somebody waits for what is pending.
    urgent: bool,
    closed: bool,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The lines, each with its end.
    pub(super) text: String,
    /// How many lines those are.
    lines: u64,
    /// How many lines were lost before the end of this batch.
    pub(super) dropped_lines: u64,
}

impl Queue {
    /// Adds a line, or counts it as dropped.
    pub(super) fn push(&self, line: &str, urgent: bool) {
        let mut state = self.lock();
        if state.pending.len() + line.len() > QUEUE_MAX_BYTES {
            state.dropped_lines += 1;
            state.lost_lines += 1;
            return;
        }
        let was_empty = state.pending.is_empty();
        let was_below_half = state.pending.len() < HALF_FULL_BYTES;
        state.pending.push_str(line);
        state.pending_lines += 1;
        state.accepted += 1;
        let newly_urgent = urgent && !state.urgent;
        state.urgent |= urgent;
        let newly_half_full = was_below_half && state.pending.len() >= HALF_FULL_BYTES;
        drop(state);
        if was_empty || newly_urgent || newly_half_full {
            self.filled.notify_one();
        }
    }

    /// Waits for lines and swaps them into `batch`, which is emptied first; false when the queue is
    /// closed and nothing is left.
    pub(super) fn take(&self, batch: &mut Batch) -> bool {
        batch.text.clear();
        let mut state = self.gathered();
        if state.is_idle() {
            return false;
        }
        std::mem::swap(&mut state.pending, &mut batch.text);
        batch.lines = std::mem::take(&mut state.pending_lines);
        batch.dropped_lines = std::mem::take(&mut state.dropped_lines);
        state.urgent = false;
        true
    }

    /// Waits until there is something to write, and then a little for more.
    fn gathered(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.is_idle() && !state.closed {
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let deadline = Instant::now() + GATHER;
        while !state.urgent && !state.closed && state.pending.len() < HALF_FULL_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Says that the batch was written, or that the sink refused it and its lines are lost.
    pub(super) fn finish(&self, batch: &Batch, written: bool) {
        let mut state = self.lock();
        state.finished += batch.lines;
        if !written {
            state.dropped_lines += batch.lines + batch.dropped_lines;
            state.lost_lines += batch.lines;
        }
        drop(state);
        self.written.notify_all();
    }

    /// Waits until every line that was accepted before is written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let mut state = self.lock();
        let (target, deadline) = (state.accepted, Instant::now() + limit);
        while state.finished < target {
            state.urgent = true;
            self.filled.notify_one();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many lines were lost since the start.
    pub(super) fn lost_lines(&self) -> u64 {
        self.lock().lost_lines
    }

    /// Lets the writer end once everything is written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// A panic cannot leave a line half-copied in a way that matters: go on logging.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing to write. Lines lost are told with the next line that is not, or they would be told
    /// over and over to a sink that refuses everything.
    fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_dropped_and_counted() {
        let queue = Queue::default();
        let line = "x".repeat(QUEUE_MAX_BYTES / 4);
        (0..7).for_each(|_| queue.push(&line, false));
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert_eq!(
            (batch.text.len(), batch.dropped_lines),
            (QUEUE_MAX_BYTES, 3)
        );
        assert_eq!(queue.lost_lines(), 3);
    }

    #[test]
    fn what_a_sink_refused_is_counted_with_the_next_batch() {
        let queue = Queue::default();
        let mut batch = Batch::default();
        queue.push("a\n", true);
        queue.push("b\n", true);
        assert!(queue.take(&mut batch));
        queue.finish(&batch, false);
        queue.push("c\n", true);
        assert!(queue.take(&mut batch));
        assert_eq!((batch.text.as_str(), batch.dropped_lines), ("c\n", 2));
        queue.finish(&batch, false);
        assert_eq!(queue.lost_lines(), 3, "each line once");
    }

    #[test]
    fn a_closed_queue_gives_what_is_left_and_then_ends() {
        let queue = Queue::default();
        queue.push("last\n", false);
        queue.close();
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert_eq!(batch.text, "last\n");
        assert!(!queue.take(&mut batch));
    }

    #[test]
    fn flushing_gives_up_when_nobody_writes() {
        let queue = Queue::default();
        queue.push("a\n", false);
        let begin = Instant::now();
        queue.flush(Duration::from_millis(30));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
