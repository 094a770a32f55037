//! `cachesrv healthcheck`: what can be typed.

use clap::{Args, ValueHint};

use super::Options;

/// `cachesrv healthcheck`
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Ask at this URL instead of the address that the server is configured to listen on
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,

    /// Ask whether it can serve and store at the moment (/readyz), not only whether it is alive (/healthz)
    #[arg(long)]
    pub ready: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
