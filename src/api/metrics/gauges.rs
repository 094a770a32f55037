//! What is looked up at a scrape, and what never changes.

use std::time::Duration;

use crate::store::{Figures, SCHEMA_VERSION, ScopeKind};
use crate::telemetry::{BadMetric, Families, IntCounter, IntGauge, show};

/// The kinds of scopes, in the order of their series.
const KINDS: [&str; 2] = ["trusted", "isolated"];
/// Why eviction takes entries.
const EVICTION_REASONS: [&str; 3] = ["size", "age", "disk"];

/// What others count, at the moment of a scrape.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Readings {
    pub connections: u64,
    pub threads: u64,
    pub argon2_runs: u64,
    pub log_lines_dropped: u64,
    pub log_file_bytes: u64,
    pub log_blocked_for: Duration,
    pub free_disk_bytes: u64,
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

/// Of the process and its disk.
pub(super) struct Gauges {
    up: IntGauge,
    connections: IntGauge,
    threads: IntGauge,
    argon2_runs: IntCounter,
    log_lines_dropped: IntCounter,
    wal_bytes: IntGauge,
    wal_blocked: IntGauge,
    free_disk_bytes: IntGauge,
}

/// Of the database.
pub(super) struct HeldGauges {
    entries: Vec<IntGauge>,
    entry_bytes: Vec<IntGauge>,
    /// By kind, then by reason.
    evictions: Vec<IntCounter>,
    evicted_bytes: Vec<IntCounter>,
    file_bytes: IntGauge,
    reusable_bytes: IntGauge,
    backup_seconds: IntGauge,
}

/// Declares what never changes.
pub(super) fn constants(live: &Families, bounds: &Bounds) -> Result<(), BadMetric> {
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

impl Gauges {
    pub fn new(live: &Families) -> Result<Self, BadMetric> {
        Ok(Self {
            up: live.gauge(
                "cachesrv_up",
                "1 if the database answered this scrape; at 0 what it would say is missing.",
            )?,
            connections: live.gauge("cachesrv_connections", "Open connections to the address of the cache.")?,
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
            wal_blocked: live.gauge(
                "cachesrv_wal_blocked_seconds",
                "For how long somebody who reads the database has kept its log from being folded; 0 if nobody does.",
            )?,
            free_disk_bytes: live.gauge(
                "cachesrv_disk_free_bytes",
                "What is free on the disk of the database.",
            )?,
        })
    }

    pub fn set(&self, readings: &Readings, is_up: bool) {
        self.up.set(i64::from(is_up));
        self.connections.set(clamped(readings.connections));
        self.threads.set(clamped(readings.threads));
        show(&self.argon2_runs, readings.argon2_runs);
        show(&self.log_lines_dropped, readings.log_lines_dropped);
        self.wal_bytes.set(clamped(readings.log_file_bytes));
        self.wal_blocked
            .set(clamped(readings.log_blocked_for.as_secs()));
        self.free_disk_bytes.set(clamped(readings.free_disk_bytes));
    }
}

impl HeldGauges {
    pub fn new(stored: &Families) -> Result<Self, BadMetric> {
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

    pub fn set(&self, figures: &Figures) {
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
