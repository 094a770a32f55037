//! `stats --json`.

use serde::Serialize;

use super::super::time::day;
use super::{Listing, Report, hit_rate};
use crate::config::Config;
use crate::store::{EvictionSum, Usage};

/// All of it as scripts see it. Keys are a contract; days are dates in UTC.
#[derive(Serialize)]
pub(super) struct Listed<'r> {
    from: String,
    to: String,
    workspace: Option<&'r str>,
    total: ListedUsage,
    days: Vec<ListedSum<'r>>,
    accesses: Vec<ListedSum<'r>>,
    workspaces: Vec<ListedSum<'r>>,
    held: Vec<ListedHeld>,
    evicted: Option<Vec<ListedEvicted<'r>>>,
}

/// A sum, with whatever it belongs to.
#[derive(Serialize, Default)]
struct ListedSum<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<&'r str>,
    #[serde(flatten)]
    usage: ListedUsage,
}

/// The rate is a number from 0 to 1, or null where nothing was asked for.
#[derive(Serialize, Default)]
struct ListedUsage {
    hit_rate: Option<f64>,
    hits: u64,
    hit_bytes: u64,
    misses: u64,
    stored: u64,
    stored_bytes: u64,
    conflicts: u64,
    refused: u64,
}

#[derive(Serialize)]
struct ListedHeld {
    kind: &'static str,
    entries: u64,
    bytes: u64,
    max_bytes: Option<u64>,
}

#[derive(Serialize)]
struct ListedEvicted<'r> {
    kind: &'static str,
    reason: &'r str,
    entries: u64,
    bytes: u64,
}

impl<'r> Listed<'r> {
    pub fn of(report: &'r Report, config: &Config) -> Self {
        let evicted = report.evicted.as_deref();
        Self {
            from: day(report.first_day),
            to: day(report.last_day),
            workspace: report.workspace.as_deref(),
            total: ListedUsage::of(&report.total()),
            days: listed(report.sums(|row| row.day), |number| ListedSum {
                day: Some(day(number)),
                ..ListedSum::default()
            }),
            accesses: listed(report.by_access(), |access| ListedSum {
                access: Some(access.as_str()),
                ..ListedSum::default()
            }),
            workspaces: listed(report.sums(|row| row.workspace.as_str()), |name| {
                ListedSum {
                    workspace: Some(name),
                    ..ListedSum::default()
                }
            }),
            held: report
                .held_by_kind(config)
                .iter()
                .map(ListedHeld::of)
                .collect(),
            evicted: evicted.map(|all| all.iter().map(ListedEvicted::of).collect()),
        }
    }
}

fn listed<'r, K>(
    sums: impl IntoIterator<Item = (K, Usage)>,
    of: impl Fn(K) -> ListedSum<'r>,
) -> Vec<ListedSum<'r>> {
    let sum = |(key, usage)| ListedSum {
        usage: ListedUsage::of(&usage),
        ..of(key)
    };
    sums.into_iter().map(sum).collect()
}

impl ListedUsage {
    fn of(usage: &Usage) -> Self {
        Self {
            hit_rate: hit_rate(usage),
            hits: usage.hits,
            hit_bytes: usage.hit_bytes,
            misses: usage.misses,
            stored: usage.stored,
            stored_bytes: usage.stored_bytes,
            conflicts: usage.conflicts,
            refused: usage.refused,
        }
    }
}

impl ListedHeld {
    fn of(listing: &Listing) -> Self {
        Self {
            kind: listing.kind.as_str(),
            entries: listing.entries,
            bytes: listing.bytes,
            max_bytes: listing.max_bytes,
        }
    }
}

impl<'r> ListedEvicted<'r> {
    fn of(evicted: &'r EvictionSum) -> Self {
        Self {
            kind: evicted.kind.as_str(),
            reason: &evicted.reason,
            entries: evicted.sum.artifacts,
            bytes: evicted.sum.size_bytes,
        }
    }
}
