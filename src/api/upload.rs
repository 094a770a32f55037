//! PUT of an artifact: from the client to database pages.
//!
//! Whatever the answer, the body is read to its end where that is bounded: a client that is refused
//! while it still sends tries again, up to six times (protocol.md, fact 7).

use crate::auth::{self, Place, write_target};
use crate::http::{Cut, Request, ResponseHead, Status};
use crate::store::{Admission, Hash, NewArtifact, StoreError, Stored, Upload};
use crate::telemetry::Value;

use super::record::Record;
use super::refusal::Refusal;
use super::route::Address;
use super::{Api, CACHE_HEADERS, STRANGERS_BODY_BYTES_MAX, TEXT, loggable, refuse};

/// Why an upload did not end with an artifact that is stored.
enum NotStored {
    /// The client is told.
    Refused(Refusal),
    /// There is nobody left to tell.
    Cut(Cut),
}

impl Api {
    pub(super) fn upload(
        &self,
        request: &Request<'_>,
        address: Address<'_>,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        match self.receive(request, address, record) {
            Ok(()) => record.begin(&ResponseHead {
                status: Status(if self.settings.put_is_accepted {
                    202
                } else {
                    200
                }),
                content_type: TEXT,
                content_length: 0,
                headers: &CACHE_HEADERS,
            }),
            Err(NotStored::Cut(cut)) => Err(cut),
            Err(NotStored::Refused(refusal)) => self.refuse_upload(request, &refusal, record),
        }
    }

    fn receive(
        &self,
        request: &Request<'_>,
        address: Address<'_>,
        record: &mut Record<'_, '_>,
    ) -> Result<(), NotStored> {
        let mut upload = self.accept(request, address, record)?;
        while record.body_remaining() > 0 {
            let count = record.read_body(upload.space().map_err(|e| self.store_failed(&e))?)?;
            upload
                .advance(count)
                .map_err(|error| self.store_failed(&error))?;
        }
        let stored = upload.finish().map_err(|error| self.store_failed(&error))?;
        self.not_stored(stored, request, address.place, record)
            .map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Why something is not stored, if it is not.
    fn not_stored(
        &self,
        stored: Stored,
        request: &Request<'_>,
        place: Place<'_>,
        record: &mut Record<'_, '_>,
    ) -> Option<Refusal> {
        match stored {
            Stored::New => None,
            Stored::Exists => Some(Refusal::Exists),
            Stored::OverQuota(quota) => Some(Refusal::OverQuota(quota)),
            Stored::TokenNotLive => Some(self.why_dead(request, place, record)),
        }
    }

    /// What became of a token that was good when the upload began.
    fn why_dead(
        &self,
        request: &Request<'_>,
        place: Place<'_>,
        record: &mut Record<'_, '_>,
    ) -> Refusal {
        match self.admit(request, place, self.store.deadline(), record) {
            Err(refusal @ Refusal::Credential(_)) => refusal,
            _ => Refusal::Credential(auth::Refusal::Revoked),
        }
    }

    /// Everything that can be known before the first byte of the body is read.
    fn accept(
        &self,
        request: &Request<'_>,
        address: Address<'_>,
        record: &mut Record<'_, '_>,
    ) -> Result<Box<Upload<'_>>, Refusal> {
        let size_bytes = request.content_length.ok_or(Refusal::LengthRequired)?;
        let (grant, reader) = self.admit(request, address.place, self.store.deadline(), record)?;
        let target = write_target(&grant);
        let writer = grant
            .name()
            .unwrap_or(grant.public_id().as_str())
            .to_owned();
        record.admit(grant);
        let target = target.ok_or(Refusal::ReadOnly(writer))?;
        let hash = Hash::parse(address.hash)?;
        let max_bytes = self.settings.artifact_max_size_bytes;
        if size_bytes > max_bytes {
            return Err(Refusal::TooLarge {
                size_bytes,
                max_bytes,
            });
        }
        let new = NewArtifact {
            scope: target.scope().clone(),
            unless_in: target.unless_in().cloned(),
            hash: hash.as_str().to_owned(),
            size_bytes,
            writer: target.writer(),
            writer_address: self.client(request).to_string(),
        };
        match self.store.upload(reader, new) {
            Ok(Admission::Upload(upload)) => Ok(upload),
            Ok(Admission::Refused(stored)) => Err(self
                .not_stored(stored, request, address.place, record)
                .unwrap_or(Refusal::Internal)),
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    fn refuse_upload(
        &self,
        request: &Request<'_>,
        refusal: &Refusal,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        if refusal.is_trouble() {
            self.log.warn(
                "an artifact was not stored",
                &[
                    ("path", Value::Text(loggable(request.path))),
                    ("reason", Value::Text(&refusal.message())),
                ],
            );
        }
        let is_known = record.is_known;
        let max_bytes = self.settings.artifact_max_size_bytes;
        record.discard_body(if is_known {
            max_bytes
        } else {
            STRANGERS_BODY_BYTES_MAX
        })?;
        refuse(request.method, refusal, record)
    }

    /// Logs what the store reports where an operator should know, and says what the client gets.
    pub(super) fn store_failed(&self, error: &StoreError) -> Refusal {
        let refusal = Refusal::from(error);
        if refusal == Refusal::Internal {
            self.log
                .error("the database failed", &[("error", Value::Shown(error))]);
        }
        refusal
    }
}

impl From<Refusal> for NotStored {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Cut> for NotStored {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}
