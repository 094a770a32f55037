//! Frees what condemned artifacts occupied: in small steps, behind everybody else, and never what somebody
//! is reading.
//!
//! Hiding an artifact is one row; freeing its pages is work. Who found the artifact before it was hidden is
//! in `reading`, however slow he is; the grace is for him who is about to be.
//!
//! Hiding what is left of an upload is a write too, which a full disk or a busy database refuses just
//! when it is needed most: it is tried again until it is done.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::error::StoreError;
use super::model::Condemned;
use super::reading::Readings;
use super::ticket::{Ticket, Weight};
use super::writer::Writer;
use super::{artifacts, chunks, now_ms};

/// How long chunks stay after their artifact was hidden: far longer than it takes from a look-up to the note
/// that the artifact is being read, which are in one snapshot.
const GRACE: Duration = Duration::from_secs(10);

/// Chunks that one job deletes at the most: 64 MiB, a few milliseconds of work.
const CHUNKS_MAX: usize = 256;

/// Artifacts that one job frees at the most: small ones are as much work as their rows and index entries.
const ROWS_MAX: usize = 128;

/// Damaged artifacts that are remembered, so that they are not tried again: a file with more is beyond help.
const DAMAGED_MAX: usize = 4096;

/// How long to wait for the writer before trying again at the next tick.
pub(super) const WAIT: Duration = Duration::from_mins(1);

/// What uploads that ended without an artifact left in the file.
#[derive(Default)]
pub(super) struct Leftovers(Mutex<Vec<Leftover>>);

/// The row of one such upload.
pub(super) enum Leftover {
    /// It is there.
    Begun(i64),
    /// A batch was being written when the upload ended; the row is there already, if it was not the first.
    InFlight(Ticket<i64>, Option<i64>),
}

impl Leftovers {
    /// Leaves a row to the cleaner.
    pub fn add(&self, leftover: Leftover) {
        self.lock().push(leftover);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Leftover>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hides all of them; those that cannot be hidden within the wait stay for the next time.
    pub fn condemn(&self, writer: &Writer, wait: Duration) {
        let deadline = Instant::now() + wait;
        let all = std::mem::take(&mut *self.lock());
        for leftover in all {
            let id = match leftover {
                Leftover::Begun(id) => Some(id),
                Leftover::InFlight(ticket, begun) => ticket.wait(deadline).ok().or(begun),
            };
            // What was not written needs no hiding.
            let Some(id) = id else { continue };
            let ticket = writer.submit(Weight::Small(0), move |connection| {
                artifacts::condemn(connection, id, Condemned::Unfinished)
            });
            if ticket.wait(deadline).is_err() {
                self.add(Leftover::Begun(id));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

/// What the cleaner leaves where it is: what is being read, and what it cannot free.
#[derive(Default)]
pub(super) struct Kept {
    readings: Arc<Readings>,
    /// Artifacts whose pages are malformed. They stay so until the file is replaced.
    damaged: Mutex<HashSet<i64>>,
}

impl Kept {
    /// With these downloads going on.
    pub fn new(readings: Arc<Readings>) -> Self {
        Self {
            readings,
            damaged: Mutex::default(),
        }
    }

    /// Whether this artifact, which is hidden, stays for now.
    pub fn holds(&self, artifact_id: i64) -> bool {
        self.damaged().contains(&artifact_id) || self.readings.holds(artifact_id)
    }

    /// How many artifacts cannot be freed.
    pub fn damaged_count(&self) -> usize {
        self.damaged().len()
    }

    /// Leaves an artifact alone from now on.
    fn give_up(&self, artifact_id: i64) {
        let mut damaged = self.damaged();
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(artifact_id);
        }
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees a bounded number of chunks and rows.
pub(super) fn clean_some(writer: &Writer, kept: &Arc<Kept>) -> Result<Progress, StoreError> {
    let kept = Arc::clone(kept);
    let ticket = writer.submit(Weight::Bulk, move |connection| {
        let now_ms = now_ms();
        artifacts::clamp_condemned(connection, now_ms)?;
        let until_ms = now_ms - GRACE.as_millis() as i64;
        clean(connection, until_ms, &kept)
    });
    ticket.wait(Instant::now() + WAIT)
}

/// Frees some of what was condemned at or before `until_ms`, in the transaction at hand, without what is
/// `kept`. An artifact that lies on a malformed page is noted there and is an error, after which the
/// transaction is good for nothing; the next one does without it.
pub(super) fn clean(
    connection: &Connection,
    until_ms: i64,
    kept: &Kept,
) -> Result<Progress, StoreError> {
    let mut chunks_left = CHUNKS_MAX;
    let mut progress = Progress::Done;
    for id in artifacts::find_condemned(connection, until_ms, ROWS_MAX, |id| kept.holds(id))? {
        progress = Progress::More;
        let freed = free(connection, id, chunks_left);
        if freed.as_ref().is_err_and(StoreError::is_corruption) {
            kept.give_up(id);
        }
        chunks_left -= freed?;
        if chunks_left == 0 {
            break;
        }
    }
    Ok(progress)
}

/// Frees an artifact, or so many of its chunks; how many went.
fn free(connection: &Connection, id: i64, chunks_max: usize) -> Result<usize, StoreError> {
    if !artifacts::is_condemned(connection, id)? {
        return Err(StoreError::malformed(
            "the index artifacts_to_clean_up leads to an artifact that is not condemned",
        ));
    }
    let deleted = chunks::delete_some(connection, id, chunks_max)?;
    if deleted.is_all {
        artifacts::delete(connection, id)?;
    }
    Ok(deleted.chunks)
}
