//! `cachesrv healthcheck`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv healthcheck`
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
