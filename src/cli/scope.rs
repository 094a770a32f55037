//! `cachesrv scope`: what can be typed.

use clap::{Args, Subcommand};

use super::Options;

/// `cachesrv scope`
#[derive(Debug, Args)]
pub struct ScopeArgs {
    /// What to do with scopes.
    #[command(subcommand)]
    pub command: ScopeCommand,
}

/// The commands under `cachesrv scope`.
#[derive(Debug, Subcommand)]
pub enum ScopeCommand {
    /// List the trusted scopes, and the isolated ones that hold artifacts
    #[command(after_long_help = "\
Examples:
  cachesrv scope list
  cachesrv scope list --workspace shop --json")]
    List(ScopeListArgs),
}

impl ScopeCommand {
    /// The configuration that was typed after the command.
    pub fn options(&self) -> &Options {
        match self {
            Self::List(args) => &args.options,
        }
    }
}

/// `cachesrv scope list`
#[derive(Debug, Args)]
pub struct ScopeListArgs {
    /// Only the scopes of this workspace [default: all]
    #[arg(long, value_name = "NAME")]
    pub workspace: Option<String>,

    /// Print a JSON array, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
