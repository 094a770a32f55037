//! Downloads in progress: what is being read keeps its chunks, however slow its reader is.
//!
//! An artifact that is hidden meanwhile is freed by the cleaner once the last of its downloads has ended.
//! Isolated downloads hold what is hidden for a while only: pull requests that read slowly must not keep the
//! room that trusted uploads wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::model::{Artifact, ScopeKind};

/// How long downloads of isolated tokens hold an artifact that is hidden. One that takes longer is cut.
const ISOLATED_HOLD: Duration = Duration::from_mins(10);

/// The downloads that are going on. As many artifacts as connections at the most.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<HashMap<i64, Readers>>);

/// Who reads one artifact.
#[derive(Debug, Default)]
struct Readers {
    /// By the kind of the reader, not of the artifact.
    counts: [u32; 2],
    /// When it was first found to be hidden, by a clock that nobody sets.
    hidden: Option<Instant>,
}

/// One download; it ends when this is dropped.
#[derive(Debug)]
pub struct Reading {
    readings: Arc<Readings>,
    artifact_id: i64,
    reader: ScopeKind,
}

impl Readings {
    /// Begins a download by a reader of this kind; `None` where all of it is read at once, in the snapshot
    /// that found it.
    pub fn begin(self: &Arc<Self>, artifact: &Artifact, reader: ScopeKind) -> Option<Reading> {
        if artifact.is_small() {
            return None;
        }
        let mut readings = self.lock();
        readings.entry(artifact.id).or_default().counts[reader as usize] += 1;
        drop(readings);
        Some(Reading {
            readings: Arc::clone(self),
            artifact_id: artifact.id,
            reader,
        })
    }

    /// Whether this artifact, which is hidden, must keep its chunks for those who read it.
    pub fn holds(&self, artifact_id: i64) -> bool {
        self.holds_at(artifact_id, Instant::now())
    }

    fn holds_at(&self, artifact_id: i64, now: Instant) -> bool {
        let mut readings = self.lock();
        readings.get_mut(&artifact_id).is_some_and(|readers| {
            let hidden = *readers.hidden.get_or_insert(now);
            readers.counts[ScopeKind::Trusted as usize] > 0
                || now.saturating_duration_since(hidden) < ISOLATED_HOLD
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Readers>> {
        // Nothing here can panic while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readings = self.readings.lock();
        if let Some(readers) = readings.get_mut(&self.artifact_id) {
            readers.counts[self.reader as usize] -= 1;
            if readers.counts == [0, 0] {
                readings.remove(&self.artifact_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ScopeKind::{Isolated, Trusted};
    use super::*;

    #[test]
    fn isolated_downloads_hold_what_is_hidden_for_a_while_and_trusted_ones_to_their_end() {
        let readings = Arc::new(Readings::default());
        let artifact = Artifact {
            id: 7,
            kind: Trusted,
            size_bytes: 1 << 20,
            created_at_ms: 0,
            read_at_ms: 0,
        };
        let begin = |reader| readings.begin(&artifact, reader).expect("a reading");
        let isolated = begin(Isolated);
        let hidden = Instant::now();
        let holds = |after| readings.holds_at(7, hidden + after);
        let second = Duration::from_secs(1);
        assert!(holds(Duration::ZERO));
        assert!(holds(second * 599));
        assert!(!holds(ISOLATED_HOLD));
        let trusted = begin(Trusted);
        assert!(holds(100 * ISOLATED_HOLD));
        drop(trusted);
        assert!(!holds(100 * ISOLATED_HOLD), "only the isolated one is left");
        assert!(!readings.holds(8));
        drop(isolated);
        assert!(readings.lock().is_empty());
    }
}
