//! What a request came to: its line in the log, counted in the metrics, and in the usage by day if its token was admitted.

use std::time::Duration;

use crate::auth::Grant;
use crate::auth::token::TOKEN_PREFIX;
use crate::http::{Cut, Method, Request, Status};
use crate::store::{Access, Hash, Usage};
use crate::telemetry::RequestLine;

use super::Api;
use super::metrics::{self, Endpoint};
use super::reason::Reason;
use super::record::Record;
use super::route::Route;

/// How a request ended.
struct Ended {
    outcome: Result<(), Cut>,
    reason: Option<Reason>,
    took: Duration,
}

impl Api {
    /// Says what a request came to: in the metrics, in the usage by day, in the log.
    pub(super) fn finished(
        &self,
        request: &Request<'_>,
        route: &Route<'_>,
        record: &Record<'_, '_>,
        outcome: Result<(), Cut>,
    ) {
        let took = record.started.elapsed();
        let cut = outcome.err().map(Reason::from);
        let reason = record.reason.or(cut);
        self.count(
            request.method,
            route,
            record,
            &Ended {
                outcome,
                reason,
                took,
            },
        );
        if self.log.logs_requests() {
            self.log_request(request, route, record, reason, took);
        }
    }

    fn log_request(
        &self,
        request: &Request<'_>,
        route: &Route<'_>,
        record: &Record<'_, '_>,
        reason: Option<Reason>,
        took: Duration,
    ) {
        let (grant, refused) = (record.grant.as_ref(), record.refused.as_ref());
        self.log.request(&RequestLine {
            method: Some(request.method.as_str()),
            path: Some(loggable(request.path)),
            status: record.status,
            bytes_in: Some(record.bytes_in),
            bytes_out: Some(record.bytes_out),
            duration_us: Some(took.as_micros() as u64),
            peer: Some(self.client(request)),
            token: grant
                .map(|grant| grant.public_id().as_str())
                .or(refused.map(|token| token.public_id.as_str())),
            token_name: grant
                .and_then(Grant::name)
                .or(refused.and_then(|token| token.name.as_deref())),
            workspace: grant
                .map(Grant::workspace)
                .or(refused.map(|token| token.workspace.as_str())),
            scope: grant.and_then(Grant::isolated_scope),
            hash: route.hash().map(Hash::as_str),
            reason: reason.map(Reason::as_str),
        });
    }

    fn count(&self, method: Method, route: &Route<'_>, record: &Record<'_, '_>, ended: &Ended) {
        let endpoint = Endpoint::of(route, method);
        self.metrics.count(&metrics::Request {
            endpoint,
            access: record.grant.as_ref().map(Grant::access),
            status: record.status,
            reason: ended.reason,
            received_bytes: record.bytes_in,
            sent_bytes: record.bytes_out,
            took: ended.took,
        });
        let Some(grant) = &record.grant else { return };
        let access = grant.access();
        let Some(usage) = usage(endpoint, access, record, ended) else {
            return;
        };
        if usage.hits + usage.misses > 0 {
            self.metrics.count_get(access, usage.hits > 0);
        }
        self.store.count(grant.workspace_id(), access, usage);
    }

    /// Counts what was answered before it became a request.
    pub(super) fn count_rejected(&self, status: Status) {
        self.metrics.count(&metrics::Request {
            endpoint: Endpoint::Rejected,
            access: None,
            status: Some(status.0),
            reason: None,
            received_bytes: 0,
            sent_bytes: 0,
            took: Duration::ZERO,
        });
    }
}

/// What counts of a request of an admitted token. A HEAD moves nothing, what was cut came to nothing, and who may
/// read nothing has not missed it.
fn usage(
    endpoint: Endpoint,
    access: Access,
    record: &Record<'_, '_>,
    ended: &Ended,
) -> Option<Usage> {
    ended.outcome.ok()?;
    let mut usage = Usage::default();
    match (endpoint, record.status?) {
        (Endpoint::Get, 200) => {
            usage.hits = 1;
            usage.hit_bytes = record.bytes_out;
        }
        (Endpoint::Get, _) if ended.reason != Some(Reason::BadHash) => {
            if access == Access::WriteOnly {
                return None;
            }
            usage.misses = 1;
        }
        (Endpoint::Put, 200 | 202) => {
            usage.stored = 1;
            usage.stored_bytes = record.bytes_in;
        }
        (Endpoint::Put, 409) => usage.conflicts = 1,
        (Endpoint::Get | Endpoint::Put, _) => usage.refused = 1,
        _ => return None,
    }
    Some(usage)
}

/// The path, unless somebody pasted a token into it: no log may hold one.
pub(super) fn loggable(path: &str) -> &str {
    if path.contains(TOKEN_PREFIX) {
        "(holds a token)"
    } else {
        path
    }
}
