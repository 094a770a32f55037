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
    #[command(after_long_help = "\
Examples:
  cachesrv token list
  cachesrv token list --json")]
    List(TokenListArgs),

    /// Revoke a token; the next request with it is refused
    #[command(
        long_about = "Revoke a token. The next request with it is refused, also by a server that is running; an upload \
                      in flight is not stored.",
        after_long_help = "\
Examples:
  cachesrv token revoke ci-main
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
    /// Print a JSON array, for scripts
    #[arg(long)]
    pub json: bool,

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
