//! The limit that one SQLite file sets: the same rows and pragmas as the store's, with no HTTP, no socket and
//! no checksum work (the columns are filled with zeros). One writer, as SQLite has it; as many readers as
//! connections, up to the cores.
//!
//! Writes put 1 MiB of chunks in a transaction, small artifacts whole in one. Reads look the artifact up and
//! fetch its chunks, each in a read of its own; nothing is sent anywhere.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use tempfile::TempDir;

use crate::histogram::Histogram;
use crate::load::{Bodies, Outcome, Slice, Turns, fresh_hash};
use crate::servers::Setup;

const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_IN_A_BATCH: usize = 4;
const DIGEST: [u8; 32] = [0; 32];

/// Automatic checkpoints tried, in pages of 16 KiB: SQLite's default, and one that fills most of the 256 MB
/// that the store allows its log.
pub const CHECKPOINT_PAGES: [u32; 2] = [1000, 8000];

pub struct Database {
    path: PathBuf,
    _dir: TempDir,
}

/// What a slice of writes took.
pub struct Written {
    pub outcome: Outcome,
    /// The last fold of the log into the database.
    pub fold: Duration,
}

impl Database {
    pub fn create(setup: &Setup) -> Result<Self> {
        let dir = setup.empty_dir()?;
        let path = dir.path().join("limit.db");
        let connection = Connection::open(&path)?;
        connection.execute_batch(
            "PRAGMA page_size = 16384;
             PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;",
        )?;
        connection.execute_batch(include_str!("../../migrations/0001_initial.sql"))?;
        connection.execute_batch(
            "INSERT INTO tokens (id, public_id, workspace_id, access, secret_phc, secret_tag, created_at_ms)
             VALUES (1, 'bench', 1, 'write', '', x'00000000', 0);",
        )?;
        Ok(Self { path, _dir: dir })
    }

    /// Stores the artifacts that reads will ask for, and folds the log in.
    pub fn preload(&self, hashes: &[String], bodies: &Bodies) -> Result<()> {
        let mut connection = open_writer(&self.path, CHECKPOINT_PAGES[0])?;
        for (number, hash) in hashes.iter().enumerate() {
            write(&mut connection, hash, bodies.get(number as u64))?;
        }
        fold(&connection)
    }

    /// One writer stores new artifacts for a slice.
    pub fn puts(&self, checkpoint_pages: u32, slice: Slice, bodies: &Bodies) -> Result<Written> {
        let mut connection = open_writer(&self.path, checkpoint_pages)?;
        write(&mut connection, &fresh_hash(), bodies.get(0))?;
        fold(&connection)?;
        let turns = Turns::new(slice);
        let latencies = timed(&turns, |turn| {
            write(&mut connection, &fresh_hash(), bodies.get(turn))
        })?;
        let elapsed = turns.elapsed();
        let outcome = outcome(elapsed, latencies, bodies);
        fold(&connection)?;
        let fold = turns.elapsed().saturating_sub(elapsed);
        Ok(Written { outcome, fold })
    }

    /// Reads stored artifacts, with so many threads.
    pub fn gets(
        &self,
        threads: usize,
        slice: Slice,
        hashes: &[String],
        bodies: &Bodies,
    ) -> Result<Outcome> {
        let readers: Result<Vec<Reader>> = (0..threads).map(|_| Reader::open(&self.path)).collect();
        let turns = Turns::new(slice);
        let work = |mut reader: Reader| {
            timed(&turns, |turn| {
                let hash = &hashes[turn as usize % hashes.len()];
                let size_bytes = reader.read(hash)?;
                ensure!(
                    size_bytes == bodies.size_bytes,
                    "read {size_bytes} bytes of {hash}"
                );
                Ok(())
            })
        };
        let mut latencies = Histogram::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = readers?
                .into_iter()
                .map(|reader| scope.spawn(|| work(reader)))
                .collect();
            for thread in threads {
                latencies.merge(&thread.join().map_err(|_| anyhow!("a reader panicked"))??);
            }
            anyhow::Ok(())
        })?;
        Ok(outcome(turns.elapsed(), latencies, bodies))
    }
}

fn timed(turns: &Turns, mut operation: impl FnMut(u64) -> Result<()>) -> Result<Histogram> {
    let mut latencies = Histogram::new();
    while let Some(turn) = turns.next() {
        let started = Instant::now();
        operation(turn)?;
        latencies.record(started.elapsed());
    }
    Ok(latencies)
}

fn outcome(elapsed: Duration, latencies: Histogram, bodies: &Bodies) -> Outcome {
    let bytes = latencies.count() * bodies.size_bytes as u64;
    Outcome {
        elapsed,
        bytes,
        latencies,
    }
}

const PRAGMAS: &str = "PRAGMA mmap_size = 1099511627776;
    PRAGMA synchronous = NORMAL;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
    PRAGMA cell_size_check = ON;";

fn open_writer(path: &Path, checkpoint_pages: u32) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(PRAGMAS)?;
    connection.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
    Ok(connection)
}

fn fold(connection: &Connection) -> Result<()> {
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    ensure!(!busy, "the log could not be folded in");
    Ok(())
}

fn write(connection: &mut Connection, hash: &str, body: &[u8]) -> Result<()> {
    if body.len() <= CHUNK_BYTES * CHUNKS_IN_A_BATCH {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let id = insert_artifact(&transaction, hash, "stored", body.len(), Some(&DIGEST))?;
        insert_chunks(&transaction, id, 0, body)?;
        return Ok(transaction.commit()?);
    }
    let id = insert_artifact(connection, hash, "uploading", body.len(), None)?;
    for (number, batch) in body.chunks(CHUNK_BYTES * CHUNKS_IN_A_BATCH).enumerate() {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        insert_chunks(&transaction, id, number * CHUNKS_IN_A_BATCH, batch)?;
        transaction.commit()?;
    }
    connection
        .prepare_cached("UPDATE artifacts SET state = 'stored', digest = ?2 WHERE id = ?1")?
        .execute(params![id, DIGEST])?;
    Ok(())
}

fn insert_artifact(
    connection: &Connection,
    hash: &str,
    state: &str,
    size_bytes: usize,
    digest: Option<&[u8]>,
) -> Result<i64> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                                writer_token_id, writer_address)
         VALUES (1, ?1, ?2, ?3, ?4, 0, 0, 1, '127.0.0.1')",
    )?;
    Ok(insert.insert(params![hash, state, size_bytes as i64, digest])?)
}

fn insert_chunks(connection: &Connection, artifact: i64, first: usize, bytes: &[u8]) -> Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT INTO chunks (id, checksum, data) VALUES (?1, ?2, ?3)")?;
    for (number, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
        let id = (artifact << 20) + (first + number) as i64;
        insert.execute(params![id, 0, chunk])?;
    }
    Ok(())
}

/// A read-only connection.
struct Reader {
    connection: Connection,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch(PRAGMAS)?;
        Ok(Self { connection })
    }

    /// Reads an artifact; returns its size.
    fn read(&mut self, hash: &str) -> Result<usize> {
        let mut lookup = self.connection.prepare_cached(
            "SELECT id, size_bytes FROM artifacts WHERE scope_id = 1 AND hash = ?1 AND state = 'stored'",
        )?;
        let found = lookup.query_row([hash], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        let (artifact, size_bytes) = found
            .optional()?
            .ok_or_else(|| anyhow!("no artifact {hash}"))?;
        let mut select = self
            .connection
            .prepare_cached("SELECT checksum, data FROM chunks WHERE id = ?1")?;
        let mut read_bytes = 0;
        for sequence in 0..(size_bytes as usize).div_ceil(CHUNK_BYTES) {
            let id = (artifact << 20) + sequence as i64;
            read_bytes += select.query_row([id], |row| Ok(row.get_ref(1)?.as_blob()?.len()))?;
        }
        Ok(read_bytes)
    }
}
