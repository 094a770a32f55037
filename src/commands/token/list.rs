//! `cachesrv token list`: every token there ever was, as a table or as JSON; never a secret.

use std::collections::HashMap;

use anyhow::Context;
use serde::Serialize;

use super::super::table::{Column, Table};
use super::super::time::{date, rfc3339};
use super::super::{database, note, print, shell, workspace};
use super::scope_cell;
use crate::cli::TokenListArgs;
use crate::config::Config;
use crate::store::{Name, TokenId, TokenRecord, now_ms};

/// Runs the command.
pub(super) fn run(config: &Config, args: &TokenListArgs) -> anyhow::Result<()> {
    let admin = database::open(config)?;
    let only = args.workspace.as_deref();
    let only_id = only
        .map(|name| workspace::find(&admin, config, name))
        .transpose()?;
    let mut tokens = admin.tokens().context("cannot read the tokens")?;
    tokens.retain(|token| only_id.is_none_or(|id| id == token.workspace_id));
    if args.json {
        // A successor is of the same workspace, so it is among these.
        let ids: HashMap<TokenId, &str> = tokens
            .iter()
            .map(|token| (token.id, token.public_id.as_str()))
            .collect();
        let successor = |token: &TokenRecord| ids.get(&token.replaced_by?).copied();
        let listed: Vec<_> = tokens
            .iter()
            .map(|token| Listed::of(token, successor(token)))
            .collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    }
    if tokens.is_empty() {
        let place = only.map_or_else(String::new, |name| format!(" in workspace '{name}'"));
        let flag = only.map_or_else(String::new, workspace::flag);
        let create = format!("cachesrv token create --write{flag}");
        let create = shell::with_db(&create, &config.db);
        note(&format!("no tokens{place} yet; make one with `{create}`"));
        return Ok(());
    }
    table(&tokens, only.is_some()).print()
}

fn table(tokens: &[TokenRecord], in_one_workspace: bool) -> Table {
    let elsewhere = |token: &TokenRecord| token.workspace != workspace::DEFAULT;
    let is_bound = |token: &TokenRecord| token.isolated_scope.is_some();
    let mut table = Table::new([
        Column::word("ID"),
        Column::text("NAME"),
        Column::text("WORKSPACE").shown_if(!in_one_workspace && tokens.iter().any(elsewhere)),
        Column::word("ACCESS"),
        Column::text("SCOPE").shown_if(tokens.iter().any(is_bound)),
        Column::word("STATE"),
        Column::lesser_date("CREATED"),
        Column::lesser_date("LAST USED"),
        Column::date("EXPIRES"),
    ]);
    let or_never = |ms: Option<i64>| ms.map_or_else(|| "never".to_owned(), date);
    let now_ms = now_ms();
    for token in tokens {
        table.row([
            token.public_id.clone(),
            token.name.clone().unwrap_or_else(|| "-".to_owned()),
            token.workspace.clone(),
            token.access.as_str().to_owned(),
            scope_cell(token).to_owned(),
            token.state(now_ms).as_str().to_owned(),
            date(token.created_at_ms),
            or_never(token.last_used_at_ms),
            or_never(token.expires_at_ms),
        ]);
    }
    table
}

/// A token as scripts see it. Keys are a contract, told by `--help`; times are RFC 3339.
#[derive(Serialize)]
pub(super) struct Listed<'t> {
    id: &'t str,
    name: Option<&'t str>,
    workspace: &'t str,
    access: &'static str,
    scope: Option<&'t str>,
    state: &'static str,
    created_at: String,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    replaced_by: Option<&'t str>,
}

impl<'t> Listed<'t> {
    /// A token and the id of the one that took its place.
    pub(super) fn of(token: &'t TokenRecord, successor: Option<&'t str>) -> Self {
        Self {
            id: &token.public_id,
            name: token.name.as_deref(),
            workspace: &token.workspace,
            access: token.access.as_str(),
            scope: token.isolated_scope.as_ref().map(Name::as_str),
            state: token.state(now_ms()).as_str(),
            created_at: rfc3339(token.created_at_ms),
            last_used_at: token.last_used_at_ms.map(rfc3339),
            expires_at: token.expires_at_ms.map(rfc3339),
            revoked_at: token.revoked_at_ms.map(rfc3339),
            replaced_by: successor,
        }
    }
}
