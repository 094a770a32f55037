//! `cachesrv doctor`: what can be typed.

use clap::Args;

use super::Options;

/// `cachesrv doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
