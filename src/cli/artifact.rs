//! `cachesrv artifact`: what can be typed.

use clap::{Args, Subcommand};

use super::{InWorkspace, Options};

/// The longest list of artifacts: more is narrowed, not paged through.
const LIMIT_MAX: u64 = 10_000;

/// `cachesrv artifact`
#[derive(Debug, Args)]
pub struct ArtifactArgs {
    /// What to do with artifacts.
    #[command(subcommand)]
    pub command: ArtifactCommand,
}

/// The commands under `cachesrv artifact`.
#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// List artifacts, newest first
    #[command(after_long_help = "\
Examples:
  cachesrv artifact list
  cachesrv artifact list --trusted --since 2h
  cachesrv artifact list --scope pr-123 --limit 1000
  cachesrv artifact list --token ci-main --json")]
    List(ArtifactListArgs),

    /// Show who stored a hash, when and from where, in each scope that has it
    #[command(after_long_help = "\
Examples:
  cachesrv artifact show 1234567890
  cachesrv artifact show 1234567890 --workspace shop --json")]
    Show(ArtifactShowArgs),

    /// Delete a hash from every scope, or from one
    #[command(
        long_about = "Delete a hash from every scope of the workspace, or from one. A running server misses it from its \
                      next request on and stores it anew; who is reading it gets all of it.",
        after_long_help = "\
Examples:
  cachesrv artifact delete 1234567890 --dry-run
  cachesrv artifact delete 1234567890
  cachesrv artifact delete 1234567890 --scope pr-123
  cachesrv artifact delete 1234567890 --trusted"
    )]
    Delete(ArtifactDeleteArgs),
}

impl ArtifactCommand {
    /// The configuration that was typed after the command.
    pub fn options(&self) -> &Options {
        match self {
            Self::List(args) => &args.options,
            Self::Show(args) => &args.options,
            Self::Delete(args) => &args.options,
        }
    }
}

/// The scopes that a command is about: all, or one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct InScope {
    /// Only in this isolated scope
    #[arg(long, value_name = "NAME")]
    pub scope: Option<String>,

    /// Only in the trusted scope
    #[arg(long)]
    pub trusted: bool,
}

/// `cachesrv artifact list`
#[derive(Debug, Args)]
pub struct ArtifactListArgs {
    /// The scopes to look into.
    #[command(flatten)]
    pub scope: InScope,

    /// Only what this token stored; a name means every token that ever had it
    #[arg(long, value_name = "NAME|ID")]
    pub token: Option<String>,

    /// Only what was stored since: 2h (that long ago), 2026-11-20 (UTC), 2026-11-20T08:30:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// At most so many, 10000 at the most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=LIMIT_MAX))]
    pub limit: u64,

    /// Print a JSON array, for scripts
    #[arg(long)]
    pub json: bool,

    /// The workspace to look into.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv artifact show`
#[derive(Debug, Args)]
pub struct ArtifactShowArgs {
    /// The hash, as in the URL and the log
    #[arg(value_name = "HASH")]
    pub hash: String,

    /// Print a JSON array, for scripts
    #[arg(long)]
    pub json: bool,

    /// The workspace to look into.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv artifact delete`
#[derive(Debug, Args)]
pub struct ArtifactDeleteArgs {
    /// The hash, as in the URL and the log
    #[arg(value_name = "HASH")]
    pub hash: String,

    /// The scopes to delete it from.
    #[command(flatten)]
    pub scope: InScope,

    /// Change nothing, and say what would be deleted
    #[arg(long)]
    pub dry_run: bool,

    /// The workspace to delete from.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
