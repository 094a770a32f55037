//! `cachesrv restore`: what can be typed.

use std::path::PathBuf;

use clap::Args;

use super::Options;

/// `cachesrv restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "SRC")]
    pub source: PathBuf,

    /// Replace a database that is there
    #[arg(long)]
    pub force: bool,

    /// Check the backup, change nothing, and say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
