//! `cachesrv stats`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
