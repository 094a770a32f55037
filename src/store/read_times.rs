//! When artifacts were read: noted in memory, written in batches, so that no GET waits for a write.
//!
//! What is not written yet when the process is killed is lost: a few entries look some seconds older than
//! they are. Whose reads count is decided in `api`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::StoreError;
use super::model::{Artifact, ScopeKind};
use super::ticket::Weight;
use super::writer::{Writer, deadline};
use super::{artifacts, now_ms};

/// How precise the time of a read is for old entries: one write for each that is read all the time.
const RESOLUTION: Duration = Duration::from_mins(10);

/// Younger entries are noted more precisely: to this part of their age.
const RESOLUTION_PARTS: u64 = 16;

/// Entries of each kind that are remembered until they are written: half a MiB. Further ones look older than
/// they are. The kinds are apart: what isolated clients read must not displace a note on a trusted entry.
const NOTED_MAX: usize = 16_384;

/// Entries that one job writes. Each changes a page of the table and one or two of the index, 32 KiB of
/// log and more; so that is two batches of an upload.
const BATCH_ROWS: usize = 64;

/// Times of reads that are not in the database yet.
#[derive(Debug, Default)]
pub(super) struct ReadTimes {
    trusted: Mutex<Noted>,
    isolated: Mutex<Noted>,
}

/// By the ids of artifacts.
type Noted = HashMap<i64, i64>;

impl ReadTimes {
    /// Notes that an artifact was read just now, unless the database knows it precisely enough.
    pub fn note(&self, artifact: &Artifact) {
        self.note_at(artifact, now_ms());
    }

    fn note_at(&self, artifact: &Artifact, now_ms: i64) {
        let age_ms = now_ms.abs_diff(artifact.created_at_ms);
        let resolution_ms = (RESOLUTION.as_millis() as u64).min(age_ms / RESOLUTION_PARTS);
        // A time in the future, by a clock that was wrong, is put right, too.
        if now_ms.abs_diff(artifact.read_at_ms) <= resolution_ms {
            return;
        }
        let mut noted = self.lock(artifact.kind);
        if noted.len() < NOTED_MAX || noted.contains_key(&artifact.id) {
            noted.insert(artifact.id, now_ms);
        }
    }

    /// Writes what was noted, one bounded job after the other, waiting so long for each; what cannot be
    /// written stays for the next time.
    pub fn flush(&self, writer: &Writer, wait: Duration) -> Result<(), StoreError> {
        self.flush_kind(ScopeKind::Trusted, writer, wait)?;
        self.flush_kind(ScopeKind::Isolated, writer, wait)
    }

    fn flush_kind(
        &self,
        kind: ScopeKind,
        writer: &Writer,
        wait: Duration,
    ) -> Result<(), StoreError> {
        let mut noted: Vec<(i64, i64)> = self.lock(kind).drain().collect();
        // Neighbours in the table share pages.
        noted.sort_unstable();
        let mut batches = noted.chunks(BATCH_ROWS);
        while let Some(batch) = batches.next() {
            let rows = batch.to_vec();
            let ticket = writer.submit(Weight::Bulk, move |connection| {
                rows.iter().try_for_each(|&(id, read_at_ms)| {
                    artifacts::note_read(connection, id, read_at_ms)
                })
            });
            if let Err(error) = ticket.wait(deadline(wait)) {
                self.put_back(kind, batch.iter().chain(batches.flatten()));
                return Err(error);
            }
        }
        Ok(())
    }

    fn put_back<'n>(&self, kind: ScopeKind, rows: impl Iterator<Item = &'n (i64, i64)>) {
        let mut noted = self.lock(kind);
        for &(id, read_at_ms) in rows {
            if noted.len() < NOTED_MAX {
                noted.entry(id).or_insert(read_at_ms);
            }
        }
    }

    fn lock(&self, kind: ScopeKind) -> MutexGuard<'_, Noted> {
        let noted = match kind {
            ScopeKind::Trusted => &self.trusted,
            ScopeKind::Isolated => &self.isolated,
        };
        // Nothing here can panic while it holds the lock.
        noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn artifact(created_at_ms: i64, read_at_ms: i64) -> Artifact {
        Artifact {
            id: 7,
            kind: ScopeKind::Trusted,
            size_bytes: 1,
            created_at_ms,
            read_at_ms,
        }
    }

    fn is_noted(artifact: &Artifact, now_ms: i64) -> bool {
        let times = ReadTimes::default();
        times.note_at(artifact, now_ms);
        times.lock(ScopeKind::Trusted).get(&7) == Some(&now_ms)
    }

    #[test]
    fn a_young_entry_is_noted_precisely_and_an_old_one_every_ten_minutes() {
        // Stored and read at once: the first read is always worth a note.
        assert!(is_noted(&artifact(1000, 1000), 1001));
        assert!(!is_noted(&artifact(1000, 1000), 1000));
        // A minute old: to four seconds.
        let minute = |read_at_ms| artifact(0, read_at_ms);
        assert!(!is_noted(&minute(MINUTE_MS - 3750), MINUTE_MS));
        assert!(is_noted(&minute(MINUTE_MS - 3751), MINUTE_MS));
        // A month old: to ten minutes, not to two days.
        let month_ms = 30 * 24 * 60 * MINUTE_MS;
        assert!(!is_noted(&artifact(0, month_ms - 10 * MINUTE_MS), month_ms));
        assert!(is_noted(
            &artifact(0, month_ms - 10 * MINUTE_MS - 1),
            month_ms
        ));
    }

    #[test]
    fn a_time_of_a_clock_that_was_wrong_is_put_right() {
        let year_ms = 365 * 24 * 60 * MINUTE_MS;
        assert!(is_noted(&artifact(0, 2 * year_ms), year_ms));
    }

    #[test]
    fn what_is_noted_is_bounded_and_a_later_read_of_the_same_entry_counts() {
        let times = ReadTimes::default();
        for id in 0..NOTED_MAX as i64 + 5 {
            times.note_at(
                &Artifact {
                    id,
                    ..artifact(0, 0)
                },
                10_000,
            );
        }
        assert_eq!(times.lock(ScopeKind::Trusted).len(), NOTED_MAX);
        times.note_at(
            &Artifact {
                id: 3,
                ..artifact(0, 0)
            },
            20_000,
        );
        assert_eq!(times.lock(ScopeKind::Trusted).get(&3), Some(&20_000));
    }

    #[test]
    fn reads_of_isolated_entries_displace_no_note_on_a_trusted_one() {
        let times = ReadTimes::default();
        for id in 100..2 * NOTED_MAX as i64 {
            let kind = ScopeKind::Isolated;
            let isolated = Artifact {
                id,
                kind,
                ..artifact(0, 0)
            };
            times.note_at(&isolated, 10_000);
        }
        times.note_at(&artifact(0, 0), 10_000);
        assert_eq!(times.lock(ScopeKind::Trusted).get(&7), Some(&10_000));
        assert_eq!(times.lock(ScopeKind::Isolated).len(), NOTED_MAX);
    }
}
