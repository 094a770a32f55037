//! What the server says about itself: log lines on stderr, metrics later.
//!
//! A [`Log`] is a value that is passed around, never a global. It knows nothing of the rest of the
//! crate: what goes into a line is decided by whoever writes it.

mod line;
mod log;
mod queue;
mod request;

pub use line::{Format, Level, Value, escaped};
pub use log::{FlushOnDrop, Log};
pub use queue::QUEUE_MAX_BYTES;
pub use request::RequestLine;
