//! The book of promises: what was acknowledged, and whether a miss of it is one that eviction explains.
//!
//! Least recently read goes first, whether for the budget or for its age. So what is gone was read no later than all that is
//! left of its kind; what is left and was read earlier than it shows that it was lost. That holds at any pace, and
//! on a machine that is busy with something else.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use rusqlite::{Connection, OpenFlags};

use crate::random::{Random, noise};
use crate::world::World;

/// What all artifacts may take, in bytes, and the share of isolated ones in percent.
pub const MAX_SIZE_BYTES: u64 = 2 << 30;
pub const ISOLATED_SHARE: u64 = 25;

/// How old artifacts become that nobody reads.
pub const MAX_AGE: Duration = Duration::from_mins(2);
pub const ISOLATED_MAX_AGE: Duration = Duration::from_mins(1);

/// How precise the time of a read is: to this part of an artifact's age, and to ten minutes.
const RESOLUTION_PARTS: i64 = 16;
const RESOLUTION_MAX_MS: i64 = 10 * 60 * 1000;

/// Until the time of a read is written; a kill loses it before. It is five seconds, and more on a busy machine.
const WRITTEN_AFTER_MS: i64 = 20 * 1000;

/// How many artifacts of each kind are remembered; the oldest go.
const REMEMBERED: usize = 40_000;

/// Whose entry it is: of the trusted scope, or of the isolated one with this number.
pub type Scope = Option<u64>;

/// The time as the server writes it down.
pub fn now_ms() -> i64 {
    UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_millis() as i64)
}

/// An artifact whose bytes follow from its name.
#[derive(Clone)]
pub struct Entry {
    pub scope: Scope,
    pub hash: String,
    seed: u64,
    pub size: usize,
    /// When it was about to be sent, so it was stored no earlier.
    sent_ms: i64,
}

impl Entry {
    /// An artifact that is about to be sent.
    pub fn new(scope: Scope, random: &mut Random, size: usize) -> Self {
        let seed = random.number();
        Self {
            scope,
            hash: format!("{seed:016x}-{size}"),
            seed,
            size,
            sent_ms: now_ms(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        noise(self.seed, self.size)
    }
}

/// What was stored, by kind of scope.
#[derive(Default)]
pub struct Book {
    trusted: Page,
    isolated: Page,
    pins: Mutex<Pins>,
}

struct Page {
    entries: Mutex<VecDeque<Entry>>,
    /// What went was read no later than that, as far as it is known.
    gone_until_ms: AtomicI64,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            gone_until_ms: AtomicI64::new(i64::MIN),
        }
    }
}

/// What is read again and again.
#[derive(Default)]
struct Pins {
    /// With the time when each was acknowledged.
    all: Vec<(Entry, i64)>,
    /// When the last rounds began in which each of them was read.
    rounds_ms: VecDeque<i64>,
}

impl Book {
    fn page(&self, is_isolated: bool) -> &Page {
        if is_isolated {
            &self.isolated
        } else {
            &self.trusted
        }
    }

    /// It was acknowledged: from now on it is promised.
    pub fn promise(&self, entry: Entry) {
        let page = self.page(entry.scope.is_some());
        let mut entries = page.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= REMEMBERED {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// It was acknowledged, and will be read again and again.
    pub fn pin(&self, entry: Entry) {
        self.lock_pins().all.push((entry, now_ms()));
    }

    /// Eviction took it.
    pub fn unpin(&self, entry: &Entry) {
        self.lock_pins()
            .all
            .retain(|(pin, _)| pin.hash != entry.hash);
    }

    /// What is pinned and was acknowledged before then.
    pub fn pins(&self, until_ms: i64) -> Vec<Entry> {
        let pins = self.lock_pins();
        let before = pins.all.iter().filter(|(_, since_ms)| *since_ms < until_ms);
        before.map(|(entry, _)| entry.clone()).collect()
    }

    /// Each pin was read since then.
    pub fn pins_were_read(&self, began_ms: i64) {
        let mut pins = self.lock_pins();
        pins.rounds_ms.push_back(began_ms);
        // The last of those that are written, and all later ones.
        while pins
            .rounds_ms
            .get(1)
            .is_some_and(|next| *next < now_ms() - WRITTEN_AFTER_MS)
        {
            pins.rounds_ms.pop_front();
        }
    }

    fn lock_pins(&self) -> std::sync::MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server at least takes for the time of the last read of an artifact.
    fn known_read_ms(&self, entry: &Entry) -> i64 {
        let pins = self.lock_pins();
        if pins.all.iter().all(|(pin, _)| pin.hash != entry.hash) {
            return entry.sent_ms;
        }
        let written_ms = now_ms() - WRITTEN_AFTER_MS;
        let rounds = pins.rounds_ms.iter().rev();
        let read_ms = rounds.copied().find(|began_ms| *began_ms < written_ms);
        read_ms.map_or(entry.sent_ms, |read_ms| {
            let resolution_ms = (read_ms - entry.sent_ms) / RESOLUTION_PARTS;
            entry
                .sent_ms
                .max(read_ms - resolution_ms.clamp(0, RESOLUTION_MAX_MS))
        })
    }

    /// Why an artifact that is not there should be; `None` where eviction explains it.
    pub fn why_due(&self, world: &World, entry: &Entry) -> Result<Option<String>> {
        let read_ms = self.known_read_ms(entry);
        let page = self.page(entry.scope.is_some());
        if read_ms <= page.gone_until_ms.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let left_ms = least_recent_ms(world, entry.scope.is_some())?;
        page.gone_until_ms.fetch_max(left_ms, Ordering::SeqCst);
        let ago = |ms: i64| (now_ms() - ms) as f64 / 1000.0;
        Ok((read_ms > left_ms).then(|| {
            format!(
                "stored {:.1} s ago, read {:.1} s ago or later, and what was read {:.1} s ago is there",
                ago(entry.sent_ms),
                ago(read_ms),
                ago(left_ms)
            )
        }))
    }

    /// One of the artifacts: as often a recent one as any.
    pub fn pick(&self, is_isolated: bool, random: &mut Random) -> Option<Entry> {
        const RECENT: usize = 200;
        let page = self.page(is_isolated);
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
}

/// When the artifact was read that goes next, and how long ago others went by their age.
fn least_recent_ms(world: &World, is_isolated: bool) -> Result<i64> {
    // A clean stop leaves one file, so nobody may have it open then.
    let _open = world
        .commands
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let aged_ms = now_ms()
        - if is_isolated {
            ISOLATED_MAX_AGE
        } else {
            MAX_AGE
        }
        .as_millis() as i64;
    let connection = Connection::open_with_flags(world.db(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_mins(1))?;
    let left_ms: Option<i64> = connection.query_row(
        "SELECT min(read_at_ms) FROM artifacts WHERE is_isolated = ?1 AND state = 'stored'",
        [is_isolated],
        |row| row.get(0),
    )?;
    Ok(left_ms.map_or(aged_ms, |left_ms| left_ms.max(aged_ms)))
}
