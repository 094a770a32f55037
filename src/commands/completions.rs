//! `cachesrv completions`

use crate::cli::CompletionsArgs;
use crate::config::Resolution;

/// Runs the command.
pub(super) fn run(_: &Resolution, _: &CompletionsArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
