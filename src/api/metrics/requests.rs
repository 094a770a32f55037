//! What is counted when a request ends.

use std::time::Duration;

use crate::store::Access;
use crate::telemetry::{BadMetric, Families, Histogram, IntCounter};

use super::super::reason::Reason;
use super::endpoint::{Endpoint, STATUSES, TIMED, UNANSWERED};

/// The access of a request whose token was not admitted, or that needs none.
const NO_ACCESS: &str = "none";
/// The accesses that read, in the order of their numbers.
const READING: [Access; 3] = [Access::Read, Access::Write, Access::Isolated];
/// The accesses of tokens, and none.
const ACCESSES: usize = Access::ALL.len() + 1;

const REQUEST_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];
/// What one request came to.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Request {
    pub endpoint: Endpoint,
    pub access: Option<Access>,
    pub status: Option<u16>,
    pub reason: Option<Reason>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub took: Duration,
}

/// Requests by what they asked for and how they were answered.
pub(super) struct Requests {
    /// By endpoint, access and status; see [`Requests::at`].
    counters: Vec<Option<IntCounter>>,
    /// Should there ever be an answer that nobody thought of.
    unforeseen: IntCounter,
    durations: Vec<Histogram>,
    refusals: Vec<IntCounter>,
}

/// What was moved, by access.
pub(super) struct Traffic {
    /// Of those that may read; see [`READING`].
    hits: Vec<IntCounter>,
    misses: Vec<IntCounter>,
    received_bytes: Vec<IntCounter>,
    sent_bytes: Vec<IntCounter>,
}

impl Requests {
    pub fn count(&self, request: &Request) {
        let access = access_index(request.access);
        self.at(request.endpoint, access, request.status).inc();
        if request.endpoint != Endpoint::Rejected {
            let duration = &self.durations[request.endpoint.timed_as()];
            duration.observe(request.took.as_secs_f64());
        }
        if let Some(reason) = request.reason {
            self.refusals[reason as usize].inc();
        }
    }

    pub fn new(live: &Families) -> Result<Self, BadMetric> {
        let series = Self::series();
        let labels = series.iter().map(|(_, values)| *values);
        let mut handles = live.counters(
            "cachesrv_http_requests_total",
            "Requests by what they asked for, the access of their token, and the status of the answer.",
            ["route", "access", "status"],
            labels.chain([["other", NO_ACCESS, "other"]]),
        )?;
        // The last one, by the line above.
        let unforeseen = handles.remove(series.len());
        let mut counters = vec![None; Endpoint::ALL.len() * ACCESSES * STATUSES.len()];
        for ((index, _), handle) in series.into_iter().zip(handles) {
            counters[index] = Some(handle);
        }
        let durations = live.histograms(
            "cachesrv_http_request_duration_seconds",
            "From the whole head of a request to the end of its answer, the client's share included.",
            &REQUEST_SECONDS,
            "route",
            TIMED,
        )?;
        let refusals = live.counters(
            "cachesrv_refusals_total",
            "Requests that did not get what they asked for, by the `reason` of their log line.",
            ["reason"],
            Reason::ALL.iter().map(|reason| [reason.as_str()]),
        )?;
        Ok(Self {
            counters,
            unforeseen,
            durations,
            refusals,
        })
    }

    /// Every combination that is answered, with its place.
    fn series() -> Vec<(usize, [&'static str; 3])> {
        let mut series = Vec::new();
        for endpoint in Endpoint::ALL {
            for access in [None].into_iter().chain(Access::ALL.map(Some)) {
                let statuses = match access {
                    None => endpoint.statuses_of_the_rest(),
                    Some(_) => endpoint.statuses_of_the_admitted(),
                };
                for (number, &(status, label)) in STATUSES.iter().enumerate() {
                    if statuses.contains(&status) {
                        let index = index(endpoint, access_index(access), number);
                        let access = access.map_or(NO_ACCESS, Access::as_str);
                        series.push((index, [endpoint.as_str(), access, label]));
                    }
                }
            }
        }
        series
    }

    fn at(&self, endpoint: Endpoint, access: usize, status: Option<u16>) -> &IntCounter {
        let status = status.unwrap_or(UNANSWERED);
        let number = STATUSES.iter().position(|(known, _)| *known == status);
        number
            .and_then(|number| self.counters[index(endpoint, access, number)].as_ref())
            .unwrap_or(&self.unforeseen)
    }
}

fn index(endpoint: Endpoint, access: usize, status: usize) -> usize {
    (endpoint as usize * ACCESSES + access) * STATUSES.len() + status
}

/// The place of an access in the series of a family: none first.
fn access_index(access: Option<Access>) -> usize {
    access.map_or(0, |access| access as usize + 1)
}

impl Traffic {
    pub fn count(&self, request: &Request) {
        if matches!(
            request.endpoint,
            Endpoint::Get | Endpoint::Head | Endpoint::Put
        ) {
            let access = access_index(request.access);
            self.received_bytes[access].inc_by(request.received_bytes);
            self.sent_bytes[access].inc_by(request.sent_bytes);
        }
    }

    pub fn count_get(&self, access: Access, is_hit: bool) {
        let counters = if is_hit { &self.hits } else { &self.misses };
        if let Some(counter) = counters.get(access as usize) {
            counter.inc();
        }
    }

    pub fn new(live: &Families) -> Result<Self, BadMetric> {
        let counters = |name, help| {
            let accesses = [NO_ACCESS]
                .into_iter()
                .chain(Access::ALL.map(Access::as_str));
            live.counters(name, help, ["access"], accesses.map(|access| [access]))
        };
        let reading = |name, help| {
            let accesses = READING.map(|access| [access.as_str()]);
            live.counters(name, help, ["access"], accesses)
        };
        Ok(Self {
            hits: reading(
                "cachesrv_hits_total",
                "GETs that were answered with an artifact, to its end.",
            )?,
            misses: reading(
                "cachesrv_misses_total",
                "GETs of admitted tokens that were not, for whatever reason.",
            )?,
            received_bytes: counters(
                "cachesrv_received_bytes_total",
                "Bytes of bodies of requests for artifacts.",
            )?,
            sent_bytes: counters(
                "cachesrv_sent_bytes_total",
                "Bytes of bodies of answers about artifacts.",
            )?,
        })
    }
}
