//! Copies the database into one new file while a server works with it.
//!
//! Not by `VACUUM INTO`, whose one snapshot would last for minutes and keep the write-ahead log growing until
//! uploads stop. Entries never change and ids are never used again, so the bytes are copied in short steps
//! (`survey`), in rounds that catch up with what was stored meanwhile. One last short snapshot copies the small
//! tables and makes the copy agree with that moment. So the copy is what was there then, but for entries that
//! are damaged, and for the newest ones where uploads outran the rounds.
//!
//! The schema of the copy is made by the migrations and its counters by counting: what is wrong with either in
//! the source is right in the copy.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::admin::Admin;
use super::beside::{self, Beside, PlaceError};
use super::catalog::ScopeRecord;
use super::connection::{self, PAGE_SIZE_BYTES, Profile, Role, Synchronous};
use super::copy::Copy;
use super::error::StoreError;
use super::survey::{self, Read, Survey};
use super::ticket::Weight;
use super::writer::{Writer, deadline};
use super::{now_ms, schema};

/// What the last snapshot copies at the most: some tens of milliseconds' work. What is stored after the last
/// round and does not fit is left to the next backup.
const REMAINDER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Each round of copying takes over what was stored during the one before. One that copies more than a half of
/// what the one before did is the last: uploads that are as fast as the copy would keep it going for ever.
const ROUND_SHRINKS: u64 = 2;

/// How much is written before it is sent to the disk: a backup must not leave gigabytes to the next sync of
/// the server's log.
const SYNC_BYTES: u64 = 32 * 1024 * 1024;

/// How long the server's writer may take to remember a backup.
const RECORD_WAIT: Duration = Duration::from_secs(30);

/// Backups that the database remembers.
const REMEMBERED: i64 = 1000;

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct BackupRequest<'r> {
    /// The file to make.
    pub destination: &'r Path,
    /// Whether it may take the place of another.
    pub replace: bool,
    /// What is to stay free on the disk of the database, in bytes.
    pub floor_bytes: u64,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupProgress {
    /// What was copied.
    pub done: Read,
    /// What there was to copy at the start, in bytes.
    pub total_bytes: u64,
}

/// A backup that is in its place.
#[derive(Debug)]
pub struct BackupMade {
    /// The length of the file, in bytes.
    pub size_bytes: u64,
    /// The entries in it.
    pub copied: Read,
    /// Entries that are not in it because their bytes are damaged.
    pub damaged: Vec<Lost>,
    /// Entries that are not in it because they were stored while it was made, faster than it could copy.
    pub left_out: u64,
    /// Why the database does not remember it, if so.
    pub unrecorded: Option<StoreError>,
}

/// A damaged entry.
#[derive(Debug, Clone)]
pub struct Lost {
    /// Its row.
    pub(super) id: i64,
    /// Where it is.
    pub scope: ScopeRecord,
    /// What it goes by.
    pub hash: String,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot come to its place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The database cannot be read.
    #[error("cannot read the database: {0}")]
    Source(#[from] StoreError),
    /// What was written is not what was read: a disk or a memory that fails, or a mistake of ours.
    #[error("the copy is not sound: {0}")]
    Unsound(String),
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Makes backups on the server's own behalf.
pub struct Backups {
    pub(super) database: PathBuf,
    /// Not the store's last: it closes the database when it is dropped.
    pub(super) writer: Weak<Writer>,
}

impl Backups {
    /// Makes one; ends soon after `stop` is set.
    pub fn make(
        &self,
        request: BackupRequest<'_>,
        stop: &Arc<AtomicBool>,
    ) -> Result<BackupMade, BackupError> {
        let mut made = run(&self.database, request, stop, &mut |_| {})?;
        made.unrecorded = self.record(made.size_bytes, request.destination).err();
        Ok(made)
    }

    fn record(&self, size_bytes: u64, destination: &Path) -> Result<(), StoreError> {
        let destination = destination.to_owned();
        let writer = self.writer.upgrade().ok_or(StoreError::Closed)?;
        let ticket = writer.submit(Weight::Small(0), move |connection| {
            record(connection, size_bytes, &destination)
        });
        drop(writer);
        ticket.wait(deadline(RECORD_WAIT))
    }
}

impl Admin {
    /// Makes a backup of the database, which is at this path, beside a server at work or without one.
    pub fn backup(
        &mut self,
        database: &Path,
        request: BackupRequest<'_>,
        stop: &Arc<AtomicBool>,
        watch: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupMade, BackupError> {
        let mut made = run(database, request, stop, watch)?;
        made.unrecorded = record(&self.connection, made.size_bytes, request.destination).err();
        Ok(made)
    }
}

fn run(
    database: &Path,
    request: BackupRequest<'_>,
    stop: &Arc<AtomicBool>,
    watch: &mut dyn FnMut(BackupProgress),
) -> Result<BackupMade, BackupError> {
    let BackupRequest {
        destination,
        replace,
        floor_bytes,
    } = request;
    beside::check_target(database, destination, replace)?;
    let source = open_source(database)?;
    let reserve_bytes = beside::reserve_bytes(database, destination, floor_bytes);
    beside::check_room(destination, used_bytes(&source)?, reserve_bytes)?;
    let beside = Beside::create(destination)?;
    let mut made = fill(&source, &beside, stop, watch)?;
    drop(source);
    let file = beside.file().metadata();
    made.size_bytes = file
        .map_err(|source| beside::io("read", beside.path(), source))?
        .len();
    beside.place(replace, || {
        beside::check_target(database, destination, replace)
    })?;
    Ok(made)
}

/// A mapping would count what is read as memory, and an error of the disk would end the process.
fn open_source(database: &Path) -> Result<Connection, StoreError> {
    let profile = Profile {
        synchronous: Synchronous::Normal,
        mmap: false,
    };
    Ok(connection::open(database, Role::Reader, profile)?)
}

/// Writes everything into the empty file.
fn fill(
    source: &Connection,
    beside: &Beside,
    stop: &Arc<AtomicBool>,
    watch: &mut dyn FnMut(BackupProgress),
) -> Result<BackupMade, BackupError> {
    let mut copy = Copy::create(source, beside.path())?;
    let total_bytes = stored_bytes(source)?;
    let mut survey = Survey::new(source)?;
    let mut last_bytes = u64::MAX;
    loop {
        let before_bytes = survey.done.size_bytes;
        while step(source, &mut copy, &mut survey, beside, stop)? {
            let done = survey.done;
            watch(BackupProgress { done, total_bytes });
        }
        let round_bytes = survey.done.size_bytes - before_bytes;
        if round_bytes <= REMAINDER_BYTES_MAX || round_bytes > last_bytes / ROUND_SHRINKS {
            break;
        }
        last_bytes = round_bytes;
        survey.next_round(source)?;
    }
    let left_out = copy.finish(source, &mut survey, REMAINDER_BYTES_MAX)?;
    let (copied, damaged) = copy.complete(stop)?;
    Ok(BackupMade {
        size_bytes: 0,
        copied,
        damaged,
        left_out,
        unrecorded: None,
    })
}

/// Copies for some milliseconds and rests for as long; whether there is more in this round.
fn step(
    source: &Connection,
    copy: &mut Copy,
    survey: &mut Survey,
    beside: &Beside,
    stop: &AtomicBool,
) -> Result<bool, BackupError> {
    if stop.load(Ordering::Relaxed) {
        return Err(BackupError::Interrupted);
    }
    let began = Instant::now();
    let more = copy.in_transaction(|copy| survey.step(source, copy))?;
    survey::pause(began);
    if copy.unsynced_bytes >= SYNC_BYTES {
        copy.unsynced_bytes = 0;
        beside.sync_some()?;
    }
    Ok(more)
}

/// The length of all pages that hold something: the copy is hardly longer than that.
fn used_bytes(source: &Connection) -> Result<u64, StoreError> {
    let number = |pragma| source.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let pages = number("page_count")? - number("freelist_count")?;
    Ok(pages as u64 * PAGE_SIZE_BYTES)
}

/// What the counters say that there is: for progress only.
pub(super) fn stored_bytes(source: &Connection) -> Result<u64, StoreError> {
    let sum: Option<i64> = source.query_row(
        "SELECT (SELECT ifnull(sum(size_bytes), 0) FROM trusted_usage)
              + (SELECT ifnull(sum(size_bytes), 0) FROM isolated_totals)",
        [],
        |row| row.get(0),
    )?;
    Ok(sum.unwrap_or(0) as u64)
}

/// Remembers a backup, and forgets those of long ago.
fn record(connection: &Connection, size_bytes: u64, destination: &Path) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO backups (finished_at_ms, size_bytes, destination) VALUES (?1, ?2, ?3)",
        (
            now_ms(),
            size_bytes as i64,
            absolute(destination).to_string_lossy(),
        ),
    )?;
    connection.execute(
        "DELETE FROM backups WHERE id <= (SELECT max(id) FROM backups) - ?1",
        [REMEMBERED],
    )?;
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The schema version that backups have.
pub(super) const VERSION: u32 = schema::VERSION;
