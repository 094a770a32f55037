//! The command line: what can be typed, and what `--help` says about it. Types only, no behaviour.
//!
//! [`Options`] stands beside the commands as well as before them, so that `cachesrv --db x serve` and
//! `cachesrv serve --db x` both work. clap's own global options would silently lose a `--set` typed in
//! the first place when there is another in the second.

mod artifact;
mod backup;
mod completions;
mod doctor;
mod gc;
mod healthcheck;
mod purge;
mod restore;
mod scope;
mod stats;
mod token;
mod verify;
mod workspace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::config;

pub use artifact::*;
pub use backup::*;
pub use completions::*;
pub use doctor::*;
pub use gc::*;
pub use healthcheck::*;
pub use purge::*;
pub use restore::*;
pub use scope::*;
pub use stats::*;
pub use token::*;
pub use verify::*;
pub use workspace::*;

/// A self-hosted remote cache for Nx: one binary, one SQLite file
#[derive(Debug, Parser)]
#[command(
    name = "cachesrv",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Start here:
  cachesrv serve                  run the server on 127.0.0.1:8787
  cachesrv token create --write   make a token that may fill the cache

Then give Nx both, and build:
  export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=http://127.0.0.1:8787
  export NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=<the token>",
    after_long_help = "\
Start here:
  cachesrv serve                  run the server on 127.0.0.1:8787
  cachesrv token create --write   make a token that may fill the cache

Then give Nx both, and build:
  export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=http://127.0.0.1:8787
  export NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=<the token>

Exit codes:
  0  done
  1  failed
  2  the command line, a variable or the configuration file is wrong"
)]
pub struct Cli {
    /// Configuration, typed before the command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Configuration that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct Options {
    /// Read settings from this TOML file
    ///
    /// No file is read unless it is named, here or by the variable CACHESRV_CONFIG.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Use this database file [default: cachesrv.db]
    ///
    /// One SQLite file holds all artifacts and tokens. `serve` and `token create` make it when it does not
    /// exist. Short for `--set db=FILE`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub db: Option<String>,

    /// Change any setting, as often as needed: --set limits.idle_timeout=100s
    ///
    /// Wins over the variable and the file. `cachesrv config show --help` lists all settings.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// The workspace that a command is about.
#[derive(Debug, Clone, Args)]
pub struct InWorkspace {
    /// The workspace that it is about [default: default]
    #[arg(long, value_name = "NAME")]
    pub workspace: Option<String>,
}

impl InWorkspace {
    /// The workspace that is always there.
    pub const DEFAULT: &str = "default";

    /// The workspace that was typed, or the default one.
    pub fn name(&self) -> &str {
        self.workspace.as_deref().unwrap_or(Self::DEFAULT)
    }

    /// Whether it was typed.
    pub fn is_typed(&self) -> bool {
        self.workspace.is_some()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    #[command(
        long_about = "Run the server.\n\nIt creates and migrates the database, and listens until it gets SIGTERM or \
                      SIGINT (Ctrl-C). Requests in flight are finished first; a second signal ends it at once.",
        after_long_help = "\
Examples:
  cachesrv serve
  cachesrv serve --listen 0.0.0.0:8787 --db /var/lib/cachesrv/cachesrv.db
  cachesrv serve --config cachesrv.toml --set log.format=json
  CACHESRV_LISTEN=0.0.0.0:8787 cachesrv serve

All settings: cachesrv config show --help"
    )]
    Serve(ServeArgs),

    /// Make, list, rotate and revoke the tokens that Nx sends
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        disable_help_subcommand = true
    )]
    Token(TokenArgs),

    /// Keep repositories that do not trust each other apart
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        disable_help_subcommand = true
    )]
    Workspace(WorkspaceArgs),

    /// Look at where artifacts live: the trusted scope, and those of pull requests
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        disable_help_subcommand = true
    )]
    Scope(ScopeArgs),

    /// Look at what is stored and who stored it, and delete single artifacts
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        disable_help_subcommand = true
    )]
    Artifact(ArtifactArgs),

    /// Remove what a token, a scope or a time brought into the cache
    #[command(
        long_about = "Remove artifacts: those that a token stored, that a scope holds, that were stored since some time, or \
                      that go by a hash. Several of these narrow each other. A running server misses the artifacts from \
                      its next request on and stores them anew; who is reading one of them gets all of \
                      it.\n\nAfter a leak: revoke the token first, or it can store the same again. An upload of a \
                      revoked token that is in flight is not stored. Let builds end that may have restored something bad, \
                      because what they build from it is stored by another token; then purge with --transitive.",
        after_long_help = "\
Examples:
  cachesrv token revoke ci-main
  cachesrv purge --token ci-main --transitive --dry-run
  cachesrv purge --token ci-main --transitive
  cachesrv purge --scope pr-123               when the pull request is closed
  cachesrv purge --token ci-prs --since 2h    what it stored in the last two hours
  cachesrv purge --since 2026-11-20           everything since that midnight, UTC
  cachesrv purge --hash 1234567890 --json"
    )]
    Purge(PurgeArgs),

    /// Evict now what the limits let go
    #[command(
        long_about = "Evict now what the limits let go, and say why: artifacts of a kind go by size (those read least \
                      recently, when all take more than 95 % of their budget, down to 90 %), by age (nobody read them for \
                      too long), and for the disk (it has less than eviction.min_free_disk).\n\nThe server does the same \
                      every second, so this is for those who want to know, or who have just lowered a limit. The limits \
                      are those of the configuration that is given here. Beside a running server it takes small steps, \
                      and the server frees within seconds what was evicted; without one, gc does that, too, and shrinks \
                      the file.",
        after_long_help = "\
Examples:
  cachesrv gc --dry-run
  cachesrv gc --dry-run --set eviction.max_age=14d   what would a lower limit do?
  cachesrv gc --config cachesrv.toml --json"
    )]
    Gc(GcArgs),

    /// Show hit rates and bytes by day
    #[command(
        long_about = "Show hit rates and bytes by day, by the access of tokens and by workspace, what is stored, and what \
                      eviction took.\n\nThe server counts requests of tokens that it admitted and adds them to the \
                      database every few seconds; they are kept for 400 days. Days are those of UTC. \
                      Write-only tokens read nothing, so their GETs are no misses.",
        after_long_help = "\
Examples:
  cachesrv stats
  cachesrv stats --days 7 --workspace shop
  cachesrv stats --days 1 --json"
    )]
    Stats(StatsArgs),

    /// Copy the database to a file while the server runs
    #[command(
        long_about = "Copy the database into one new file, beside a running server or without one.\n\nThe copy is \
                      consistent, and holds every artifact that was stored when it began; where uploads outrun the \
                      copy, the newest are left to the next one, and it says how many. Each is checked against its \
                      checksum; one that is damaged is named and left out, and the exit code is 1 then. The file \
                      comes to its name whole or not at all, with mode 0600.",
        after_long_help = "\
Examples:
  cachesrv backup /mnt/backup/cachesrv.db
  cachesrv backup /mnt/backup                 a name with the time, in that directory
  cachesrv backup nightly.db --force --json

The server makes backups by itself, too: cachesrv serve --set backup.dir=/mnt/backup"
    )]
    Backup(BackupArgs),

    /// Put a backup in the place of the database
    #[command(
        long_about = "Put a backup in the place of the database, or where there is none. The server must not run.\n\n\
                      The backup is copied beside the database and checked as `cachesrv verify` does; what fails \
                      changes nothing. Tokens are as they were when the backup was made: those that work again, \
                      although they were revoked, rotated or ended since, are listed.",
        after_long_help = "\
Examples:
  cachesrv restore /mnt/backup/cachesrv-20261122T030000Z.db --dry-run
  cachesrv restore /mnt/backup/cachesrv-20261122T030000Z.db --force
  cachesrv restore nightly.db --db /var/lib/cachesrv/cachesrv.db"
    )]
    Restore(RestoreArgs),

    /// Check the database, every checksum and every counter
    #[command(
        long_about = "Check the database, or a backup, beside a running server or without one, and change nothing.\n\n\
                      SQLite's own check of the file, the schema, references between tables, the counters, and of \
                      every artifact each checksum, its length and its digest. The exit code is 1 if anything is \
                      wrong, or could not be checked.",
        after_long_help = "\
Examples:
  cachesrv verify
  cachesrv verify --quick
  cachesrv verify --db /mnt/backup/cachesrv-20261122T030000Z.db --json"
    )]
    Verify(VerifyArgs),

    /// Find what is wrong with the configuration, the machine or the server
    #[command(
        long_about = "Find what is wrong with the configuration, the files, the machine or the server, each with its \
                      remedy.\n\nIt reads the configuration that the server reads, so run it as the same user with the \
                      same file and variables. When the server answers, it makes tokens that live for minutes, stores, \
                      reads and is refused as builds are, and removes what it made; these requests count in `cachesrv \
                      stats`.\n\nWithout a database at hand, on a \
                      laptop say, --url tries a server with a token that it asks for or reads from stdin. What a write \
                      token stores then stays until it is evicted.\n\nExit codes: 0 no problem, warnings perhaps; 1 \
                      problems; 2 the command line or the configuration is wrong.",
        after_long_help = "\
Examples:
  cachesrv doctor
  cachesrv doctor --config /etc/cachesrv.toml --json
  cachesrv doctor --url https://cache.example        the way that builds take
  cachesrv doctor --url https://cache.example/s/pr-1 --token-stdin < token.txt
  cachesrv doctor --url https://cache.example --ca company-ca.pem"
    )]
    Doctor(DoctorArgs),

    /// Exit 0 if the server answers, 1 if not
    #[command(
        long_about = "Exit 0 if the server answers within 5 seconds, 1 if not: for containers without a shell.\n\nIt \
                      reads the configuration that the server reads and asks at the address in `listen`, or over the \
                      loopback interface where that is 0.0.0.0 or [::]. Nothing is printed when the server answers.\n\nIt \
                      asks /healthz, whether the server is alive, for whoever runs containers may restart what is \
                      unhealthy. A restart frees no disk, and meanwhile builds are refused. With --ready it asks \
                      /readyz: whether the database answers, the disk is above its floor and the server is not shutting \
                      down.",
        after_long_help = "\
Examples:
  cachesrv healthcheck
  cachesrv healthcheck --ready
  cachesrv healthcheck --config /etc/cachesrv.toml
  cachesrv healthcheck --url http://127.0.0.1:8787"
    )]
    Healthcheck(HealthcheckArgs),

    /// Look at the configuration
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        disable_help_subcommand = true
    )]
    Config(ConfigArgs),

    /// Print completions for a shell
    #[command(
        long_about = "Print completions for a shell on stdout.",
        after_long_help = "\
Examples:
  cachesrv completions bash > ~/.local/share/bash-completion/completions/cachesrv
  cachesrv completions zsh > ~/.zfunc/_cachesrv
  cachesrv completions fish > ~/.config/fish/completions/cachesrv.fish
  cachesrv completions elvish > ~/.config/elvish/lib/cachesrv.elv
  cachesrv completions powershell > cachesrv.ps1

What else the shells need, once:
  bash        the package bash-completion
  zsh         in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)
  elvish      in ~/.config/elvish/rc.elv: use cachesrv
  powershell  in the file that $PROFILE names: . ./cachesrv.ps1 with its full path

For all users: /usr/share/bash-completion/completions/cachesrv,
/usr/share/zsh/site-functions/_cachesrv, /usr/share/fish/vendor_completions.d/cachesrv.fish"
    )]
    Completions(CompletionsArgs),

    /// Print the man page, or write the pages of all commands into a directory
    #[command(
        hide = true,
        after_long_help = "\
Examples:
  cachesrv man > cachesrv.1
  cachesrv man /usr/local/share/man/man1"
    )]
    Man(ManArgs),
}

/// `cachesrv serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Listen on this address and port [default: 127.0.0.1:8787]
    ///
    /// Port 0 takes any free port and says which. Short for `--set listen=ADDR`.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

/// `cachesrv config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do with the configuration.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The commands under `cachesrv config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration that the server would run with
    #[command(
        long_about = "Print the configuration that the server would run with, as a TOML file.\n\nA flag wins over a \
                      variable, a variable over the file, the file over the default. A mistake in any of them is an \
                      error.",
        after_help = "All settings: cachesrv config show --help",
        after_long_help = format!("\
Examples:
  cachesrv config show --sources
  cachesrv config show > cachesrv.toml
  cachesrv config show --json --config cachesrv.toml

Settings and their defaults:
{}
Each is also a variable: limits.idle_timeout is CACHESRV_LIMITS_IDLE_TIMEOUT.
Sizes: 20GiB, 512KiB, 10MB, 1024 (bytes). Times: 30d, 12h, 90s, 500ms.", config::help_table())
    )]
    Show(ConfigShowArgs),
}

/// `cachesrv config show`
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// Say of each value where it came from: default, file and line, variable or flag
    #[arg(long, conflicts_with = "json")]
    pub sources: bool,

    /// Print a JSON object with each value and its source, for scripts
    #[arg(long)]
    pub json: bool,

    /// Configuration, typed after the command.
    #[command(flatten)]
    pub options: Options,
}

impl Command {
    /// The options after it, of a command that has a configuration.
    pub fn options(&self) -> Option<&Options> {
        Some(match self {
            Self::Serve(args) => &args.options,
            Self::Token(args) => args.command.options(),
            Self::Workspace(args) => args.command.options(),
            Self::Scope(args) => args.command.options(),
            Self::Artifact(args) => args.command.options(),
            Self::Purge(args) => &args.options,
            Self::Gc(args) => &args.options,
            Self::Stats(args) => &args.options,
            Self::Backup(args) => &args.options,
            Self::Restore(args) => &args.options,
            Self::Verify(args) => &args.options,
            Self::Doctor(args) => &args.options,
            Self::Healthcheck(args) => &args.options,
            Self::Config(_) | Self::Completions(_) | Self::Man(_) => return None,
        })
    }
}
