//! The bytes of artifacts: rows of at most 256 KiB, each guarded by a checksum that is checked on every read.
//!
//! The checksum covers the data and the row's id, so a chunk that turns up in another's place (damaged
//! pages, a botched repair) is as wrong as a flipped bit. Clients check nothing (protocol.md, fact 4).

use rusqlite::{Connection, OptionalExtension, params};
use twox_hash::XxHash3_64;

use super::error::StoreError;

/// Bytes in every chunk but the last of an artifact.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// What surely lies in one page of 16 KiB, with its row and the page's header around it.
pub(super) const IN_PAGE_BYTES_MAX: usize = 15 * 1024;

/// Bits of a chunk's id that hold its place in the artifact.
const SEQUENCE_BITS: u32 = 20;

/// The largest artifact that the packing of ids allows: 256 GiB.
pub const ARTIFACT_BYTES_MAX: u64 = (CHUNK_BYTES as u64) << SEQUENCE_BITS;

/// What became of the chunks of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deleted {
    pub chunks: usize,
    /// Whether none is left.
    pub is_all: bool,
}

/// The row id of a chunk.
fn id(artifact_id: i64, sequence: u32) -> i64 {
    artifact_id << SEQUENCE_BITS | i64::from(sequence)
}

/// How many chunks an artifact of this size has.
pub(super) fn count(size_bytes: u64) -> u32 {
    // A length that no artifact has is of a damaged row.
    u32::try_from(size_bytes.div_ceil(CHUNK_BYTES as u64)).unwrap_or(u32::MAX)
}

/// How long the chunk at `sequence` of an artifact of this size is, in bytes.
pub(super) fn length(size_bytes: u64, sequence: u32) -> usize {
    let start_bytes = u64::from(sequence) * CHUNK_BYTES as u64;
    size_bytes
        .saturating_sub(start_bytes)
        .min(CHUNK_BYTES as u64) as usize
}

/// The hash of a chunk's data, computed where the data arrives.
pub(super) fn data_hash(data: &[u8]) -> u64 {
    XxHash3_64::oneshot(data)
}

/// What is stored beside the data: its hash bound to the place it belongs to.
fn checksum(id: i64, data_hash: u64) -> i64 {
    XxHash3_64::oneshot_with_seed(id as u64, &data_hash.to_le_bytes()) as i64
}

/// Adds one chunk.
pub(super) fn insert(
    connection: &Connection,
    artifact_id: i64,
    sequence: u32,
    data: &[u8],
    data_hash: u64,
) -> Result<(), StoreError> {
    let id = id(artifact_id, sequence);
    connection
        .prepare_cached("INSERT INTO chunks (id, checksum, data) VALUES (?1, ?2, ?3)")?
        .execute(params![id, checksum(id, data_hash), data])?;
    Ok(())
}

/// Copies a chunk into `into` if it is exactly `length_bytes` long and unharmed.
pub(super) fn read(
    connection: &Connection,
    artifact_id: i64,
    sequence: u32,
    into: &mut [u8],
) -> Result<(), StoreError> {
    let damaged = StoreError::Damaged {
        artifact_id,
        sequence,
    };
    let id = id(artifact_id, sequence);
    let copied = match copy(connection, id, into) {
        // SQLite says so, too, where the disk could not be read at that moment (EIO): once is no proof.
        Err(error) if error.is_corruption() => copy(connection, id, into),
        copied => copied,
    };
    match copied {
        Ok(true) => Ok(()),
        Ok(false) => Err(damaged),
        Err(error) if error.is_corruption() => Err(damaged),
        Err(error) => Err(error),
    }
}

/// Whether the chunk is there, of the right length, and its checksum agrees.
fn copy(connection: &Connection, id: i64, into: &mut [u8]) -> Result<bool, StoreError> {
    let expected = if into.len() <= IN_PAGE_BYTES_MAX {
        copy_small(connection, id, into)?
    } else {
        copy_large(connection, id, into)?
    };
    Ok(expected.is_some_and(|expected| checksum(id, data_hash(into)) == expected))
}

/// Copies a chunk that lies in one page; the checksum it should have, or `None` if it is not there.
fn copy_small(
    connection: &Connection,
    id: i64,
    into: &mut [u8],
) -> Result<Option<i64>, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT checksum, data FROM chunks WHERE id = ?1")?;
    let expected = select.query_row([id], |row| {
        let data = row.get_ref(1)?.as_blob().unwrap_or_default();
        if data.len() != into.len() {
            return Ok(None);
        }
        into.copy_from_slice(data);
        row.get(0).map(Some)
    });
    Ok(expected.optional()?.flatten())
}

/// The same for a chunk that spans pages: a `SELECT` would make SQLite gather it in memory of its own
/// before we copy it, incremental blob I/O copies from the pages to `into`.
fn copy_large(
    connection: &Connection,
    id: i64,
    into: &mut [u8],
) -> Result<Option<i64>, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT checksum, length(data) FROM chunks WHERE id = ?1")?;
    let row: Option<(i64, i64)> = select
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((expected, length_bytes)) = row else {
        return Ok(None);
    };
    if length_bytes != into.len() as i64 {
        return Ok(None);
    }
    connection
        .blob_open("main", "chunks", "data", id, true)?
        .read_at_exact(into, 0)?;
    Ok(Some(expected))
}

/// Whether an artifact has a chunk at this place or behind it.
pub(super) fn any_from(
    connection: &Connection,
    artifact_id: i64,
    sequence: u32,
) -> Result<bool, StoreError> {
    // The place after the last possible one is the first of the next artifact.
    let first = (artifact_id << SEQUENCE_BITS) + i64::from(sequence);
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM chunks WHERE id >= ?1 AND id < ?2")?;
    Ok(statement.exists([first, id(artifact_id + 1, 0)])?)
}

/// Refuses an artifact that goes on where it should end.
pub(super) fn check_end(
    connection: &Connection,
    artifact_id: i64,
    sequence: u32,
) -> Result<(), StoreError> {
    if any_from(connection, artifact_id, sequence)? {
        return Err(StoreError::Damaged {
            artifact_id,
            sequence,
        });
    }
    Ok(())
}

/// Deletes all chunks of an artifact, of a file that nobody else uses.
pub(super) fn delete_all(connection: &Connection, artifact_id: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM chunks WHERE id >= ?1 AND id < ?2")?
        .execute([id(artifact_id, 0), id(artifact_id + 1, 0)])?;
    Ok(())
}

/// The artifact of the first chunk that belongs to none before `artifact_id`.
pub(super) fn next_artifact(
    connection: &Connection,
    artifact_id: i64,
) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT min(id) FROM chunks WHERE id >= ?1")?;
    let chunk: Option<i64> = statement.query_row([id(artifact_id, 0)], |row| row.get(0))?;
    match chunk.map(|chunk| chunk >> SEQUENCE_BITS) {
        Some(found) if found < artifact_id => Err(StoreError::out_of_order()),
        found => Ok(found),
    }
}

/// Deletes chunks of an artifact, the first `chunks_max` at the most.
pub(super) fn delete_some(
    connection: &Connection,
    artifact_id: i64,
    chunks_max: usize,
) -> Result<Deleted, StoreError> {
    let end = id(artifact_id + 1, 0);
    let Some(lowest) = lowest(connection, id(artifact_id, 0), end)? else {
        return Ok(Deleted {
            chunks: 0,
            is_all: true,
        });
    };
    if lowest < id(artifact_id, 0) {
        return Err(StoreError::out_of_order());
    }
    let stop = end.min(lowest + chunks_max as i64);
    let chunks = connection
        .prepare_cached("DELETE FROM chunks WHERE id >= ?1 AND id < ?2")?
        .execute([lowest, stop])?;
    let is_all = self::lowest(connection, stop, end)?.is_none();
    Ok(Deleted { chunks, is_all })
}

/// The first chunk from `first` on and before `end`.
fn lowest(connection: &Connection, first: i64, end: i64) -> Result<Option<i64>, StoreError> {
    let lowest = connection
        .prepare_cached("SELECT min(id) FROM chunks WHERE id >= ?1 AND id < ?2")?
        .query_row([first, end], |row| row.get(0))?;
    Ok(lowest)
}
