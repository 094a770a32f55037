//! `cachesrv workspace`: adds and lists workspaces, beside a running server or without one; and what all
//! commands say of a workspace or a name that there is not.

use anyhow::Context;
use serde::Serialize;

use super::table::{Column, Table};
use super::{Failure, database, note, print, shell};
use crate::cli::{InWorkspace, WorkspaceAddArgs, WorkspaceCommand, WorkspaceListArgs};
use crate::config::Config;
use crate::store::{Admin, Name, SECRETS_BEGIN, Workspace, WorkspaceId};

/// The workspace that is always there.
pub(super) const DEFAULT: &str = InWorkspace::DEFAULT;

/// Runs a `workspace` command.
pub(super) fn run(config: &Config, command: &WorkspaceCommand) -> anyhow::Result<()> {
    match command {
        WorkspaceCommand::Add(args) => add(config, args),
        WorkspaceCommand::List(args) => list(config, args),
    }
}

/// The workspace that was typed.
pub(super) fn find(admin: &Admin, config: &Config, name: &str) -> anyhow::Result<WorkspaceId> {
    let found = admin
        .workspace(name)
        .context("cannot read the workspaces")?;
    found.ok_or_else(|| {
        let failure = Failure::new(format!("there is no workspace '{name}'"));
        // What cannot name one is not there to be added.
        let command = match check_name(name, "a workspace") {
            Ok(name) => format!("cachesrv workspace add {name}"),
            Err(_) => "cachesrv workspace list".to_owned(),
        };
        failure.hint(shell::with_db(&command, &config.db)).into()
    })
}

/// The option that names the workspace in a hint, where it is not the default one.
pub(super) fn flag(name: &str) -> String {
    if name == DEFAULT {
        String::new()
    } else {
        format!(" --workspace {name}")
    }
}

/// Checks a name that ends up in commands, where a dash at its beginning would make it an option.
pub(super) fn check_name(name: &str, of_what: &str) -> anyhow::Result<Name> {
    if name.contains(SECRETS_BEGIN) {
        let what = format!("a name with '{SECRETS_BEGIN}' in it might be a secret");
        return Err(Failure::usage(format!("{what}: choose another one")).into());
    }
    let parsed = Name::parse(name).ok().filter(|_| !name.starts_with('-'));
    parsed.ok_or_else(|| {
        Failure::usage(format!(
            "'{name}' cannot name {of_what}: use 1 to {} of A-Z, a-z, 0-9, '.', '_' and '-', a dash not first",
            Name::LENGTH_MAX
        ))
        .into()
    })
}

fn add(config: &Config, args: &WorkspaceAddArgs) -> anyhow::Result<()> {
    let name = check_name(&args.name, "a workspace")?;
    let mut admin = database::open_or_create(config)?;
    if !admin
        .add_workspace(&name)
        .context("cannot add the workspace")?
    {
        let list = shell::with_db("cachesrv workspace list", &config.db);
        return Err(
            Failure::new(format!("there is a workspace '{name}' already"))
                .hint(list)
                .into(),
        );
    }
    let create = format!("cachesrv token create --write --workspace {name}");
    let create = shell::with_db(&create, &config.db);
    note(&format!(
        "added workspace '{name}'; make a token for it with `{create}`"
    ));
    Ok(())
}

fn list(config: &Config, args: &WorkspaceListArgs) -> anyhow::Result<()> {
    let workspaces = database::open(config)?
        .workspaces()
        .context("cannot read the workspaces")?;
    if args.json {
        let listed: Vec<_> = workspaces.iter().map(Listed::of).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    }
    let mut table = Table::new([Column::text("NAME"), Column::date("CREATED")]);
    for workspace in &workspaces {
        table.row([
            workspace.name.clone(),
            super::time::date(workspace.created_at_ms),
        ]);
    }
    table.print()
}

/// A workspace as scripts see it. Keys are a contract; times are RFC 3339.
#[derive(Serialize)]
struct Listed<'w> {
    name: &'w str,
    created_at: String,
}

impl<'w> Listed<'w> {
    fn of(workspace: &'w Workspace) -> Self {
        Self {
            name: &workspace.name,
            created_at: super::time::rfc3339(workspace.created_at_ms),
        }
    }
}
