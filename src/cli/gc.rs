//! `cachesrv gc`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Change nothing, and say what would go
    #[arg(long)]
    pub dry_run: bool,

    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
