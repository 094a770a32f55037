//! `cachesrv stats`: what can be typed.

use clap::Args;

use super::Options;

/// How far back there is anything, in days.
const DAYS_MAX: i64 = 400;

/// `cachesrv stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// So many days, today included
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    pub days: i64,

    /// Only this workspace
    #[arg(long, value_name = "NAME")]
    pub workspace: Option<String>,

    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
