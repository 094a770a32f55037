//! `cachesrv restore`

use crate::cli::RestoreArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &RestoreArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
