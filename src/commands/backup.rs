//! `cachesrv backup`

use crate::cli::BackupArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &BackupArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
