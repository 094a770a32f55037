//! Frees what condemned artifacts occupied: in small steps, behind everybody else, after a grace.
//!
//! Hiding an artifact is one row; freeing its pages is work. The grace lets a reader that found the
//! artifact before it was hidden finish; one that is slower still is cut (see `api`).
//!
//! Hiding what is left of an upload is a write too, which a full disk or a busy database refuses just
//! when it is needed most: it is tried again until it is done.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::model::Condemned;
use super::space::Space;
use super::ticket::{Ticket, Weight};
use super::writer::Writer;
use super::{artifacts, chunks, now_ms};

/// How long chunks stay after their artifact was hidden.
const GRACE: Duration = Duration::from_mins(10);

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

/// Frees a bounded number of chunks.
pub(super) fn clean_some(writer: &Writer, space: &Space) -> Result<Progress, StoreError> {
    let ticket = writer.submit(Weight::Bulk, |connection| {
        let progress = clean_one(connection)?;
        let free_pages: i64 =
            connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        Ok((progress, free_pages as u64 * PAGE_SIZE_BYTES))
    });
    let (progress, reusable_bytes) = ticket.wait(Instant::now() + WAIT)?;
    space.set_reusable_bytes(reusable_bytes);
    Ok(progress)
}

fn clean_one(connection: &Connection) -> Result<Progress, StoreError> {
    let until_ms = now_ms() - GRACE.as_millis() as i64;
    let Some(id) = artifacts::find_condemned(connection, until_ms)? else {
        return Ok(Progress::Done);
    };
    if chunks::delete_some(connection, id)? {
        artifacts::delete(connection, id)?;
    }
    Ok(Progress::More)
}
