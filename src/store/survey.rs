//! Reads everything that is stored, byte by byte, beside a server at work: what a backup copies and what
//! `verify` checks.
//!
//! In steps of some milliseconds, each in a snapshot of its own and followed by a pause. A snapshot keeps the
//! write-ahead log from beginning anew, so a long one would stop uploads. Entries never change and ids are
//! never used again, so what one step read is true for as long as the entry is stored; one that went in the
//! meantime is no finding.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::chunks::{self, CHUNK_BYTES};
use super::error::StoreError;

/// How long a step reads before it gives its snapshot back.
const STEP: Duration = Duration::from_millis(20);

/// The pause after each step, in steps: with 1 half of one core's time is left alone, so that on two cores the
/// p99 of small GETs stays within twice its quiet value.
const PAUSE_RATIO: u32 = 1;

/// Unfinished uploads that are remembered to be looked at again: as many as there are connections at the most.
const UPLOADS_MAX: usize = 65_536;

/// The row of an entry.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: i64,
    pub size_bytes: u64,
    pub digest: Vec<u8>,
}

/// What is wrong with the bytes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// This chunk is missing, of a wrong length, or not what was written.
    Chunk(u32),
    /// There is a chunk behind the last one.
    Excess,
}

/// Who hears of what is read, in the snapshot of the step.
pub(super) trait Visitor {
    /// What stops the survey.
    type Error: From<StoreError>;

    /// The next chunk of an entry, unharmed.
    fn chunk(&mut self, row: &Row, sequence: u32, data: &[u8]) -> Result<(), Self::Error>;

    /// All chunks of an entry were there.
    fn whole(&mut self, source: &Connection, row: &Row) -> Result<(), Self::Error>;

    /// They were not.
    fn flawed(&mut self, source: &Connection, row: &Row, flaw: Flaw) -> Result<(), Self::Error>;

    /// An entry of which chunks were read is not stored any more.
    fn gone(&mut self, row: &Row) -> Result<(), Self::Error>;
}

/// A survey of what is stored, in the order of ids.
pub(super) struct Survey {
    after_id: i64,
    until_id: i64,
    current: Option<(Row, u32)>,
    /// Uploads that were met before they were stored, or were not to be.
    uploads: Vec<i64>,
    /// Those of them that are yet to be looked at in this round.
    waiting: Vec<i64>,
    buffer: Vec<u8>,
    /// Bytes and entries behind it.
    pub done: Read,
}

/// How much was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Read {
    /// Entries.
    pub entries: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

impl Survey {
    /// A survey that ends with the newest artifact of this moment.
    pub fn new(source: &Connection) -> Result<Self, StoreError> {
        Ok(Self {
            after_id: 0,
            until_id: newest_id(source)?,
            current: None,
            uploads: Vec::new(),
            waiting: Vec::new(),
            buffer: vec![0; CHUNK_BYTES],
            done: Read::default(),
        })
    }

    /// Goes on to the newest artifact of this moment, with what was stored since the last round.
    pub fn next_round(&mut self, source: &Connection) -> Result<(), StoreError> {
        self.until_id = newest_id(source)?;
        self.waiting = std::mem::take(&mut self.uploads);
        Ok(())
    }

    /// Reads on in one snapshot, as long as `STEP`; whether there is more.
    pub fn step<V: Visitor>(
        &mut self,
        source: &Connection,
        visitor: &mut V,
    ) -> Result<bool, V::Error> {
        let began = Instant::now();
        snapshot(source, || {
            if let Some((row, sequence)) = self.current.take() {
                if is_stored(source, row.id)? {
                    self.current = Some((row, sequence));
                } else {
                    visitor.gone(&row)?;
                }
            }
            while self.advance(source, visitor)? {
                if began.elapsed() >= STEP {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Reads all that is left of the round in the snapshot of the caller, but no entry that would lead beyond
    /// `bytes_max`; whether nothing was left out.
    pub fn finish<V: Visitor>(
        &mut self,
        source: &Connection,
        visitor: &mut V,
        bytes_max: u64,
    ) -> Result<bool, V::Error> {
        let end_bytes = self.done.size_bytes + bytes_max;
        loop {
            if let Some((row, 0)) = &self.current
                && self.done.size_bytes.saturating_add(row.size_bytes) > end_bytes
            {
                return Ok(false);
            }
            if !self.advance(source, visitor)? {
                return Ok(true);
            }
        }
    }

    /// One chunk further, or one row; whether there was any.
    fn advance<V: Visitor>(
        &mut self,
        source: &Connection,
        visitor: &mut V,
    ) -> Result<bool, V::Error> {
        let Some((row, sequence)) = self.current.take() else {
            return Ok(self.begin_next(source)?);
        };
        if sequence < chunks::count(row.size_bytes) {
            let into = &mut self.buffer[..chunks::length(row.size_bytes, sequence)];
            match chunks::read(source, row.id, sequence, into) {
                Ok(()) => {}
                Err(StoreError::Damaged { .. }) => {
                    visitor.flawed(source, &row, Flaw::Chunk(sequence))?;
                    return Ok(true);
                }
                Err(error) => return Err(error.into()),
            }
            visitor.chunk(&row, sequence, into)?;
            self.done.size_bytes += into.len() as u64;
            self.current = Some((row, sequence + 1));
            return Ok(true);
        }
        if chunks::any_from(source, row.id, sequence)? {
            visitor.flawed(source, &row, Flaw::Excess)?;
        } else {
            self.done.entries += 1;
            visitor.whole(source, &row)?;
        }
        Ok(true)
    }

    /// Finds the next stored artifact; whether there may be one after it.
    fn begin_next(&mut self, source: &Connection) -> Result<bool, StoreError> {
        let found = if let Some(id) = self.waiting.pop() {
            find(source, id - 1, id)?
        } else {
            let found = find(source, self.after_id, self.until_id)?;
            let next_id = found.as_ref().map_or(self.until_id, |(row, _)| row.id);
            if next_id <= self.after_id && found.is_some() {
                return Err(StoreError::out_of_order());
            }
            self.after_id = next_id;
            if found.is_none() {
                return Ok(false);
            }
            found
        };
        match found {
            Some((row, state)) if state == "stored" => self.current = Some((row, 0)),
            Some((row, state)) if state == "uploading" && self.uploads.len() < UPLOADS_MAX => {
                self.uploads.push(row.id);
            }
            _ => {}
        }
        Ok(true)
    }
}

/// Runs `read` in a snapshot of its own.
pub(super) fn snapshot<T, E: From<StoreError>>(
    source: &Connection,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    execute(source, "BEGIN")?;
    let outcome = read();
    // What a failed read leaves of its snapshot, the end of the connection ends.
    let ended = execute(source, "COMMIT");
    let found = outcome?;
    ended?;
    Ok(found)
}

/// Leaves the machine to others for as long as this worked.
pub(super) fn pause(since: Instant) {
    std::thread::sleep(since.elapsed() * PAUSE_RATIO);
}

/// Whether it is time for a [`pause`].
pub(super) fn is_time_to_pause(since: Instant) -> bool {
    since.elapsed() >= STEP
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn newest_id(source: &Connection) -> Result<i64, StoreError> {
    let newest: Option<i64> = source
        .prepare_cached("SELECT max(id) FROM artifacts")?
        .query_row([], |row| row.get(0))?;
    Ok(newest.unwrap_or(0))
}

fn is_stored(source: &Connection, id: i64) -> Result<bool, StoreError> {
    let mut statement =
        source.prepare_cached("SELECT 1 FROM artifacts WHERE id = ?1 AND state = 'stored'")?;
    Ok(statement.exists([id])?)
}

fn find(
    source: &Connection,
    after_id: i64,
    until_id: i64,
) -> Result<Option<(Row, String)>, StoreError> {
    let mut statement = source.prepare_cached(
        "SELECT id, size_bytes, digest, state FROM artifacts NOT INDEXED
         WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT 1",
    )?;
    let found = statement.query_row([after_id, until_id], |row| {
        let found = Row {
            id: row.get(0)?,
            size_bytes: row.get::<_, i64>(1)? as u64,
            digest: row.get::<_, Option<Vec<u8>>>(2)?.unwrap_or_default(),
        };
        Ok((found, row.get(3)?))
    });
    Ok(found.optional()?)
}
