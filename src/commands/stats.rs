//! `cachesrv stats`

use crate::cli::StatsArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &StatsArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
