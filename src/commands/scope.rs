//! `cachesrv scope`: lists scopes and what they hold, beside a running server or without one; and how all
//! commands name a scope.

use anyhow::Context;
use serde::Serialize;

use super::table::{Column, Table};
use super::time::{date, rfc3339};
use super::{database, print, workspace};
use crate::cli::{ScopeCommand, ScopeListArgs};
use crate::config::Config;
use crate::store::{ScopeRecord, ScopeUsage};
use crate::units::print_size_roughly;

/// Runs a `scope` command.
pub(super) fn run(config: &Config, command: &ScopeCommand) -> anyhow::Result<()> {
    match command {
        ScopeCommand::List(args) => list(config, args),
    }
}

/// The word for a kind of scope, in front of people and scripts.
pub(super) fn kind(scope: &ScopeRecord) -> &'static str {
    scope.kind.as_str()
}

/// A scope in a sentence; its name tells it apart from a trusted one whatever that name is.
pub(super) fn title(scope: &ScopeRecord) -> String {
    match &scope.name {
        None => kind(scope).to_owned(),
        Some(name) => format!("{} '{name}'", kind(scope)),
    }
}

fn list(config: &Config, args: &ScopeListArgs) -> anyhow::Result<()> {
    let admin = database::open(config)?;
    let workspace = args
        .workspace
        .as_deref()
        .map(|name| workspace::find(&admin, config, name))
        .transpose()?;
    let scopes = admin.scopes(workspace).context("cannot read the scopes")?;
    if args.json {
        let listed: Vec<_> = scopes.iter().map(Listed::of).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    }
    let first = scopes.first().map(|usage| &usage.scope.workspace);
    let are_many = scopes
        .iter()
        .any(|usage| Some(&usage.scope.workspace) != first);
    let mut table = Table::new([
        Column::text("WORKSPACE").shown_if(are_many),
        Column::word("KIND"),
        Column::text("NAME"),
        Column::number("ENTRIES"),
        Column::number("SIZE"),
        Column::date("CREATED"),
        Column::date("LAST WRITE"),
    ]);
    for usage in &scopes {
        let scope = &usage.scope;
        table.row([
            scope.workspace.clone(),
            kind(scope).to_owned(),
            scope.name.clone().unwrap_or_else(|| "-".to_owned()),
            usage.entries.to_string(),
            print_size_roughly(usage.size_bytes),
            date(scope.created_at_ms),
            usage
                .last_write_at_ms
                .map_or_else(|| "never".to_owned(), date),
        ]);
    }
    table.print()
}

/// A scope as scripts see it. Keys are a contract; times are RFC 3339.
#[derive(Serialize)]
struct Listed<'s> {
    workspace: &'s str,
    kind: &'static str,
    name: Option<&'s str>,
    entries: u64,
    bytes: u64,
    created_at: String,
    last_write_at: Option<String>,
}

impl<'s> Listed<'s> {
    fn of(usage: &'s ScopeUsage) -> Self {
        Self {
            workspace: &usage.scope.workspace,
            kind: kind(&usage.scope),
            name: usage.scope.name.as_deref(),
            entries: usage.entries,
            bytes: usage.size_bytes,
            created_at: rfc3339(usage.scope.created_at_ms),
            last_write_at: usage.last_write_at_ms.map(rfc3339),
        }
    }
}
