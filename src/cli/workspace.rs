//! `cachesrv workspace`: what can be typed.

use clap::{Args, Subcommand};

use super::Options;

/// `cachesrv workspace`
#[derive(Debug, Args)]
pub struct WorkspaceArgs {
    /// What to do with workspaces.
    #[command(subcommand)]
    pub command: WorkspaceCommand,
}

/// The commands under `cachesrv workspace`.
#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    /// Add a workspace, with an empty cache of its own
    #[command(
        long_about = "Add a workspace: tokens made for it read and write nothing of any other one. The workspace 'default' \
                      is always there.",
        after_long_help = "\
Examples:
  cachesrv workspace add shop
  cachesrv token create --write --workspace shop"
    )]
    Add(WorkspaceAddArgs),

    /// List the workspaces
    #[command(after_long_help = "\
Examples:
  cachesrv workspace list
  cachesrv workspace list --json")]
    List(WorkspaceListArgs),
}

impl WorkspaceCommand {
    /// The configuration that was typed after the command.
    pub fn options(&self) -> &Options {
        match self {
            Self::Add(args) => &args.options,
            Self::List(args) => &args.options,
        }
    }
}

/// `cachesrv workspace add`
#[derive(Debug, Args)]
pub struct WorkspaceAddArgs {
    /// Its name: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv workspace list`
#[derive(Debug, Args)]
pub struct WorkspaceListArgs {
    /// Print a JSON array, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
