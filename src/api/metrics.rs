//! The families of metrics: their names, their labels, and who counts what.
//!
//! Labels take their values from closed sets (routes, accesses, statuses, reasons), never from a request: no client can
//! add a series. Every series is there from the start. Counting is a few atomic additions by handles that are held here;
//! what others count, and what the database holds, is looked up at a scrape.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::http::Method;
use crate::store::{Access, Figures, SCHEMA_VERSION, ScopeKind};
use crate::telemetry::{BadMetric, Families, Histogram, IntCounter, IntGauge, show};

use super::reason::Reason;
use super::route::Route;

/// What was asked for, as metrics know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Get,
    Head,
    Put,
    Root,
    Health,
    Ready,
    Metrics,
    /// A path or a method that there is not.
    Other,
    /// What never became a request.
    Rejected,
}

impl Endpoint {
    const ALL: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Root,
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::Other,
        Self::Rejected,
    ];

    pub fn of(route: &Route<'_>, method: Method) -> Self {
        match (route, method) {
            (Route::Artifact(_), Method::Get) => Self::Get,
            (Route::Artifact(_), Method::Head) => Self::Head,
            (Route::Artifact(_), Method::Put) => Self::Put,
            (_, Method::Put | Method::Other) | (Route::Unknown, _) => Self::Other,
            (Route::Root, _) => Self::Root,
            (Route::Health, _) => Self::Health,
            (Route::Ready, _) => Self::Ready,
            (Route::Metrics, _) => Self::Metrics,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Root => "root",
            Self::Health => "healthz",
            Self::Ready => "readyz",
            Self::Metrics => "metrics",
            Self::Other => "other",
            Self::Rejected => "rejected",
        }
    }

    /// The statuses that are answered to tokens that were admitted.
    fn statuses_of_the_admitted(self) -> &'static [u16] {
        match self {
            Self::Get | Self::Head => &[200, 404, UNANSWERED],
            Self::Put => &[200, 202, 401, 403, 409, UNANSWERED],
            Self::Metrics => &[200, 403, UNANSWERED],
            _ => &[],
        }
    }

    /// The statuses that are answered to everybody else.
    fn statuses_of_the_rest(self) -> &'static [u16] {
        match self {
            Self::Get | Self::Head => &[401, 404, UNANSWERED],
            Self::Put => &[401, 403, 411, UNANSWERED],
            Self::Root | Self::Health => &[200, 500],
            Self::Ready => &[200, 500, 503],
            Self::Metrics => &[200, 401, 403, 500, 503, UNANSWERED],
            Self::Other => &[404, 405, 500],
            Self::Rejected => &[400, 408, 414, 417, 431, 505],
        }
    }

    /// The histogram that its durations go into.
    fn timed_as(self) -> usize {
        match self {
            Self::Get | Self::Head | Self::Put => self as usize,
            _ => TIMED.len() - 1,
        }
    }
}

/// Stands for the status of a request that ended without an answer.
const UNANSWERED: u16 = 0;

/// Every status that is sent, with its label.
const STATUSES: [(u16, &str); 17] = [
    (UNANSWERED, "none"),
    (200, "200"),
    (202, "202"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (411, "411"),
    (414, "414"),
    (417, "417"),
    (431, "431"),
    (500, "500"),
    (503, "503"),
    (505, "505"),
];

/// The access of a request whose token was not admitted, or that needs none.
const NO_ACCESS: &str = "none";
/// The accesses that read, in the order of their numbers.
const READING: [Access; 3] = [Access::Read, Access::Write, Access::Isolated];
/// The accesses of tokens, and none.
const ACCESSES: usize = Access::ALL.len() + 1;

/// Which durations are told apart.
const TIMED: [&str; 4] = ["get", "head", "put", "other"];
const REQUEST_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];
const DATABASE_SECONDS: [f64; 13] = [
    0.000_025, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
];

/// The kinds of scopes, in the order of their series.
const KINDS: [&str; 2] = ["trusted", "isolated"];
/// Why eviction takes entries.
const EVICTION_REASONS: [&str; 3] = ["size", "age", "disk"];

/// What one request came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub endpoint: Endpoint,
    pub access: Option<Access>,
    pub status: Option<u16>,
    pub reason: Option<Reason>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub took: Duration,
}

/// What others count, at the moment of a scrape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readings {
    pub connections: u64,
    pub threads: u64,
    pub argon2_runs: u64,
    pub log_lines_dropped: u64,
    pub log_file_bytes: u64,
    pub free_disk_bytes: u64,
}

/// All families.
pub struct Metrics {
    live: Families,
    /// Left out of the text while the database does not answer.
    stored: Families,
    requests: Requests,
    traffic: Traffic,
    gauges: Gauges,
    held: HeldGauges,
    pub(super) panics: IntCounter,
    pub(super) database_read: Histogram,
    pub(super) database_write: Histogram,
    /// Held while a text is made, so that one scrape does not show half of another.
    scrape: Mutex<()>,
}

struct Requests {
    /// By endpoint, access and status; see [`Requests::at`].
    counters: Vec<Option<IntCounter>>,
    /// Should there ever be an answer that nobody thought of.
    unforeseen: IntCounter,
    durations: Vec<Histogram>,
    refusals: Vec<IntCounter>,
}

/// By access.
struct Traffic {
    /// Of those that may read; see [`READING`].
    hits: Vec<IntCounter>,
    misses: Vec<IntCounter>,
    received_bytes: Vec<IntCounter>,
    sent_bytes: Vec<IntCounter>,
}

struct Gauges {
    up: IntGauge,
    connections: IntGauge,
    threads: IntGauge,
    argon2_runs: IntCounter,
    log_lines_dropped: IntCounter,
    wal_bytes: IntGauge,
    free_disk_bytes: IntGauge,
}

struct HeldGauges {
    entries: Vec<IntGauge>,
    entry_bytes: Vec<IntGauge>,
    /// By kind, then by reason.
    evictions: Vec<IntCounter>,
    evicted_bytes: Vec<IntCounter>,
    file_bytes: IntGauge,
    reusable_bytes: IntGauge,
    backup_seconds: IntGauge,
}

/// What never changes while the server runs.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// When the process started, seconds since 1970 UTC.
    pub started_at_seconds: i64,
    /// The most connections at once.
    pub connections_max: u64,
    /// What trusted scopes may hold together.
    pub trusted_max_bytes: u64,
    /// What isolated scopes may hold together.
    pub isolated_max_bytes: u64,
    /// Below this, nothing is stored.
    pub free_disk_min_bytes: u64,
}

impl Metrics {
    /// All families, every series at 0.
    pub fn new(bounds: &Bounds) -> Result<Self, BadMetric> {
        let (live, stored) = (Families::default(), Families::default());
        constants(&live, bounds)?;
        let mut database = live.histograms(
            "cachesrv_database_duration_seconds",
            "Time for a read (from asking for a connection to the end of the snapshot) and for a write (from the \
             queue to its commit).",
            &DATABASE_SECONDS,
            "operation",
            ["read", "write"],
        )?;
        let (database_write, database_read) = (database.remove(1), database.remove(0));
        Ok(Self {
            requests: Requests::new(&live)?,
            traffic: Traffic::new(&live)?,
            gauges: Gauges::new(&live)?,
            held: HeldGauges::new(&stored)?,
            panics: live.counter(
                "cachesrv_panics_total",
                "Requests that met a bug of cachesrv.",
            )?,
            database_read,
            database_write,
            live,
            stored,
            scrape: Mutex::new(()),
        })
    }

    /// Counts a request that has ended.
    pub(super) fn count(&self, request: &Request) {
        let access = access_index(request.access);
        self.requests
            .at(request.endpoint, access, request.status)
            .inc();
        if request.endpoint != Endpoint::Rejected {
            let duration = &self.requests.durations[request.endpoint.timed_as()];
            duration.observe(request.took.as_secs_f64());
        }
        if let Some(reason) = request.reason {
            self.requests.refusals[reason as usize].inc();
        }
        if matches!(
            request.endpoint,
            Endpoint::Get | Endpoint::Head | Endpoint::Put
        ) {
            self.traffic.received_bytes[access].inc_by(request.received_bytes);
            self.traffic.sent_bytes[access].inc_by(request.sent_bytes);
        }
    }

    /// Counts a GET of a token that was admitted.
    pub(super) fn count_get(&self, access: Access, is_hit: bool) {
        let counters = if is_hit {
            &self.traffic.hits
        } else {
            &self.traffic.misses
        };
        if let Some(counter) = counters.get(access as usize) {
            counter.inc();
        }
    }

    /// The text for a scrape; without `figures` it lacks what they say.
    pub(super) fn text(
        &self,
        readings: &Readings,
        figures: Option<&Figures>,
    ) -> Result<String, BadMetric> {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.set(readings, figures.is_some());
        let mut text = String::with_capacity(TEXT_BYTES);
        self.live.write(&mut text)?;
        if let Some(figures) = figures {
            self.held.set(figures);
            self.stored.write(&mut text)?;
        }
        Ok(text)
    }
}

/// What a text comes to, roughly.
const TEXT_BYTES: usize = 32 * 1024;

fn constants(live: &Families, bounds: &Bounds) -> Result<(), BadMetric> {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("schema", &SCHEMA_VERSION.to_string()),
    ];
    let help = "Always 1: which version runs, and which schema its database has.";
    live.info("cachesrv_build_info", help, &labels)?;
    for (name, help, value) in [
        (
            "process_start_time_seconds",
            "When the server started, seconds since 1970.",
            bounds.started_at_seconds,
        ),
        (
            "cachesrv_connections_max",
            "The most connections at once (limits.connections_max).",
            clamped(bounds.connections_max),
        ),
        (
            "cachesrv_disk_free_min_bytes",
            "Free disk below which nothing new is stored (eviction.min_free_disk).",
            clamped(bounds.free_disk_min_bytes),
        ),
    ] {
        live.gauge(name, help)?.set(value);
    }
    let help =
        "What scopes of a kind may hold together (eviction.max_size, eviction.isolated_share).";
    let budgets = live.gauges("cachesrv_entry_max_bytes", help, "kind", KINDS)?;
    budgets[0].set(clamped(bounds.trusted_max_bytes));
    budgets[1].set(clamped(bounds.isolated_max_bytes));
    Ok(())
}

impl Requests {
    fn new(live: &Families) -> Result<Self, BadMetric> {
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
    fn new(live: &Families) -> Result<Self, BadMetric> {
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

impl Gauges {
    fn new(live: &Families) -> Result<Self, BadMetric> {
        Ok(Self {
            up: live.gauge(
                "cachesrv_up",
                "1 if the database answered this scrape; at 0 what it would say is missing.",
            )?,
            connections: live.gauge("cachesrv_connections", "Open connections.")?,
            threads: live.gauge("cachesrv_threads", "Threads of the process.")?,
            argon2_runs: live.counter(
                "cachesrv_argon2_runs_total",
                "Secrets of tokens that were hashed; one for each token and start, unless somebody guesses.",
            )?,
            log_lines_dropped: live.counter(
                "cachesrv_log_lines_dropped_total",
                "Log lines that were lost because stderr was not read fast enough.",
            )?,
            wal_bytes: live.gauge(
                "cachesrv_wal_size_bytes",
                "The length of the write-ahead log beside the database.",
            )?,
            free_disk_bytes: live.gauge(
                "cachesrv_disk_free_bytes",
                "What is free on the disk of the database.",
            )?,
        })
    }

    fn set(&self, readings: &Readings, is_up: bool) {
        self.up.set(i64::from(is_up));
        self.connections.set(clamped(readings.connections));
        self.threads.set(clamped(readings.threads));
        show(&self.argon2_runs, readings.argon2_runs);
        show(&self.log_lines_dropped, readings.log_lines_dropped);
        self.wal_bytes.set(clamped(readings.log_file_bytes));
        self.free_disk_bytes.set(clamped(readings.free_disk_bytes));
    }
}

impl HeldGauges {
    fn new(stored: &Families) -> Result<Self, BadMetric> {
        let by_reason = || {
            let reasons = |kind| EVICTION_REASONS.map(|reason| [kind, reason]);
            KINDS.into_iter().flat_map(reasons)
        };
        let labels = ["kind", "reason"];
        let gauge = |name, help| stored.gauge(name, help);
        Ok(Self {
            entries: stored.gauges(
                "cachesrv_entries",
                "Artifacts that are stored.",
                "kind",
                KINDS,
            )?,
            entry_bytes: stored.gauges(
                "cachesrv_entry_bytes",
                "Bytes of artifacts that are stored.",
                "kind",
                KINDS,
            )?,
            evictions: stored.counters(
                "cachesrv_evictions_total",
                "Artifacts that eviction took since the database was made.",
                labels,
                by_reason(),
            )?,
            evicted_bytes: stored.counters(
                "cachesrv_evicted_bytes_total",
                "Bytes of artifacts that eviction took since the database was made.",
                labels,
                by_reason(),
            )?,
            file_bytes: gauge(
                "cachesrv_database_size_bytes",
                "The length of the database file.",
            )?,
            reusable_bytes: gauge(
                "cachesrv_database_reusable_bytes",
                "How much of the database file holds nothing and is written again first.",
            )?,
            backup_seconds: gauge(
                "cachesrv_last_backup_timestamp_seconds",
                "When the latest backup was finished, seconds since 1970; 0 if there is none.",
            )?,
        })
    }

    fn set(&self, figures: &Figures) {
        let held = [figures.held.trusted, figures.held.isolated];
        for (at, held) in held.iter().enumerate() {
            self.entries[at].set(clamped(held.artifacts));
            self.entry_bytes[at].set(clamped(held.size_bytes));
        }
        for evicted in &figures.evicted {
            let known = EVICTION_REASONS
                .iter()
                .position(|reason| *reason == evicted.reason);
            if let Some(reason) = known {
                let kind = usize::from(evicted.kind == ScopeKind::Isolated);
                let at = kind * EVICTION_REASONS.len() + reason;
                show(&self.evictions[at], evicted.sum.artifacts);
                show(&self.evicted_bytes[at], evicted.sum.size_bytes);
            }
        }
        self.file_bytes.set(clamped(figures.file_bytes));
        self.reusable_bytes.set(clamped(figures.reusable_bytes));
        let backup_at_ms = figures.backup_at_ms.unwrap_or_default();
        self.backup_seconds.set(backup_at_ms / 1000);
    }
}

fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
