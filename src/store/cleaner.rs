//! Frees what condemned artifacts occupied: in small steps, behind everybody else, after a grace.
//!
//! Hiding an artifact is one row; freeing its pages is work. The grace lets a reader that found the
//! artifact before it was hidden finish; one that is slower still is cut (see `api`).
//!
//! Hiding what is left of an upload is a write too, which a full disk or a busy database refuses just
//! when it is needed most: it is tried again until it is done.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
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

/// How often to look for something to free.
const TICK: Duration = Duration::from_secs(1);

/// How long to wait for the writer before trying again at the next tick.
const WAIT: Duration = Duration::from_mins(1);

/// How long a stop waits for the same; what is left then is swept by the next start.
const STOP_WAIT: Duration = Duration::from_secs(5);

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
    fn condemn(&self, writer: &Writer, wait: Duration) {
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

/// The thread that frees; ends when dropped.
pub(super) struct Cleaner {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// Starts the thread.
    pub fn start(
        writer: Arc<Writer>,
        space: Arc<Space>,
        leftovers: Arc<Leftovers>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let signal = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("cleaner".to_owned())
            .spawn(move || {
                while !wait_for_stop(&signal) {
                    leftovers.condemn(&writer, WAIT);
                    while matches!(clean_some(&writer, &space), Ok(Progress::More)) {
                        if is_stopped(&signal) {
                            break;
                        }
                    }
                }
                leftovers.condemn(&writer, STOP_WAIT);
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // What it left undone is found again at the next start.
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

fn is_stopped(stop: &(Mutex<bool>, Condvar)) -> bool {
    *stop.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_for_stop(stop: &(Mutex<bool>, Condvar)) -> bool {
    let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = stop
        .1
        .wait_timeout_while(stopped, TICK, |stopped| !*stopped);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

/// Frees a bounded number of chunks.
fn clean_some(writer: &Writer, space: &Space) -> Result<Progress, StoreError> {
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
