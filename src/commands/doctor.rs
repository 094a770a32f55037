//! `cachesrv doctor`

use crate::cli::DoctorArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &DoctorArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
