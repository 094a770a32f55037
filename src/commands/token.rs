//! `cachesrv token`: makes, lists and revokes tokens, beside a running server or without one.

use std::time::Duration;

use anyhow::Context;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use super::{Failure, database, note, print};
use crate::auth::Authenticator;
use crate::auth::token::TOKEN_PREFIX;
use crate::cli::{TokenCommand, TokenCreateArgs, TokenListArgs, TokenRevokeArgs};
use crate::config::Config;
use crate::store::{Access, Created, Revoked, TokenRecord, now_ms};

/// The longest name of a token, in characters.
const NAME_LENGTH_MAX: usize = 64;

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
        check_name(name)?;
    }
    let expires_at_ms = args.expires.map(expiry_ms).transpose()?;
    let access = if args.write {
        Access::Write
    } else {
        Access::Read
    };
    let mut admin = database::open_or_create(config)?;
    let authenticator = Authenticator::new()?;
    let (text, minted) = authenticator.mint(access, args.name.as_deref(), expires_at_ms)?;
    match admin
        .create_token(&minted.to_store())
        .context("cannot store the token")?
    {
        Created::NameTaken => {
            let name = args.name.as_deref().unwrap_or_default();
            let revoke = database::with_db(&format!("cachesrv token revoke {name}"), &config.db);
            return Err(
                Failure::new(format!("a token named '{name}' exists already"))
                    .hint(revoke)
                    .into(),
            );
        }
        Created::Done => {}
    }
    print(&format!("{}\n", text.expose()))?;
    note(&describe(
        &minted,
        access,
        args.name.as_deref(),
        expires_at_ms,
    ));
    Ok(())
}

fn describe(
    minted: &crate::auth::Minted,
    access: Access,
    name: Option<&str>,
    expires_at_ms: Option<i64>,
) -> String {
    let named = name.map_or_else(String::new, |name| format!(" '{name}'"));
    let until = expires_at_ms.map_or_else(
        || "never expires".to_owned(),
        |ms| format!("expires {}", date(ms)),
    );
    format!(
        "created {} token{named}, id {}, {until}. The line above is its secret: it is not shown again",
        access.as_str(),
        minted.public_id().as_str(),
    )
}

/// Names end up in logs, in commands and in front of people, so they are plain, and no secret.
fn check_name(name: &str) -> anyhow::Result<()> {
    if name.contains(TOKEN_PREFIX) {
        let what = format!("a name with '{TOKEN_PREFIX}' in it might be a secret");
        return Err(Failure::usage(format!("{what}: choose another one")).into());
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_short = (1..=NAME_LENGTH_MAX).contains(&name.len());
    if is_short && name.chars().all(is_plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "'{name}' cannot name a token: use 1 to {NAME_LENGTH_MAX} of A-Z, a-z, 0-9, '.', '_' and '-'"
    ))
    .into())
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
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "ID",
        "NAME",
        "ACCESS",
        "STATE",
        "CREATED",
        "LAST USED",
        "EXPIRES",
    ]);
    for token in &tokens {
        let name = token.name.as_deref().unwrap_or("-");
        let (access, state) = (token.access.as_str(), state(token));
        let created = date(token.created_at_ms);
        let used = token
            .last_used_at_ms
            .map_or_else(|| "never".to_owned(), date);
        let expires = token.expires_at_ms.map_or_else(|| "never".to_owned(), date);
        table.add_row([
            &token.public_id,
            name,
            access,
            state,
            &created,
            &used,
            &expires,
        ]);
    }
    print(&format!("{}\n", table.trim_fmt()))
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

fn title(token: &TokenRecord) -> String {
    match &token.name {
        Some(name) => format!("token '{name}' ({})", token.public_id),
        None => format!("token {}", token.public_id),
    }
}

fn state(token: &TokenRecord) -> &'static str {
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

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

fn rfc3339(ms: i64) -> String {
    timestamp(ms).to_string()
}

/// To the minute, in UTC, as a person reads it.
fn date(ms: i64) -> String {
    timestamp(ms).strftime("%Y-%m-%d %H:%M").to_string()
}
