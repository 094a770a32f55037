//! `cachesrv restore`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
