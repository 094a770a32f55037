//! `cachesrv completions`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
