//! `cachesrv config show`: the resolved configuration, as a file, in columns or as JSON.

use super::{flags, note, print, resolve};
use crate::cli::{ConfigCommand, ConfigShowArgs, Options};

/// Runs a command under `cachesrv config`; `before` was typed before the command.
pub(super) fn run(before: &Options, command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Show(args) => show(before, args),
    }
}

fn show(before: &Options, args: &ConfigShowArgs) -> anyhow::Result<()> {
    let resolution = resolve(&flags(before, &args.options)?)?;
    for warning in resolution.warnings() {
        note(&format!("warning: {warning}"));
    }
    let text = match (args.json, args.sources) {
        (true, _) => resolution.to_json()?,
        (false, true) => resolution.to_columns(),
        (false, false) => resolution.to_toml(),
    };
    print(&text)
}
