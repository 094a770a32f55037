//! What the server says about itself: log lines on stderr, and metrics for Prometheus.
//!
//! A [`Log`] is a value that is passed around, never a global, and so are [`Families`]. They know nothing of the rest of
//! the crate: what goes into a line, and what is counted, is decided by whoever does it.

mod line;
mod log;
mod metrics;
mod queue;
mod request;

pub use line::{Format, Level, Value, escaped};
pub use log::{FlushOnDrop, Log};
pub use metrics::{
    BadMetric, Families, Histogram, IntCounter, IntGauge, METRICS_TYPE, show, threads,
};
pub use queue::QUEUE_MAX_BYTES;
pub use request::RequestLine;
