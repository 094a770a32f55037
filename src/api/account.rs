//! What a request came to: counted in the metrics, and in the usage by day if its token was admitted.

use std::time::Duration;

use crate::http::{Cut, Method, Status};
use crate::store::{Access, Usage};

use super::Api;
use super::metrics::{self, Endpoint};
use super::reason::Reason;
use super::record::Record;
use super::route::Route;

/// How a request ended.
pub(super) struct Ended {
    pub outcome: Result<(), Cut>,
    pub reason: Option<Reason>,
    pub took: Duration,
}

impl Api {
    pub(super) fn count(
        &self,
        method: Method,
        route: &Route<'_>,
        record: &Record<'_, '_>,
        ended: &Ended,
    ) {
        let endpoint = Endpoint::of(route, method);
        self.metrics.count(&metrics::Request {
            endpoint,
            access: record.grant.as_ref().map(crate::auth::Grant::access),
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
