//! `cachesrv completions`: what a shell needs to complete the command line, made from its definition.

use clap::{Command, CommandFactory};

use super::print;
use crate::cli::{Cli, CompletionsArgs};

/// Runs the command.
pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut shown(), "cachesrv", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// The command line without the commands that are hidden from help: most shells would offer them.
fn shown() -> Command {
    let all = Cli::command();
    let is_shown = |command: &&Command| !command.is_hide_set();
    Command::new("cachesrv")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(is_shown).cloned())
}
