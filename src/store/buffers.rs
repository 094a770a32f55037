//! Buffers of one chunk each, lent from a bounded pool: what keeps memory flat whatever is transferred.
//!
//! They are used again, because a fresh 256 KiB allocation costs more than the copy into it: 206 µs
//! against 15 µs a chunk, measured. A caller that waits for a buffer must hold none it could give back.
//!
//! Transfers of isolated tokens may hold half of them, so that pull requests, however slow or many, never
//! take the last one from a trusted build.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::chunks::CHUNK_BYTES;
use super::model::ScopeKind;

/// How many buffers stay allocated when nobody needs them.
const IDLE_MAX: usize = 32;

/// A bounded number of buffers.
#[derive(Debug)]
pub struct BufferPool {
    state: Mutex<State>,
    returned: Condvar,
    lent_max: usize,
    lent_isolated_max: usize,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Vec<u8>>,
    lent: usize,
    /// How many of those are with isolated tokens.
    lent_isolated: usize,
    /// Those who wait, first come first.
    waiting: VecDeque<Waiter>,
    next_ticket: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiter {
    ticket: u64,
    kind: ScopeKind,
}

/// One buffer of [`CHUNK_BYTES`]; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    kind: ScopeKind,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// A pool that lends at most `memory_bytes` at a time (at least one buffer).
    pub fn new(memory_bytes: u64) -> Arc<Self> {
        let lent_max = usize::try_from(memory_bytes / CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        let lent_max = lent_max.max(1);
        Arc::new(Self {
            state: Mutex::default(),
            returned: Condvar::new(),
            lent_max,
            lent_isolated_max: (lent_max / 2).max(1),
        })
    }

    /// A buffer if one is free and nobody waits for it.
    pub fn try_take(self: &Arc<Self>, kind: ScopeKind) -> Option<Buffer> {
        let state = self.lock();
        (self.has_one_for(&state, kind) && self.next(&state).is_none())
            .then(|| self.lend(state, kind))
    }

    /// A buffer, waiting for one until `deadline`, behind those who came before.
    pub fn take(self: &Arc<Self>, kind: ScopeKind, deadline: Instant) -> Option<Buffer> {
        let mut state = self.lock();
        let waiter = Waiter {
            ticket: state.next_ticket,
            kind,
        };
        state.next_ticket += 1;
        state.waiting.push_back(waiter);
        while self.next(&state) != Some(waiter) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting.retain(|&waiting| waiting != waiter);
                drop(state);
                self.returned.notify_all();
                return None;
            }
            let woken = self.returned.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting.retain(|&waiting| waiting != waiter);
        let buffer = self.lend(state, kind);
        // There may be one for the next in line as well.
        self.returned.notify_all();
        Some(buffer)
    }

    /// Whether somebody waits for a buffer and would get the one that a transfer of `kind` gives back.
    pub fn is_contended(&self, kind: ScopeKind) -> bool {
        let state = self.lock();
        let has_share = state.lent_isolated < self.lent_isolated_max;
        let would_get_it = |waiter: &Waiter| {
            waiter.kind == ScopeKind::Trusted || kind == ScopeKind::Isolated || has_share
        };
        state.waiting.iter().any(would_get_it)
    }

    fn has_one_for(&self, state: &State, kind: ScopeKind) -> bool {
        let has_share = match kind {
            ScopeKind::Trusted => true,
            ScopeKind::Isolated => state.lent_isolated < self.lent_isolated_max,
        };
        has_share && state.lent < self.lent_max
    }

    /// Who is next: the first in line for whom there is one.
    fn next(&self, state: &State) -> Option<Waiter> {
        let mut waiting = state.waiting.iter();
        waiting
            .find(|waiter| self.has_one_for(state, waiter.kind))
            .copied()
    }

    fn lend(self: &Arc<Self>, mut state: MutexGuard<'_, State>, kind: ScopeKind) -> Buffer {
        state.lent += 1;
        state.lent_isolated += usize::from(kind == ScopeKind::Isolated);
        let idle = state.idle.pop();
        drop(state);
        Buffer {
            bytes: idle.unwrap_or_else(|| vec![0; CHUNK_BYTES]),
            kind,
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
        state.lent_isolated -= usize::from(self.kind == ScopeKind::Isolated);
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
    use super::ScopeKind::{Isolated, Trusted};
    use super::*;
    use std::time::Duration;

    fn pool(buffers: u64) -> Arc<BufferPool> {
        BufferPool::new(buffers * CHUNK_BYTES as u64)
    }

    #[test]
    fn no_more_is_lent_than_the_pool_may_hold() {
        let pool = pool(2);
        let first = pool.try_take(Trusted);
        let second = pool.try_take(Trusted);
        assert!(first.is_some() && second.is_some());
        assert!(pool.try_take(Trusted).is_none());
        assert!(pool.take(Trusted, Instant::now()).is_none());
        drop(first);
        assert!(pool.try_take(Trusted).is_some());
    }

    #[test]
    fn a_waiter_gets_the_buffer_that_comes_back_and_goes_before_others() {
        let pool = pool(1);
        let only = pool.try_take(Trusted);
        std::thread::scope(|scope| {
            let waiter =
                scope.spawn(|| pool.take(Trusted, Instant::now() + Duration::from_mins(1)));
            while !pool.is_contended(Trusted) {
                std::thread::yield_now();
            }
            assert!(pool.try_take(Trusted).is_none());
            drop(only);
            assert!(waiter.join().is_ok_and(|buffer| buffer.is_some()));
        });
        assert!(!pool.is_contended(Trusted));
    }

    #[test]
    fn isolated_transfers_hold_half_of_the_buffers_at_the_most() {
        let pool = pool(4);
        let isolated = [pool.try_take(Isolated), pool.try_take(Isolated)];
        assert!(isolated.iter().all(Option::is_some));
        assert!(pool.try_take(Isolated).is_none());
        assert!(pool.take(Isolated, Instant::now()).is_none());
        let trusted = [pool.try_take(Trusted), pool.try_take(Trusted)];
        assert!(trusted.iter().all(Option::is_some));
        assert!(pool.try_take(Trusted).is_none());
        drop(isolated);
        assert!(pool.try_take(Isolated).is_some());
    }

    #[test]
    fn a_trusted_transfer_does_not_stand_behind_isolated_ones_that_have_their_share() {
        let pool = pool(4);
        let share = [pool.try_take(Isolated), pool.try_take(Isolated)];
        std::thread::scope(|scope| {
            let waiter =
                scope.spawn(|| pool.take(Isolated, Instant::now() + Duration::from_mins(1)));
            while !pool.is_contended(Isolated) {
                std::thread::yield_now();
            }
            assert!(!pool.is_contended(Trusted));
            assert!(pool.try_take(Trusted).is_some());
            assert!(pool.take(Trusted, Instant::now()).is_some());
            drop(share);
            assert!(waiter.join().is_ok_and(|buffer| buffer.is_some()));
        });
    }
}
