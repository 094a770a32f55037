//! Who asks: from the header of a request to a grant.

use std::time::Instant;

use crate::auth::{self, Authenticator, Grant, Place, PresentedToken};
use crate::http::Request;
use crate::store::{Reader, TokenRecord, now_ms};
use crate::telemetry::Value;

use super::Api;
use super::record::Record;
use super::refusal::Refusal;

/// `last_used_at` is written when it is older than this, so that a busy token costs a row a minute.
const USED_RESOLUTION_MS: i64 = 60_000;

/// A token is looked up, verified at its first use, and looked up again.
const LOOKUPS_MAX: u32 = 2;

impl Api {
    /// Waits for the database until `deadline`, and for the check of a new token beside it.
    ///
    /// The grant of the request's token at this place, and the snapshot in which the token was found alive, for the
    /// look-ups that follow.
    pub(super) fn admit(
        &self,
        request: &Request<'_>,
        place: Place<'_>,
        deadline: Instant,
        record: &mut Record<'_, '_>,
    ) -> Result<(Grant, Reader), Refusal> {
        let header = request
            .authorization
            .map(crate::http::Authorization::expose);
        let presented = Authenticator::present(header)?;
        for _ in 0..LOOKUPS_MAX {
            let reader = self
                .store
                .reader(deadline)
                .map_err(|error| self.store_failed(&error))?;
            let token = self.token(&reader, &presented)?;
            match self
                .authenticator
                .recall(&presented, &token, place, now_ms())
            {
                Ok(Some(grant)) => {
                    self.note_use(&token);
                    return Ok((grant, reader));
                }
                Ok(None) => {}
                Err(refusal) => {
                    record.note_refused(token, refusal);
                    return Err(refusal.into());
                }
            }
            // Argon2 takes long: nobody may wait for a connection meanwhile, and the token may be
            // revoked meanwhile, so it is looked up again.
            drop(reader);
            if let Err(refusal) = self.authenticator.verify(&presented, &token, now_ms()) {
                self.verification_failed(refusal, &token);
                return Err(refusal.into());
            }
            self.upgrade_hash(&presented, &token);
        }
        Err(Refusal::Busy)
    }

    /// Tells the operator of a token that may be good and could not be checked.
    fn verification_failed(&self, refusal: auth::Refusal, token: &TokenRecord) {
        if let auth::Refusal::Failed(error) = refusal {
            self.log.error(
                "cannot verify a token",
                &[
                    ("token", Value::Text(&token.public_id)),
                    ("error", Value::Shown(&error)),
                ],
            );
        }
    }

    fn token(&self, reader: &Reader, presented: &PresentedToken) -> Result<TokenRecord, Refusal> {
        let record = reader.token(presented.public_id().as_str());
        let record = record.map_err(|error| self.store_failed(&error))?;
        record.ok_or_else(|| auth::Refusal::Unknown.into())
    }

    fn note_use(&self, token: &TokenRecord) {
        let is_noted = |used_at_ms: i64| now_ms() - used_at_ms < USED_RESOLUTION_MS;
        if !token.last_used_at_ms.is_some_and(is_noted) {
            self.store.touch_token(token.id, USED_RESOLUTION_MS);
        }
    }

    /// Replaces a hash that was made at another cost, now that the secret is at hand.
    fn upgrade_hash(&self, presented: &PresentedToken, token: &TokenRecord) {
        match self.authenticator.upgrade(presented, token) {
            Ok(None) => {}
            Ok(Some(hashed)) => self.store.rehash_token(token.id, hashed.phc),
            Err(error) => self.log.warn(
                "cannot renew the hash of a token; the old one stays",
                &[
                    ("token", Value::Text(&token.public_id)),
                    ("error", Value::Shown(&error)),
                ],
            ),
        }
    }
}
