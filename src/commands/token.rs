//! `cachesrv token`: makes, lists and revokes tokens, beside a running server or without one.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::table::{Column, Table};
use super::time::{date, rfc3339};
use super::workspace::{self, check_name};
use super::{Failure, database, note, print};
use crate::auth::{Authenticator, Minted, Wish};
use crate::cli::{AccessArgs, TokenCommand, TokenCreateArgs, TokenListArgs, TokenRevokeArgs};
use crate::config::Config;
use crate::store::{Access, Created, Name, Revoked, TokenRecord, now_ms};

/// Runs a `token` command.
pub(super) fn run(config: &Config, command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(config, args),
        TokenCommand::List(args) => list(config, args),
        TokenCommand::Revoke(args) => revoke(config, args),
    }
}

fn create(config: &Config, args: &TokenCreateArgs) -> anyhow::Result<()> {
    if let Some(name) = &args.name {
        check_name(name, "a token")?;
    }
    let (access, isolated_scope) = access(&args.access)?;
    let expires_at_ms = args.expires.map(expiry_ms).transpose()?;
    let mut admin = database::open_or_create(config)?;
    let wish = Wish {
        workspace: workspace::find(&admin, config, &args.place.workspace)?,
        access,
        isolated_scope,
        name: args.name.clone(),
        expires_at_ms,
    };
    let (text, minted) = Authenticator::new()?.mint(wish)?;
    match admin
        .create_token(&minted.to_store())
        .context("cannot store the token")?
    {
        Created::NameTaken => {
            let name = args.name.as_deref().unwrap_or_default();
            let revoke = format!(
                "cachesrv token revoke {name}{}",
                workspace::flag(&args.place)
            );
            return Err(
                Failure::new(format!("a token named '{name}' exists already"))
                    .hint(database::with_db(&revoke, &config.db))
                    .into(),
            );
        }
        Created::Done => {}
    }
    print(&format!("{}\n", text.expose()))?;
    note(&describe(&minted));
    Ok(())
}

/// What was typed as access; reading alone where nothing was.
fn access(args: &AccessArgs) -> anyhow::Result<(Access, Option<Name>)> {
    if let Some(name) = &args.isolated {
        let scope = name.as_ref().map(|name| {
            Name::parse(name)
                .map_err(|why| Failure::usage(format!("'{name}' cannot name a scope: {why}")))
        });
        return Ok((Access::Isolated, scope.transpose()?));
    }
    let access = match (args.write, args.write_only) {
        (true, _) => Access::Write,
        (_, true) => Access::WriteOnly,
        _ => Access::Read,
    };
    Ok((access, None))
}

fn describe(minted: &Minted) -> String {
    let wish = minted.wish();
    let named = wish
        .name
        .as_ref()
        .map_or_else(String::new, |name| format!(" '{name}'"));
    let until = wish.expires_at_ms.map_or_else(
        || "never expires".to_owned(),
        |ms| format!("expires {}", date(ms)),
    );
    let scope = match (&wish.isolated_scope, wish.access) {
        (Some(scope), _) => format!(" for scope '{scope}'"),
        (None, Access::Isolated) => {
            " for the scope that the URL names, as in https://cache.example/s/pr-123".to_owned()
        }
        (None, _) => String::new(),
    };
    format!(
        "created {} token{named}, id {}{scope}, {until}. The line above is its secret: it is not shown again",
        wish.access.as_str(),
        minted.public_id().as_str(),
    )
}

fn expiry_ms(expires: Duration) -> anyhow::Result<i64> {
    let after_ms = i64::try_from(expires.as_millis()).ok();
    let expires_at_ms = after_ms.and_then(|after_ms| now_ms().checked_add(after_ms));
    match expires_at_ms {
        _ if expires.is_zero() => {
            Err(Failure::usage("--expires 0 would make a token that is dead").into())
        }
        // A date that cannot be shown is no date.
        Some(ms) if Timestamp::from_millisecond(ms).is_ok() => Ok(ms),
        _ => {
            Err(Failure::usage("--expires is too far in the future: leave it out for never").into())
        }
    }
}

fn list(config: &Config, args: &TokenListArgs) -> anyhow::Result<()> {
    let tokens = database::open(config)?
        .tokens()
        .context("cannot read the tokens")?;
    if args.json {
        let listed: Vec<_> = tokens.iter().map(Listed::of).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    }
    if tokens.is_empty() {
        note("no tokens yet; make one with `cachesrv token create --write`");
        return Ok(());
    }
    let elsewhere = |token: &TokenRecord| token.workspace != workspace::DEFAULT;
    let is_bound = |token: &TokenRecord| token.isolated_scope.is_some();
    let mut table = Table::new([
        Column::word("ID"),
        Column::text("NAME"),
        Column::text("WORKSPACE").shown_if(tokens.iter().any(elsewhere)),
        Column::word("ACCESS"),
        Column::text("SCOPE").shown_if(tokens.iter().any(is_bound)),
        Column::word("STATE"),
        Column::date("CREATED"),
        Column::date("LAST USED"),
        Column::date("EXPIRES"),
    ]);
    let or_never = |ms: Option<i64>| ms.map_or_else(|| "never".to_owned(), date);
    for token in &tokens {
        table.row([
            token.public_id.clone(),
            token.name.clone().unwrap_or_else(|| "-".to_owned()),
            token.workspace.clone(),
            token.access.as_str().to_owned(),
            scope(token).to_owned(),
            state(token).to_owned(),
            date(token.created_at_ms),
            or_never(token.last_used_at_ms),
            or_never(token.expires_at_ms),
        ]);
    }
    table.print()
}

fn revoke(config: &Config, args: &TokenRevokeArgs) -> anyhow::Result<()> {
    let mut admin = database::open(config)?;
    match admin
        .revoke_token(&args.token)
        .context("cannot revoke the token")?
    {
        Revoked::Done(token) => {
            note(&format!(
                "revoked {}: it is refused from the next request on",
                title(&token)
            ));
            Ok(())
        }
        Revoked::Already(token) => {
            let when = token
                .revoked_at_ms
                .map_or_else(String::new, |ms| format!(" on {}", date(ms)));
            note(&format!("{} was revoked already{when}", title(&token)));
            Ok(())
        }
        Revoked::Unknown => {
            let list = database::with_db("cachesrv token list", &config.db);
            Err(Failure::new(format!("there is no token '{}'", args.token))
                .hint(list)
                .into())
        }
    }
}

/// A token in a sentence.
pub(super) fn title(token: &TokenRecord) -> String {
    match &token.name {
        Some(name) => format!("token '{name}' ({})", token.public_id),
        None => format!("token {}", token.public_id),
    }
}

/// The isolated scope that it is bound to, in a list.
fn scope(token: &TokenRecord) -> &str {
    match (&token.isolated_scope, token.access) {
        (Some(scope), _) => scope.as_str(),
        (None, Access::Isolated) => "any",
        (None, _) => "-",
    }
}

/// Whether a request with it is answered.
pub(super) fn is_alive(token: &TokenRecord) -> bool {
    let is_expired = token.expires_at_ms.is_some_and(|ms| ms <= now_ms());
    token.revoked_at_ms.is_none() && !is_expired
}

/// The word for what became of a token.
pub(super) fn state(token: &TokenRecord) -> &'static str {
    let is_expired = token.expires_at_ms.is_some_and(|ms| ms <= now_ms());
    match token.revoked_at_ms {
        Some(_) => "revoked",
        None if is_expired => "expired",
        None => "live",
    }
}

/// A token as scripts see it. Keys are a contract; times are RFC 3339.
#[derive(Serialize)]
struct Listed<'t> {
    id: &'t str,
    name: Option<&'t str>,
    workspace: &'t str,
    access: &'static str,
    state: &'static str,
    created_at: String,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl<'t> Listed<'t> {
    fn of(token: &'t TokenRecord) -> Self {
        Self {
            id: &token.public_id,
            name: token.name.as_deref(),
            workspace: &token.workspace,
            access: token.access.as_str(),
            state: state(token),
            created_at: rfc3339(token.created_at_ms),
            last_used_at: token.last_used_at_ms.map(rfc3339),
            expires_at: token.expires_at_ms.map(rfc3339),
            revoked_at: token.revoked_at_ms.map(rfc3339),
        }
    }
}
