//! `cachesrv purge`: what can be typed.

use clap::Args;

use super::{InWorkspace, Options};

/// `cachesrv purge`
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// What to remove.
    #[command(flatten)]
    pub what: PurgeSelectors,

    /// And everything stored since the first of that, for builds may have used it
    ///
    /// Every artifact of the workspace that was stored since the first write of that token, or of that hash,
    /// into the trusted scope; if only isolated scopes were written, only isolated artifacts since then. What
    /// the token stored first is remembered even when it is no longer there; of a hash it is not.
    #[arg(long, conflicts_with_all = ["scope", "since"])]
    pub transitive: bool,

    /// Change nothing, and say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// The workspace to remove from.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// What to remove: at least one of these; several narrow each other.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct PurgeSelectors {
    /// What this token stored; a name means every token that ever had it
    #[arg(long, value_name = "NAME|ID")]
    pub token: Option<String>,

    /// What this isolated scope holds
    #[arg(long, value_name = "NAME")]
    pub scope: Option<String>,

    /// What was stored since: 2h (that long ago), 2026-11-20 (UTC), 2026-11-20T08:30:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// What goes by this hash, in every scope
    #[arg(long, value_name = "HASH")]
    pub hash: Option<String>,
}
