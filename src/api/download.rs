//! GET and HEAD of an artifact: from database pages to the client.
//!
//! The first chunk is read and verified before the head is sent, so most damage is a miss. Damage found
//! later cuts the connection: a body never looks whole when it is not.

use crate::auth::read_chain;
use crate::http::{Cut, Method, Request, ResponseHead, Status};
use crate::store::{Artifact, Buffer, Reader, ScopeId, StoreError};
use crate::telemetry::Value;

use super::record::Record;
use super::refusal::Refusal;
use super::route::Hash;
use super::{Api, CACHE_HEADERS, refuse};

/// An artifact that was found, with its first chunk in memory.
struct Found {
    artifact: Artifact,
    first: Buffer,
}

impl Api {
    pub(super) fn download(
        &self,
        request: &Request<'_>,
        hash: &str,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        let found = self.find(request, hash, record);
        // A body on a GET means nothing; reading it keeps the connection in step.
        record.discard_body(super::STRANGERS_BODY_BYTES_MAX)?;
        match found {
            Ok(found) => self.send(request.method, found, record),
            Err(refusal) => refuse(request.method, &refusal, record),
        }
    }

    fn find(
        &self,
        request: &Request<'_>,
        hash: &str,
        record: &mut Record<'_, '_>,
    ) -> Result<Found, Refusal> {
        let (grant, reader) = self.admit(request)?;
        let chain = read_chain(&grant);
        record.admit(grant);
        let hash = Hash::parse(hash).ok_or(Refusal::Hash)?;
        let scopes: Vec<ScopeId> = chain.scopes().collect();
        let artifact = reader.artifact(&scopes, hash.as_str());
        let artifact = artifact
            .map_err(|error| self.store_failed(&error))?
            .ok_or(Refusal::Miss)?;
        let first = self
            .first_chunk(&artifact, reader)
            .map_err(|error| self.read_failed(&artifact, &error))?;
        Ok(Found { artifact, first })
    }

    /// Reads the first chunk in the snapshot at hand, unless that would mean to wait while holding it.
    fn first_chunk(&self, artifact: &Artifact, reader: Reader) -> Result<Buffer, StoreError> {
        let (reader, mut buffer) = if let Some(buffer) = self.store.download_buffer_now() {
            (reader, buffer)
        } else {
            drop(reader);
            let buffer = self.store.download_buffer()?;
            (self.store.reader()?, buffer)
        };
        if artifact.chunk_count() > 0 {
            reader.chunk(artifact, 0, &mut buffer)?;
        }
        Ok(buffer)
    }

    fn send(&self, method: Method, found: Found, record: &mut Record<'_, '_>) -> Result<(), Cut> {
        let Found { artifact, first } = found;
        record.begin(&ResponseHead {
            status: Status(200),
            content_type: "application/octet-stream",
            content_length: artifact.size_bytes,
            headers: &CACHE_HEADERS,
        })?;
        if method == Method::Head {
            return Ok(());
        }
        record.write(&first[..artifact.chunk_bytes(0)])?;
        drop(first);
        for sequence in 1..artifact.chunk_count() {
            self.send_chunk(&artifact, sequence, record)?;
        }
        Ok(())
    }

    /// One chunk, in a snapshot of its own that ends before the client is waited for.
    fn send_chunk(
        &self,
        artifact: &Artifact,
        sequence: u32,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        let read = || -> Result<Buffer, StoreError> {
            let mut buffer = self.store.download_buffer()?;
            self.store
                .reader()?
                .chunk(artifact, sequence, &mut buffer)?;
            Ok(buffer)
        };
        let buffer = read().map_err(|error| {
            record.reason = Some(self.read_failed(artifact, &error).reason());
            Cut::Aborted
        })?;
        record.write(&buffer[..artifact.chunk_bytes(sequence)])
    }

    /// Puts a damaged artifact aside, so that the hash can be stored anew.
    fn read_failed(&self, artifact: &Artifact, error: &StoreError) -> Refusal {
        if matches!(error, StoreError::Damaged { .. }) {
            let quarantined = self.store.quarantine(artifact);
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
