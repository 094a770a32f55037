//! `cachesrv token`: what can be typed.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{InWorkspace, Options};
use crate::units;

/// `cachesrv token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What to do with tokens.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// The commands under `cachesrv token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print its secret, once
    #[command(
        long_about = "Make a token and print its secret on stdout, once: only a hash of it is kept.\n\nA running \
                      server knows the token at once.",
        after_long_help = "\
Examples:
  cachesrv token create --write --name ci-main     for CI on protected branches
  cachesrv token create --isolated --name ci-prs   for CI of pull requests; the URL names the scope
  cachesrv token create --isolated pr-123          the same, bound to one scope
  cachesrv token create --name laptops             for developers; may only read
  cachesrv token create --name trial --expires 30d
  TOKEN=$(cachesrv token create --write)           the secret alone is on stdout"
    )]
    Create(TokenCreateArgs),

    /// List the tokens: names, rights and dates, never secrets
    #[command(
        long_about = "List the tokens of all workspaces, or of one: names, rights and dates, never secrets.\n\nA token is \
                      live, replaced (rotated, and still good for a while), expired or revoked.",
        after_long_help = "\
Examples:
  cachesrv token list
  cachesrv token list --workspace shop
  cachesrv token list --json

Keys of --json: id, name, workspace, access, scope (the isolated scope it is bound to, or null),
state, created_at, last_used_at, expires_at, revoked_at, replaced_by (an id, or null)."
    )]
    List(TokenListArgs),

    /// Say which token this is and what it may do; the secret is read from stdin
    #[command(
        long_about = "Say which token this is, whether it is alive and what it may do. The secret is read from stdin, and \
                      asked for without showing it on a terminal; it does not belong on a command line, which others \
                      can see.\n\nExit code 0 when the secret is right, even where the token is dead; the state says so.",
        after_long_help = "\
Examples:
  cachesrv token inspect                  asks for the token
  cachesrv token inspect < token.txt
  printf %s \"$TOKEN\" | cachesrv token inspect --json

Keys of --json: those of `token list --json`, and may_read and may_write, a sentence each."
    )]
    Inspect(TokenInspectArgs),

    /// Replace a token by a new one; the old one works on for a while
    #[command(
        long_about = "Make a new token in the place of an old one: same access, scope, workspace and name. Its secret is \
                      printed on stdout, once.\n\nThe old one works until the overlap is over, so that there is time \
                      to put the new secret in its place. Whatever it had replaced before ends by then, too; with \
                      --overlap 0s all of them at once. Without --expires the new one lives as long as the old one \
                      was to live from its creation.",
        after_long_help = "\
Examples:
  cachesrv token rotate ci-main
  cachesrv token rotate ci-main --overlap 0s    for one that leaked: it is refused from now on
  cachesrv token rotate AbCdEfGhIjKl --overlap 7d --expires 90d
  TOKEN=$(cachesrv token rotate ci-main)        the secret alone is on stdout"
    )]
    Rotate(TokenRotateArgs),

    /// Revoke a token; the next request with it is refused
    #[command(
        long_about = "Revoke a token. The next request with it is refused, also by a server that is running; an upload \
                      in flight is not stored.\n\nA name revokes every token of that name in the workspace, those that \
                      were replaced by rotation or have expired included. An id revokes that one only; living ones that \
                      replaced it, or that it replaced, are named.",
        after_long_help = "\
Examples:
  cachesrv token revoke ci-main
  cachesrv token revoke ci-main --workspace shop
  cachesrv token revoke AbCdEfGhIjKl"
    )]
    Revoke(TokenRevokeArgs),
}

impl TokenCommand {
    /// The configuration that was typed after the command.
    pub fn options(&self) -> &Options {
        match self {
            Self::Create(args) => &args.options,
            Self::List(args) => &args.options,
            Self::Inspect(args) => &args.options,
            Self::Rotate(args) => &args.options,
            Self::Revoke(args) => &args.options,
        }
    }
}

/// `cachesrv token create`
#[derive(Debug, Args)]
pub struct TokenCreateArgs {
    /// What the token may do.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Name the token, for lists, logs and `token revoke`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Refuse the token after this time: 90d, 12h [default: never]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub expires: Option<Duration>,

    /// The workspace that the token belongs to.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// What a token may do: one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct AccessArgs {
    /// May fetch artifacts, not store them (the default)
    #[arg(long)]
    pub read: bool,

    /// May fetch and store artifacts; keep it on protected branches
    ///
    /// Whoever has such a token decides what every other build restores.
    #[arg(long)]
    pub write: bool,

    /// May fetch artifacts, and store what only its own scope sees; for pull requests
    ///
    /// With a name the token is bound to that scope. Without one, the server URL of the client names the
    /// scope: https://cache.example/s/pr-123
    #[arg(long, value_name = "NAME")]
    pub isolated: Option<Option<String>>,

    /// May store artifacts, not fetch them; for release builds that must not use the cache
    #[arg(long)]
    pub write_only: bool,
}

/// `cachesrv token list`
#[derive(Debug, Args)]
pub struct TokenListArgs {
    /// Only the tokens of this workspace [default: all]
    #[arg(long, value_name = "NAME")]
    pub workspace: Option<String>,

    /// Print a JSON array, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv token inspect`
#[derive(Debug, Args)]
pub struct TokenInspectArgs {
    /// Print a JSON object, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv token rotate`
#[derive(Debug, Args)]
pub struct TokenRotateArgs {
    /// The name or the id of the token, as `token list` shows them
    #[arg(value_name = "NAME|ID")]
    pub token: String,

    /// Refuse the old token after this time: 24h, or 0s for at once
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, default_value = "24h")]
    pub overlap: Duration,

    /// Refuse the new token after this time: 90d [default: as long as the old one was to live]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub expires: Option<Duration>,

    /// The workspace in which the name is looked for.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv token revoke`
#[derive(Debug, Args)]
pub struct TokenRevokeArgs {
    /// The name or the id of the token, as `token list` shows them
    #[arg(value_name = "NAME|ID")]
    pub token: String,

    /// The workspace in which the name is looked for.
    #[command(flatten)]
    pub place: InWorkspace,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}
