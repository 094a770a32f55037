//! `cachesrv verify`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Leave out the bytes of the artifacts, and the order in the indexes
    #[arg(long)]
    pub quick: bool,

    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
