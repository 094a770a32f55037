//! `cachesrv token rotate`: a new secret for what a token may do, while the old one works on for a while, and
//! what that one had replaced no longer than it.

use anyhow::Context;
use jiff::Timestamp;

use super::super::time::date;
use super::super::{Failure, database, note, shell};
use super::{
    create_command, expiry_ms, for_scope, hand_over, handle, moment_ms, not_found, revoked, title,
    until,
};
use crate::auth::{Authenticator, Wish};
use crate::cli::TokenRotateArgs;
use crate::config::Config;
use crate::store::{
    Admin, Found, Handle, Overlap, ProbeName, Rotated, TokenRecord, TokenState, now_ms,
};

/// Runs the command.
pub(super) fn run(config: &Config, args: &TokenRotateArgs) -> anyhow::Result<()> {
    let overlap = overlap(args)?;
    let expires_at_ms = args.expires.map(expiry_ms).transpose()?;
    let mut admin = database::open(config)?;
    let old = meant(&admin, config, args)?;
    if old.name.as_deref().is_some_and(ProbeName::is_of_token) {
        let why = "doctor names its own tokens like that, and deletes them";
        let failure = Failure::new(format!("{} cannot be rotated: {why}", title(&old)));
        let nameless = TokenRecord { name: None, ..old };
        return Err(failure.hint(create_command(config, &nameless)).into());
    }
    let wish = Wish {
        workspace: old.workspace_id,
        access: old.access,
        isolated_scope: old.isolated_scope.clone(),
        name: old.name.clone(),
        expires_at_ms: expires_at_ms.or_else(|| same_life(&old)),
    };
    let (text, minted) = Authenticator::new()?.mint(wish)?;
    let rotated = admin
        .rotate_token(&old, &minted.to_store(), overlap)
        .context("cannot store the token")?;
    let (old_now, earlier) = match rotated {
        Rotated::Done { old, earlier } => (old, earlier),
        Rotated::NotLive(old) => return Err(not_live(&admin, config, &old)),
    };
    let replaces = format!("token {} replaces {}", minted.public_id(), title(&old));
    let again = format!("cachesrv token rotate {}", minted.public_id());
    hand_over(&text, &replaces, shell::with_db(&again, &config.db))?;
    let wish = minted.wish();
    note(&format!(
        "{replaces}: {}{}, {}. The line above is its secret: it is not shown again",
        wish.access.as_str(),
        for_scope(wish),
        until(wish)
    ));
    note(&what_now(&old, &old_now, overlap));
    for token in &earlier {
        note(&what_of_earlier(token, overlap));
    }
    Ok(())
}

fn overlap(args: &TokenRotateArgs) -> anyhow::Result<Overlap> {
    if args.overlap.is_zero() {
        return Ok(Overlap::None);
    }
    moment_ms("--overlap", args.overlap).map(Overlap::Until)
}

/// The living token that was named.
fn meant(admin: &Admin, config: &Config, args: &TokenRotateArgs) -> anyhow::Result<TokenRecord> {
    let handle = handle(admin, config, &args.token, &args.place)?;
    let found = admin
        .find_tokens(handle)
        .context("cannot read the tokens")?;
    let token = match &found {
        Found::ById(token) => Some(token),
        Found::ByName(tokens) => tokens.first(),
        _ => None,
    };
    match token {
        None => Err(not_found(config, "rotate", &args.token, &args.place, &found).into()),
        Some(token) if token.state(now_ms()) == TokenState::Live => Ok(token.clone()),
        Some(token) => Err(not_live(admin, config, token)),
    }
}

/// The end of a life that begins now and is as long as the old token's was to be from its creation.
fn same_life(old: &TokenRecord) -> Option<i64> {
    let life_ms = old.expires_at_ms?.saturating_sub(old.created_at_ms);
    let latest_ms = Timestamp::MAX.as_second().saturating_mul(1000);
    Some(now_ms().saturating_add(life_ms).min(latest_ms))
}

/// Why this token cannot be rotated, and what can be done instead.
fn not_live(admin: &Admin, config: &Config, token: &TokenRecord) -> anyhow::Error {
    let on = |ms: Option<i64>| ms.map_or_else(String::new, |ms| format!(" on {}", date(ms)));
    let why = match (token.replaced_by, token.state(now_ms())) {
        (Some(by), _) => {
            let by = admin.token_by_row(by).ok().flatten();
            let by = by.map_or_else(String::new, |by| format!(" by token {}", by.public_id));
            format!("was replaced{by} already")
        }
        (None, TokenState::Revoked) => {
            format!(
                "was revoked{} and cannot be rotated",
                on(token.revoked_at_ms)
            )
        }
        (None, _) => format!("expired{} and cannot be rotated", on(token.expires_at_ms)),
    };
    let command = |verb: &str, token: &TokenRecord| {
        let command = format!("cachesrv token {verb} {}", token.public_id);
        shell::with_db(&command, &config.db)
    };
    let next = if token.state(now_ms()) == TokenState::Replaced {
        // It has a successor already: what can be wanted yet is its end.
        command("revoke", token)
    } else {
        successor(admin, token).map_or_else(
            || create_command(config, token),
            |live| command("rotate", &live),
        )
    };
    Failure::new(format!("{} {why}", title(token)))
        .hint(next)
        .into()
}

/// The living token that stands where this one stood: the last of those that replaced it, or one that has
/// got its name since.
fn successor(admin: &Admin, token: &TokenRecord) -> Option<TokenRecord> {
    let is_live = |token: &TokenRecord| token.state(now_ms()) == TokenState::Live;
    let next = |token: &TokenRecord| admin.token_by_row(token.replaced_by?).ok().flatten();
    // Rotation makes a new row each time, so there is no circle.
    let last = std::iter::successors(next(token), next).last();
    if let Some(last) = last.filter(is_live) {
        return Some(last);
    }
    let handle = Handle {
        name_or_id: token.name.as_deref()?,
        workspace: token.workspace_id,
        only_there: true,
    };
    match admin.find_tokens(handle).ok()? {
        Found::ByName(tokens) => tokens.into_iter().next().filter(is_live),
        _ => None,
    }
}

/// What becomes of the old token, and what is to be done about it.
fn what_now(before: &TokenRecord, now: &TokenRecord, overlap: Overlap) -> String {
    let next = "put the new secret in its place";
    let until = now.expires_at_ms.map_or_else(String::new, date);
    match overlap {
        Overlap::None => {
            format!("the old one is refused from the next request on: {next} now")
        }
        Overlap::Until(_) if before.expires_at_ms == now.expires_at_ms => {
            format!("the old one works until {until}, when it expires anyway: {next} by then")
        }
        Overlap::Until(_) => format!("the old one works until {until}: {next} by then"),
    }
}

/// What becomes of a token that the old one had replaced.
fn what_of_earlier(now: &TokenRecord, overlap: Overlap) -> String {
    let until = now.expires_at_ms.map_or_else(String::new, date);
    let anyway = match overlap {
        Overlap::None => return revoked(now),
        Overlap::Until(ms) if now.expires_at_ms == Some(ms) => "",
        Overlap::Until(_) => ", when it expires anyway",
    };
    format!(
        "{}, replaced before, works until {until}{anyway}",
        title(now)
    )
}
