//! SIGINT, SIGTERM and SIGHUP as a wish that a long command looks at, so that it leaves nothing half done; a
//! second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code when a second signal cuts the tidying up short.
const IMPATIENT_EXIT_CODE: i32 = 130;

/// What is set by the first signal.
pub(super) fn wish_to_stop() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, IMPATIENT_EXIT_CODE, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen for signals")?;
    }
    Ok(stop)
}
