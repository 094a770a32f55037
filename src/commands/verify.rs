//! `cachesrv verify`

use crate::cli::VerifyArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &VerifyArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
