//! How long the database takes, told to whoever wants to know. What that is for is none of the store's business.

use std::sync::OnceLock;
use std::time::Duration;

/// Hears how long something took.
pub type Watch = Box<dyn Fn(Duration) + Send + Sync>;

/// Who hears what.
#[derive(Default)]
pub(super) struct Timing {
    /// Of each snapshot: from asking for a connection to its end.
    pub reads: OnceLock<Watch>,
    /// Of each job: from handing it to the writer to its commit.
    pub writes: OnceLock<Watch>,
}

/// Tells the watch, if there is one.
pub(super) fn tell(watch: &OnceLock<Watch>, took: Duration) {
    if let Some(watch) = watch.get() {
        watch(took);
    }
}
