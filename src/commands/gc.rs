//! `cachesrv gc`

use crate::cli::GcArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &GcArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
