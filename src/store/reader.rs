//! Reading: one short snapshot for a request's look-ups, then each chunk in a snapshot of its own.
//!
//! Invariant: nobody holds a [`Reader`] while it waits for the network. A stuck reader would keep the
//! write-ahead log from being folded into the file.

use std::sync::Arc;
use std::time::Instant;

use r2d2::PooledConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;

use super::chunks::CHUNK_BYTES;
use super::error::StoreError;
use super::model::{Artifact, Scope, TokenRecord};
use super::timing::{self, Timing};
use super::{artifacts, chunks, tokens};

/// A consistent view of the database, for a few look-ups.
pub struct Reader {
    connection: PooledConnection<SqliteConnectionManager>,
    asked: Instant,
    timing: Arc<Timing>,
}

impl Reader {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn begin(
        connection: PooledConnection<SqliteConnectionManager>,
        asked: Instant,
        timing: Arc<Timing>,
    ) -> Result<Self, StoreError> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self {
            connection,
            asked,
            timing,
        })
    }

    /// The token with this public id, whatever its state.
    pub fn token(&self, public_id: &str) -> Result<Option<TokenRecord>, StoreError> {
        tokens::find(&self.connection, public_id)
    }

    /// The first artifact stored under `hash` in one of `scopes`, in their order.
    pub fn artifact<'s>(
        &self,
        scopes: impl IntoIterator<Item = &'s Scope>,
        hash: &str,
    ) -> Result<Option<Artifact>, StoreError> {
        for scope in scopes {
            if let Some(artifact) = artifacts::find(&self.connection, scope, hash)? {
                return Ok(Some(artifact));
            }
        }
        Ok(None)
    }

    /// Copies a chunk of `artifact` into the beginning of `into` and returns that part of it, verified. The first one
    /// of an empty artifact is empty.
    pub fn chunk<'b>(
        &self,
        artifact: &Artifact,
        sequence: u32,
        into: &'b mut [u8],
    ) -> Result<&'b [u8], StoreError> {
        let into = &mut into[..artifact.chunk_bytes(sequence)];
        if artifact.size_bytes > 0 {
            chunks::read(&self.connection, artifact.id, sequence, into)?;
        }
        // A length that is damaged shows in the length of the last chunk, unless that is whole, or there is none.
        let is_last = sequence + 1 >= artifact.chunk_count();
        let is_border = is_last && artifact.size_bytes.is_multiple_of(CHUNK_BYTES as u64);
        if is_border {
            chunks::check_end(&self.connection, artifact.id, artifact.chunk_count())?;
        }
        Ok(into)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Ending a snapshot cannot fail in a way that matters: the connection is checked when it is
        // taken from the pool again (`Store::reader`).
        let _ = self
            .connection
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute([]));
        timing::tell(&self.timing.reads, self.asked.elapsed());
    }
}
