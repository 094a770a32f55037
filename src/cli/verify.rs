//! `cachesrv verify`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
