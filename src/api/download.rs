//! GET and HEAD of an artifact: from database pages to the client.
//!
//! The first chunk is read and verified before the head is sent, so most damage is a miss. Damage found
//! later cuts the connection: a body never looks whole when it is not.

use std::time::Instant;

use crate::auth::{Grant, read_chain};
use crate::http::{Cut, Method, Request, ResponseHead, Status};
use crate::store::{Artifact, Buffer, Hash, Reader, Reading, ScopeKind, StoreError};
use crate::telemetry::Value;

use super::record::Record;
use super::refusal::Refusal;
use super::route::Address;
use super::{Api, CACHE_HEADERS, refuse};

/// An artifact that was found, with its first chunk in memory.
struct Found {
    artifact: Artifact,
    chunk: Chunk,
    /// Whether the read keeps the artifact from being evicted.
    is_noted: bool,
    /// Keeps what is still to be read, should the artifact go meanwhile.
    reading: Option<Reading>,
}

/// Memory for one chunk. It stays with the download to its end: one that has begun must never fail for
/// want of a buffer, so only new ones wait.
enum Chunk {
    /// For an artifact that fits into a page: bounded by the number of connections.
    Small(Vec<u8>),
    /// From the bounded pool.
    Pooled(Buffer),
}

impl Chunk {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Pooled(buffer) => buffer,
        }
    }
}

/// Whose share of the buffers a download takes: a pull request reads trusted entries, too, and must not
/// keep a trusted build from them.
fn kind_of(grant: &Grant) -> ScopeKind {
    if grant.isolated_scope().is_some() {
        ScopeKind::Isolated
    } else {
        ScopeKind::Trusted
    }
}

/// Whose reads count: those of isolated tokens only where they read isolated entries, or a pull request
/// would decide which trusted ones stay.
fn is_noted(reader: ScopeKind, artifact: &Artifact) -> bool {
    match reader {
        ScopeKind::Trusted => true,
        ScopeKind::Isolated => artifact.kind == ScopeKind::Isolated,
    }
}

impl Api {
    pub(super) fn download(
        &self,
        request: &Request<'_>,
        address: Address<'_>,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        // A body on a GET means nothing; reading it keeps the connection in step.
        record.discard_body(super::STRANGERS_BODY_BYTES_MAX)?;
        match self.find(request, address, record) {
            Ok(found) => self.send(request.method, found, record),
            Err(refusal) => refuse(request.method, &refusal, record),
        }
    }

    fn find(
        &self,
        request: &Request<'_>,
        address: Address<'_>,
        record: &mut Record<'_, '_>,
    ) -> Result<Found, Refusal> {
        let deadline = self.store.deadline();
        let (grant, reader) = self.admit(request, address.place, deadline, record)?;
        let chain = read_chain(&grant);
        let kind = kind_of(&grant);
        record.admit(grant);
        let hash = Hash::parse(address.hash)?;
        let artifact = reader
            .artifact(chain.scopes(), hash.as_str())
            .map_err(|error| self.store_failed(&error))?
            .ok_or(Refusal::Miss)?;
        let reading = self.store.begin_reading(&artifact, kind);
        let chunk = self
            .first_chunk(&artifact, reader, kind, deadline)
            .map_err(|error| self.read_failed(&artifact, &error))?;
        Ok(Found {
            artifact,
            chunk,
            is_noted: is_noted(kind, &artifact),
            reading,
        })
    }

    /// Reads the first chunk in the snapshot at hand, unless that would mean to wait while holding it.
    fn first_chunk(
        &self,
        artifact: &Artifact,
        reader: Reader,
        kind: ScopeKind,
        deadline: Instant,
    ) -> Result<Chunk, StoreError> {
        let (reader, mut chunk) = if artifact.is_small() {
            (reader, Chunk::Small(vec![0; artifact.chunk_bytes(0)]))
        } else if let Some(buffer) = self.store.download_buffer_now(kind) {
            (reader, Chunk::Pooled(buffer))
        } else {
            drop(reader);
            let buffer = self.store.download_buffer(kind, deadline)?;
            (self.store.reader(deadline)?, Chunk::Pooled(buffer))
        };
        reader.chunk(artifact, 0, chunk.bytes())?;
        Ok(chunk)
    }

    fn send(&self, method: Method, found: Found, record: &mut Record<'_, '_>) -> Result<(), Cut> {
        let Found {
            artifact,
            mut chunk,
            is_noted,
            reading: _reading,
        } = found;
        record.begin(&ResponseHead {
            status: Status(200),
            content_type: "application/octet-stream",
            content_length: artifact.size_bytes,
            headers: &CACHE_HEADERS,
        })?;
        if method == Method::Head {
            return Ok(());
        }
        if is_noted {
            self.store.note_read(&artifact);
        }
        let buffer = chunk.bytes();
        record.write(&buffer[..artifact.chunk_bytes(0)])?;
        for sequence in 1..artifact.chunk_count() {
            // In a snapshot of its own, which ends before the client is waited for.
            let read = self.store.reader(self.store.deadline()).and_then(|reader| {
                reader.chunk(&artifact, sequence, buffer)?;
                Ok(())
            });
            read.map_err(|error| {
                record.reason = Some(self.read_failed(&artifact, &error).reason());
                Cut::Aborted
            })?;
            record.write(&buffer[..artifact.chunk_bytes(sequence)])?;
        }
        Ok(())
    }

    /// Puts a damaged artifact aside, so that the hash can be stored anew.
    fn read_failed(&self, artifact: &Artifact, error: &StoreError) -> Refusal {
        if matches!(error, StoreError::Damaged { .. }) {
            let quarantined = self.store.quarantine(artifact);
            if quarantined == Ok(false) {
                self.log.warn(
                    "an artifact that was removed meanwhile could not be read to its end",
                    &[("error", Value::Shown(error))],
                );
                return Refusal::Damaged;
            }
            self.log.error(
                "an artifact is damaged; it is hidden and its hash can be stored anew. Check the disk",
                &[
                    ("error", Value::Shown(error)),
                    ("quarantined", Value::Flag(quarantined.is_ok())),
                ],
            );
            return Refusal::Damaged;
        }
        self.store_failed(error)
    }
}
