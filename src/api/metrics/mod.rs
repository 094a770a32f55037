//! The families of metrics: their names, their labels, and who counts what.
//!
//! Labels take their values from closed sets (routes, accesses, statuses, reasons), never from a request: no client can
//! add a series. Every series is there from the start. Counting is a few atomic additions by handles that are held here;
//! what others count, and what the database holds, is looked up at a scrape.

mod endpoint;
mod gauges;
mod requests;

use std::sync::{Mutex, PoisonError};

use crate::store::{Access, Figures};
use crate::telemetry::{BadMetric, Families, Histogram, IntCounter};

pub use gauges::Bounds;

pub(in crate::api) use endpoint::Endpoint;
pub(in crate::api) use gauges::Readings;
pub(in crate::api) use requests::Request;

use gauges::{Gauges, HeldGauges, constants};
use requests::{Requests, Traffic};

const DATABASE_SECONDS: [f64; 13] = [
    0.000_025, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
];

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
        self.requests.count(request);
        self.traffic.count(request);
    }

    /// Counts a GET of a token that was admitted.
    pub(super) fn count_get(&self, access: Access, is_hit: bool) {
        self.traffic.count_get(access, is_hit);
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
