//! `cachesrv healthcheck`

use crate::cli::HealthcheckArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &HealthcheckArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
