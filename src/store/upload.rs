//! An artifact on its way in: reserved, staged, committed.
//!
//! The caller reads from the network into [`Upload::space`] with no lock held. Filled chunks go to the
//! writer in batches under an id nobody can read, one batch in flight while the next one fills. The last
//! batch, the checks and the publication are one transaction; a small artifact is only that one.
//!
//! Invariant: an upload that is dropped before [`Upload::finish`] said `New` leaves nothing readable,
//! and what it wrote is freed.

use rusqlite::Connection;

use super::Store;
use super::artifacts;
use super::buffers::Buffer;
use super::chunks::{self, CHUNK_BYTES};
use super::cleaner::Leftover;
use super::error::StoreError;
use super::model::{NewArtifact, Scope, Stored};
use super::quota::{IsolatedLimits, Promise};
use super::reader::Reader;
use super::space::Reservation;
use super::ticket::{Ticket, Weight};
use super::tokens;
use super::writer::deadline;

/// Chunks in a batch: 1 MiB. Larger batches hold up others and gain nothing (scripts/bench.sh).
const BATCH_CHUNKS: usize = 4;

/// What became of the wish to upload.
pub enum Admission<'s> {
    /// There is room, and its key is free.
    Upload(Box<Upload<'s>>),
    /// It would not be stored, for this reason.
    Refused(Stored),
}

/// An upload in progress.
pub struct Upload<'s> {
    store: &'s Store,
    new: NewArtifact,
    reservation: Reservation,
    /// Of isolated scopes only.
    _promise: Option<Promise>,
    digest: blake3::Hasher,
    received_bytes: u64,
    in_flight_bytes: u64,
    filling: Option<Filling>,
    batch: Batch,
    row: Row,
}

/// The chunk that is being received.
struct Filling {
    buffer: Buffer,
    filled: usize,
}

/// Received chunks that were not handed to the writer yet.
#[derive(Default)]
struct Batch {
    first_sequence: u32,
    chunks: Vec<Chunk>,
}

struct Chunk {
    buffer: Buffer,
    length: usize,
    data_hash: u64,
}

/// The row of the artifact in the database.
enum Row {
    /// Not written: everything so far is in memory.
    None,
    /// Being written with the batch that is in flight; there already, if an earlier batch has begun it.
    InFlight(Ticket<i64>, Option<i64>),
    /// Written, as an upload.
    Begun(i64),
}

impl<'s> Upload<'s> {
    /// Looks in the snapshot of `reader` whether the artifact could be stored, and reserves room for it.
    pub(super) fn begin(
        store: &'s Store,
        reader: Reader,
        new: NewArtifact,
    ) -> Result<Admission<'s>, StoreError> {
        // Quotas come first, as in the transaction that publishes: who is over his own is told so
        // whatever is stored (design/trust.md, the table of PUT).
        let promise = match &new.scope {
            Scope::Trusted(_) => None,
            Scope::Isolated(workspace, name) => {
                let promise =
                    store
                        .quotas
                        .promise(reader.connection(), *workspace, name, new.size_bytes)?;
                match promise {
                    Ok(promise) => Some(promise),
                    Err(quota) => return Ok(Admission::Refused(Stored::OverQuota(quota))),
                }
            }
        };
        if artifacts::is_taken(reader.connection(), &new)? {
            return Ok(Admission::Refused(Stored::Exists));
        }
        drop(reader);
        let log_bytes = store.writer.shared().log_bytes();
        let reservation = store
            .space
            .reserve(new.scope.kind(), new.size_bytes, log_bytes)?;
        Ok(Admission::Upload(Box::new(Self {
            store,
            new,
            reservation,
            _promise: promise,
            digest: blake3::Hasher::new(),
            received_bytes: 0,
            in_flight_bytes: 0,
            filling: None,
            batch: Batch::default(),
            row: Row::None,
        })))
    }

    /// Where the next bytes of the artifact go: never empty while some are missing. May wait for a
    /// buffer and for the writer.
    pub fn space(&mut self) -> Result<&mut [u8], StoreError> {
        let missing_bytes = self.new.size_bytes - self.received_bytes;
        let filling = match self.filling.take() {
            Some(filling) => filling,
            None => Filling {
                buffer: self.buffer()?,
                filled: 0,
            },
        };
        let end = (filling.filled as u64 + missing_bytes).min(CHUNK_BYTES as u64) as usize;
        let start = filling.filled;
        Ok(&mut self.filling.insert(filling).buffer[start..end])
    }

    /// Says that the first `count` bytes of [`Upload::space`] were received.
    pub fn advance(&mut self, count: usize) -> Result<(), StoreError> {
        let Some(filling) = &mut self.filling else {
            return Ok(());
        };
        filling.filled += count;
        self.received_bytes += count as u64;
        let is_complete = self.received_bytes == self.new.size_bytes;
        if filling.filled < CHUNK_BYTES && !is_complete {
            return Ok(());
        }
        self.seal();
        let is_full = self.batch.chunks.len() == BATCH_CHUNKS;
        let kind = self.new.scope.kind();
        if !is_complete && (is_full || self.store.upload_buffers.is_contended(kind)) {
            self.send_batch()?;
        }
        Ok(())
    }

    /// Stores the artifact if its key is free and its writer may still write.
    pub fn finish(mut self) -> Result<Stored, StoreError> {
        if self.received_bytes != self.new.size_bytes {
            return Err(StoreError::Incomplete);
        }
        let row = self.settle()?;
        let new = self.new.clone();
        let batch = std::mem::take(&mut self.batch);
        let digest = *self.digest.finalize().as_bytes();
        let weight = Weight::of(batch.bytes());
        let limits = self.store.quotas.limits();
        let ticket = self.store.writer.submit(weight, move |connection| {
            publish(connection, limits, &new, row, &batch, &digest)
        });
        let stored = ticket.wait(deadline(self.store.wait))?;
        if stored == Stored::New {
            self.row = Row::None;
        }
        Ok(stored)
    }

    /// A buffer for the next chunk. Whoever waits for one must hold none that could be given back, so
    /// the batch goes to the writer first.
    fn buffer(&mut self) -> Result<Buffer, StoreError> {
        if let Some(buffer) = self.store.upload_buffers.try_take(self.new.scope.kind()) {
            return Ok(buffer);
        }
        self.send_batch()?;
        self.store
            .upload_buffers
            .take(self.new.scope.kind(), deadline(self.store.wait))
            .ok_or(StoreError::Busy)
    }

    /// Moves the chunk that is complete into the batch.
    fn seal(&mut self) {
        let Some(Filling { buffer, filled }) = self.filling.take() else {
            return;
        };
        let data = &buffer[..filled];
        self.digest.update(data);
        let data_hash = chunks::data_hash(data);
        self.batch.chunks.push(Chunk {
            buffer,
            length: filled,
            data_hash,
        });
    }

    /// Hands the batch to the writer, once the one before it is stored.
    fn send_batch(&mut self) -> Result<(), StoreError> {
        if self.batch.chunks.is_empty() {
            return Ok(());
        }
        let row = self.settle()?;
        let next_sequence = self.batch.first_sequence + self.batch.chunks.len() as u32;
        let next = Batch {
            first_sequence: next_sequence,
            chunks: Vec::with_capacity(BATCH_CHUNKS),
        };
        let batch = std::mem::replace(&mut self.batch, next);
        self.in_flight_bytes = batch.bytes();
        let new = self.new.clone();
        let ticket = self.store.writer.submit(Weight::Bulk, move |connection| {
            let id = row.map_or_else(|| artifacts::begin(connection, &new), Ok)?;
            batch.insert(connection, id)?;
            Ok(id)
        });
        self.row = Row::InFlight(ticket, row);
        Ok(())
    }

    /// Waits until no batch is in flight; the row's id if there is a row.
    fn settle(&mut self) -> Result<Option<i64>, StoreError> {
        match std::mem::replace(&mut self.row, Row::None) {
            Row::None => Ok(None),
            Row::InFlight(ticket, begun) => {
                let written = ticket.wait(deadline(self.store.wait));
                // A batch that failed leaves the ones before it.
                let id = written.as_ref().ok().copied().or(begun);
                if written.is_ok() {
                    self.reservation.written(self.in_flight_bytes);
                }
                self.row = id.map_or(Row::None, Row::Begun);
                Ok(Some(written?))
            }
            Row::Begun(id) => {
                self.row = Row::Begun(id);
                Ok(Some(id))
            }
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let leftover = match std::mem::replace(&mut self.row, Row::None) {
            Row::None => return,
            Row::InFlight(ticket, begun) => Leftover::InFlight(ticket, begun),
            Row::Begun(id) => Leftover::Begun(id),
        };
        self.store.leftovers.add(leftover);
    }
}

impl Batch {
    fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.length as u64).sum()
    }

    fn insert(&self, connection: &Connection, artifact_id: i64) -> Result<(), StoreError> {
        for (chunk, sequence) in self.chunks.iter().zip(self.first_sequence..) {
            let data = &chunk.buffer[..chunk.length];
            chunks::insert(connection, artifact_id, sequence, data, chunk.data_hash)?;
        }
        Ok(())
    }
}

/// The transaction that makes an artifact readable, or leaves no trace of it.
fn publish(
    connection: &Connection,
    limits: IsolatedLimits,
    new: &NewArtifact,
    row: Option<i64>,
    batch: &Batch,
    digest: &[u8; 32],
) -> Result<Stored, StoreError> {
    let Some(writer) = tokens::live_writer(connection, new.writer)? else {
        return Ok(Stored::TokenNotLive);
    };
    if let Some(quota) = limits.exceeded(connection, &new.scope, new.size_bytes)? {
        return Ok(Stored::OverQuota(quota));
    }
    if artifacts::is_taken(connection, new)? {
        return Ok(Stored::Exists);
    }
    let id = row.map_or_else(|| artifacts::store(connection, new, digest), Ok)?;
    batch.insert(connection, id)?;
    if row.is_some() && !artifacts::publish(connection, id, digest)? {
        return Err(StoreError::Incomplete);
    }
    if !writer.has_stored {
        tokens::note_first_artifact(connection, new.writer, id)?;
    }
    Ok(Stored::New)
}
