//! Buffers of one chunk each, lent from a bounded pool: what keeps memory flat whatever is transferred.
//!
//! They are used again, because a fresh 256 KiB allocation costs more than the copy into it: 206 µs
//! against 15 µs a chunk, measured. A caller that waits for a buffer must hold none it could give back.
//!
//! Each is a mapping of its own and not from malloc, whose arenas, one for each few threads, would all keep some.
//!
//! Transfers of isolated tokens may hold half of them, so that pull requests, however slow or many, never
//! take the last one from a trusted build.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use memmap2::{MmapMut, MmapOptions};

use super::chunks::CHUNK_BYTES;
use super::model::ScopeKind;

/// How many buffers stay allocated when nobody needs them.
const IDLE_MAX: usize = 32;

/// A bounded number of buffers.
#[derive(Debug)]
pub struct BufferPool {
    state: Mutex<State>,
    lent_max: usize,
    lent_isolated_max: usize,
}

/// Invariant: whoever waits could not be served. A buffer that comes back is given to the next in line
/// at once, and nobody else is woken: thousands may wait.
#[derive(Debug, Default)]
struct State {
    idle: Vec<MmapMut>,
    lent: usize,
    /// How many of those are with isolated tokens.
    lent_isolated: usize,
    trusted: VecDeque<Arc<Waiter>>,
    isolated: VecDeque<Arc<Waiter>>,
    next_ticket: u64,
}

/// One who waits, known by a number that says who came first.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    kind: ScopeKind,
    /// A buffer counts as lent to it; it has only to be picked up. Changed under the lock of the state.
    is_served: AtomicBool,
    served: Condvar,
}

/// One buffer of [`CHUNK_BYTES`]; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    /// There until it goes back.
    bytes: Option<MmapMut>,
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
            lent_max,
            lent_isolated_max: (lent_max / 2).max(1),
        })
    }

    /// A buffer if one is free and nobody waits for it.
    pub fn try_take(self: &Arc<Self>, kind: ScopeKind) -> Option<Buffer> {
        let mut state = self.lock();
        let is_free = state.waiting(kind).is_empty() && self.has_one_for(&state, kind);
        if !is_free {
            return None;
        }
        state.count(kind);
        self.pick_up(state, kind)
    }

    /// A buffer, waiting for one until `deadline`, behind those who came before.
    pub fn take(self: &Arc<Self>, kind: ScopeKind, deadline: Instant) -> Option<Buffer> {
        if let Some(buffer) = self.try_take(kind) {
            return Some(buffer);
        }
        let mut state = self.lock();
        let waiter = state.enqueue(kind);
        // Something may have come back since.
        self.serve(&mut state);
        while !waiter.is_served.load(Ordering::Relaxed) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waiting = state.waiting(kind);
                waiting.retain(|other| other.ticket != waiter.ticket);
                return None;
            }
            let woken = waiter.served.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.pick_up(state, kind)
    }

    /// Whether somebody waits for a buffer and would get the one that a transfer of `kind` gives back.
    pub fn is_contended(&self, kind: ScopeKind) -> bool {
        let state = self.lock();
        let would_serve_isolated =
            kind == ScopeKind::Isolated || state.lent_isolated < self.lent_isolated_max;
        !state.trusted.is_empty() || (would_serve_isolated && !state.isolated.is_empty())
    }

    fn has_one_for(&self, state: &State, kind: ScopeKind) -> bool {
        let has_share = match kind {
            ScopeKind::Trusted => true,
            ScopeKind::Isolated => state.lent_isolated < self.lent_isolated_max,
        };
        has_share && state.lent < self.lent_max
    }

    /// Gives what is free to those who are next, and wakes them alone.
    fn serve(&self, state: &mut State) {
        while let Some(kind) = self.next(state) {
            let Some(waiter) = state.waiting(kind).pop_front() else {
                return;
            };
            state.count(kind);
            waiter.is_served.store(true, Ordering::Relaxed);
            waiter.served.notify_one();
        }
    }

    /// The kind of the next to be served: of the first of each kind for whom there is one, who came first.
    fn next(&self, state: &State) -> Option<ScopeKind> {
        let fronts = [state.trusted.front(), state.isolated.front()];
        let served = fronts
            .into_iter()
            .flatten()
            .filter(|waiter| self.has_one_for(state, waiter.kind));
        served
            .min_by_key(|waiter| waiter.ticket)
            .map(|waiter| waiter.kind)
    }

    /// The buffer that counts as lent already; none where the system has no memory, which is like being busy.
    fn pick_up(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        kind: ScopeKind,
    ) -> Option<Buffer> {
        let idle = state.idle.pop();
        drop(state);
        // Gives the count back when it is dropped without bytes.
        let mut buffer = Buffer {
            bytes: idle,
            kind,
            pool: Arc::clone(self),
        };
        if buffer.bytes.is_none() {
            buffer.bytes = MmapOptions::new().len(CHUNK_BYTES).map_anon().ok();
        }
        buffer.bytes.is_some().then_some(buffer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here can panic while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting(&mut self, kind: ScopeKind) -> &mut VecDeque<Arc<Waiter>> {
        match kind {
            ScopeKind::Trusted => &mut self.trusted,
            ScopeKind::Isolated => &mut self.isolated,
        }
    }

    fn enqueue(&mut self, kind: ScopeKind) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            ticket: self.next_ticket,
            kind,
            is_served: AtomicBool::new(false),
            served: Condvar::new(),
        });
        self.next_ticket += 1;
        self.waiting(kind).push_back(Arc::clone(&waiter));
        waiter
    }

    fn count(&mut self, kind: ScopeKind) {
        self.lent += 1;
        self.lent_isolated += usize::from(kind == ScopeKind::Isolated);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.lent -= 1;
        state.lent_isolated -= usize::from(self.kind == ScopeKind::Isolated);
        if state.idle.len() < IDLE_MAX {
            state.idle.extend(self.bytes.take());
        }
        self.pool.serve(&mut state);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
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

    #[test]
    fn isolated_waiters_are_left_alone_by_what_is_not_for_them() {
        let pool = pool(4);
        let share = [pool.try_take(Isolated), pool.try_take(Isolated)];
        let deadline = Instant::now() + Duration::from_mins(1);
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..100)
                .map(|_| scope.spawn(|| pool.take(Isolated, deadline).is_some()))
                .collect();
            while pool.lock().isolated.len() < 100 {
                std::thread::yield_now();
            }
            for _ in 0..1000 {
                // Served without a wait, and what it gives back serves none of the others.
                assert!(pool.try_take(Trusted).is_some());
                assert_eq!(pool.lock().isolated.len(), 100);
            }
            drop(share);
            assert!(
                waiters
                    .into_iter()
                    .all(|waiter| waiter.join().is_ok_and(|got| got))
            );
        });
        let state = pool.lock();
        assert_eq!((state.lent, state.lent_isolated), (0, 0));
    }

    #[test]
    fn those_who_waited_in_vain_leave_the_line() {
        let pool = pool(2);
        let held = [pool.try_take(Isolated), pool.try_take(Trusted)];
        for kind in [Isolated, Trusted] {
            assert!(pool.take(kind, Instant::now()).is_none());
        }
        assert!(!pool.is_contended(Isolated));
        drop(held);
        assert!(pool.take(Isolated, Instant::now()).is_some());
        assert!(pool.take(Trusted, Instant::now()).is_some());
    }
}
