//! `cachesrv doctor`: what can be typed.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::Options;

/// `cachesrv doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Ask the server at this URL, as Nx has it, instead of the address that it is configured to listen on
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,

    /// Trust the certificates in this PEM file, and no others
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,

    /// Read a token from stdin and try what it may do, instead of tokens made for this
    #[arg(long, requires = "url")]
    pub token_stdin: bool,

    /// Print a JSON object with all findings, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
