//! The book of promises: what was acknowledged, and whether a miss of it is one that eviction explains.
//!
//! Least recently read goes first, above 95 % of a budget and down to 90 %. So what was stored stays at least
//! until as much as most of the budget was stored or read after it, or until it was old. The book claims less
//! than that: [`SAFE_SHARE`] of the budget and [`SAFE_AGE`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::random::{Random, noise};

/// What all artifacts may take, in bytes, and the share of isolated ones in percent.
pub const MAX_SIZE_BYTES: u64 = 2 << 30;
pub const ISOLATED_SHARE: u64 = 25;

/// How old artifacts become that nobody reads.
pub const MAX_AGE: Duration = Duration::from_mins(2);

/// Percent of a budget that may be stored and read after an artifact before a miss of it is fine.
const SAFE_SHARE: u64 = 50;

/// A miss of an older one is fine.
const SAFE_AGE: Duration = Duration::from_secs(40);

/// Bytes beside its own that an artifact costs its budget.
const ENTRY_BYTES: u64 = 512;

/// How many artifacts of each kind are remembered; the oldest go.
const REMEMBERED: usize = 40_000;

/// Whose entry it is: of the trusted scope, or of the isolated one with this number.
pub type Scope = Option<u64>;

/// An artifact whose bytes follow from its name.
#[derive(Clone)]
pub struct Entry {
    pub scope: Scope,
    pub hash: String,
    seed: u64,
    pub size: usize,
    /// When it was acknowledged, and what its budget had seen before it was sent.
    since: Instant,
    seen_bytes: u64,
}

impl Entry {
    pub fn bytes(&self) -> Vec<u8> {
        noise(self.seed, self.size)
    }

    /// What it costs its budget.
    fn cost_bytes(&self) -> u64 {
        self.size as u64 + ENTRY_BYTES
    }
}

/// What was stored, by kind of scope.
#[derive(Default)]
pub struct Book {
    trusted: Page,
    isolated: Page,
}

#[derive(Default)]
struct Page {
    entries: Mutex<VecDeque<Entry>>,
    /// Bytes of all that was stored or read, from before it was asked for.
    seen_bytes: AtomicU64,
}

impl Book {
    fn page(&self, scope: Scope) -> &Page {
        if scope.is_some() {
            &self.isolated
        } else {
            &self.trusted
        }
    }

    /// An artifact that is about to be sent.
    pub fn begin(&self, scope: Scope, random: &mut Random, size: usize) -> Entry {
        let seed = random.number();
        let mut entry = Entry {
            scope,
            hash: format!("{seed:016x}-{size}"),
            seed,
            size,
            since: Instant::now(),
            seen_bytes: 0,
        };
        entry.seen_bytes = self
            .page(scope)
            .seen_bytes
            .fetch_add(entry.cost_bytes(), Ordering::SeqCst);
        entry
    }

    /// It was acknowledged: from now on it is promised.
    pub fn promise(&self, mut entry: Entry) {
        entry.since = Instant::now();
        let page = self.page(entry.scope);
        let mut entries = page.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= REMEMBERED {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// It is about to be read, which may keep it and let others go.
    pub fn reads(&self, entry: &Entry) {
        let page = self.page(entry.scope);
        page.seen_bytes
            .fetch_add(entry.cost_bytes(), Ordering::SeqCst);
    }

    /// Whether it must be there.
    pub fn is_due(&self, entry: &Entry) -> bool {
        let share = if entry.scope.is_some() {
            ISOLATED_SHARE
        } else {
            100 - ISOLATED_SHARE
        };
        let safe_bytes = MAX_SIZE_BYTES / 100 * share / 100 * SAFE_SHARE;
        let seen_bytes = self.page(entry.scope).seen_bytes.load(Ordering::SeqCst);
        seen_bytes - entry.seen_bytes < safe_bytes && entry.since.elapsed() < SAFE_AGE
    }

    /// One of the artifacts: as often a recent one as any.
    pub fn pick(&self, is_isolated: bool, random: &mut Random) -> Option<Entry> {
        const RECENT: usize = 200;
        let page = if is_isolated {
            &self.isolated
        } else {
            &self.trusted
        };
        let entries = page.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let range = if random.below(2) == 0 {
            entries.len().min(RECENT)
        } else {
            entries.len()
        };
        if range == 0 {
            return None;
        }
        let back = random.below(range as u64) as usize;
        entries.get(entries.len() - 1 - back).cloned()
    }

    /// All that is remembered.
    pub fn all(&self) -> Vec<Entry> {
        let pages = [&self.trusted, &self.isolated];
        let entries = pages.map(|page| {
            page.entries
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        });
        entries.into_iter().flatten().collect()
    }

    /// Bytes stored and read so far, in the budget of trusted or isolated artifacts.
    pub fn seen_bytes(&self, is_isolated: bool) -> u64 {
        let page = if is_isolated {
            &self.isolated
        } else {
            &self.trusted
        };
        page.seen_bytes.load(Ordering::SeqCst)
    }
}
