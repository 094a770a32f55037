//! `cachesrv backup`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
