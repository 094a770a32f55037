//! `cachesrv backup`: what can be typed.

use std::path::PathBuf;

use clap::Args;

use super::Options;

/// `cachesrv backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make, or a directory to make one in, named by the time
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,

    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,

    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
