//! `cachesrv gc`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
