//! All open connections: how many there are, and which of them are idle.
//!
//! A connection says when it becomes idle and when it is busy again; only an idle one is ever closed
//! by another thread, and the change from one to the other is atomic, so a request that has arrived is
//! never lost to a close.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The open connections.
pub(super) struct Registry {
    connections_max: usize,
    connections: Mutex<HashMap<u64, Arc<Entry>>>,
    /// A connection ended, or the server drains.
    changed: Condvar,
    /// The number of connections, to be read without the lock.
    count: AtomicUsize,
    /// How many of them are with clients that the application knows.
    known: AtomicUsize,
    next_id: AtomicU64,
    draining: AtomicBool,
    epoch: Instant,
}

/// One connection, as the other threads see it.
struct Entry {
    /// `None` where a rehearsal has none to be woken by.
    socket: Option<Arc<TcpStream>>,
    phase: AtomicU64,
    /// The application knows the client.
    is_known: AtomicBool,
}

/// How long a connection may be idle where others wait for its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Of a client that the application knows.
    pub known: Duration,
    /// Of everybody else.
    pub stranger: Duration,
}

/// A request is under way, or its connection is new.
const BUSY: u64 = 0;
/// The connection was idle and told to close.
const TOLD_TO_CLOSE: u64 = 1;
/// The response was written and the connection waits for its client to close.
const LINGERING: u64 = 2;
/// Idle since the epoch; later times are added to it, in milliseconds.
const IDLE: u64 = 3;

impl Registry {
    pub(super) fn new(connections_max: usize) -> Self {
        Self {
            connections_max: connections_max.max(1),
            connections: Mutex::default(),
            changed: Condvar::new(),
            count: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    /// Takes a new connection in; it leaves when its slot is dropped.
    pub(super) fn admit(self: &Arc<Self>, socket: Option<Arc<TcpStream>>) -> Slot {
        let entry = Arc::new(Entry {
            socket,
            phase: AtomicU64::new(self.idle_now()),
            is_known: AtomicBool::new(false),
        });
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut connections = self.lock();
        connections.insert(id, Arc::clone(&entry));
        self.count.store(connections.len(), Ordering::Relaxed);
        drop(connections);
        Slot {
            registry: Arc::clone(self),
            entry,
            id,
        }
    }

    /// How many connections are open.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// No further connection may be accepted.
    pub(super) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.connections_max
    }

    /// Responses should close their connections: three quarters are taken, or the server drains.
    ///
    /// Known clients keep theirs until they have half of all: where strangers took the rest, closing one only sends
    /// its client to the end of their queue.
    fn wants_close(&self, is_known: bool) -> bool {
        let (count, known) = (self.count(), self.known.load(Ordering::Relaxed));
        let is_crowded = count > self.connections_max - self.connections_max / 4;
        let may_stay = is_known && known <= self.connections_max / 2;
        self.is_draining() || (is_crowded && !may_stay)
    }

    /// The server is shutting down.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Begins to shut down.
    pub(super) fn drain(&self) {
        let _connections = self.lock();
        self.draining.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits until there is room or the server drains, closing what is idle for too long.
    pub(super) fn await_room(&self, patience: Patience) {
        const LOOK_AGAIN: Duration = Duration::from_millis(500);
        let mut connections = self.lock();
        while connections.len() >= self.connections_max && !self.is_draining() {
            self.close_idle_of(&connections, patience);
            let waited = self.changed.wait_timeout(connections, LOOK_AGAIN);
            connections = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until no connection is left; false if `deadline` came first.
    pub(super) fn await_empty(&self, deadline: Instant) -> bool {
        let mut connections = self.lock();
        while !connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(connections, left);
            connections = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Closes what has been idle for at least so long.
    pub(super) fn close_idle(&self, patience: Patience) {
        self.close_idle_of(&self.lock(), patience);
    }

    /// Closes everything, whatever it does. How many requests were cut by it.
    pub(super) fn cut_all(&self) -> usize {
        let connections = self.lock();
        let mut cut = 0;
        for entry in connections.values() {
            cut += usize::from(entry.phase.load(Ordering::Acquire) == BUSY);
            entry.shut_down(Shutdown::Both);
        }
        cut
    }

    fn close_idle_of(&self, connections: &HashMap<u64, Arc<Entry>>, patience: Patience) {
        let now = self.idle_now();
        for entry in connections.values() {
            let is_known = entry.is_known.load(Ordering::Relaxed);
            let idle = if is_known {
                patience.known
            } else {
                patience.stranger
            };
            if let Some(limit) = now.checked_sub(idle.as_millis() as u64) {
                entry.close_if_idle_since(limit);
            }
        }
    }

    /// The phase of a connection that becomes idle now.
    fn idle_now(&self) -> u64 {
        IDLE + self.epoch.elapsed().as_millis() as u64
    }

    fn remove(&self, id: u64) {
        let mut connections = self.lock();
        connections.remove(&id);
        self.count.store(connections.len(), Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn close_if_idle_since(&self, limit: u64) {
        let phase = self.phase.load(Ordering::Acquire);
        if !(IDLE..=limit).contains(&phase) {
            return;
        }
        let told =
            self.phase
                .compare_exchange(phase, TOLD_TO_CLOSE, Ordering::AcqRel, Ordering::Acquire);
        if told.is_ok() {
            // Wakes the thread with an end of stream; bytes that arrived before are still read.
            self.shut_down(Shutdown::Read);
        }
    }

    fn shut_down(&self, how: Shutdown) {
        // Fails only where the client is gone already.
        let _ = self.socket.as_ref().map(|socket| socket.shutdown(how));
    }
}

/// The place of one connection, held by its thread.
pub(super) struct Slot {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    id: u64,
}

impl Slot {
    /// The connection waits for a request, and may be closed from now on.
    pub(super) fn idle(&self) {
        let now = self.registry.idle_now();
        self.entry.phase.store(now, Ordering::Release);
    }

    /// A request arrives. True: the connection was told to close just now, and answers but this one.
    pub(super) fn busy(&self) -> bool {
        self.entry.phase.swap(BUSY, Ordering::AcqRel) == TOLD_TO_CLOSE
    }

    /// The response is written; the client is expected to close.
    pub(super) fn lingering(&self) {
        self.entry.phase.store(LINGERING, Ordering::Release);
    }

    /// The application knows the client.
    pub(super) fn known(&self) {
        if !self.entry.is_known.swap(true, Ordering::Relaxed) {
            self.registry.known.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_known(&self) -> bool {
        self.entry.is_known.load(Ordering::Relaxed)
    }

    /// The response that is begun now should close the connection.
    pub(super) fn wants_close(&self) -> bool {
        self.registry.wants_close(self.is_known())
    }

    /// The number of the connection, for the name of its thread.
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_known() {
            self.registry.known.fetch_sub(1, Ordering::Relaxed);
        }
        self.registry.remove(self.id);
    }
}
