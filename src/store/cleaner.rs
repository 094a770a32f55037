//! Frees what condemned artifacts occupied: in small steps, behind everybody else, and never what somebody
//! is reading.
//!
//! Hiding an artifact is one row; freeing its pages is work. Who found the artifact before it was hidden is
//! in `reading`, however slow he is; the grace is for him who is about to be.
//!
//! Hiding what is left of an upload is a write too, which a full disk or a busy database refuses just
//! when it is needed most: it is tried again until it is done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::eviction::FilePages;
use super::model::Condemned;
use super::reading::Readings;
use super::space::Space;
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

/// Frees a bounded number of chunks and rows.
pub(super) fn clean_some(
    writer: &Writer,
    space: &Space,
    readings: &Arc<Readings>,
) -> Result<(Progress, FilePages), StoreError> {
    let readings = Arc::clone(readings);
    let ticket = writer.submit(Weight::Bulk, move |connection| {
        let until_ms = now_ms() - GRACE.as_millis() as i64;
        let progress = clean(connection, until_ms, |id| readings.holds(id))?;
        Ok((progress, FilePages::of(connection)?))
    });
    let (progress, file) = ticket.wait(Instant::now() + WAIT)?;
    space.set_reusable_bytes(file.free * PAGE_SIZE_BYTES);
    Ok((progress, file))
}

/// Frees some of what was condemned at or before `until_ms`, in the transaction at hand, without what is
/// `held`.
pub(super) fn clean(
    connection: &Connection,
    until_ms: i64,
    held: impl Fn(i64) -> bool,
) -> Result<Progress, StoreError> {
    let mut chunks_left = CHUNKS_MAX;
    let mut progress = Progress::Done;
    for id in artifacts::find_condemned(connection, until_ms, ROWS_MAX, held)? {
        progress = Progress::More;
        let deleted = chunks::delete_some(connection, id, chunks_left)?;
        if deleted.is_all {
            artifacts::delete(connection, id)?;
        }
        chunks_left -= deleted.chunks;
        if chunks_left == 0 {
            break;
        }
    }
    Ok(progress)
}
