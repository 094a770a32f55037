//! `cachesrv token`: makes, lists, inspects, rotates and revokes tokens, beside a running server or without
//! one; a file for each, and here what they say alike.

mod create;
mod inspect;
mod list;
mod revoke;
mod rotate;

use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::time::date;
use super::workspace;
use super::{Failure, print, shell};
use crate::auth::{NewTokenText, Wish};
use crate::cli::{InWorkspace, TokenCommand};
use crate::config::Config;
use crate::store::{Access, Admin, Found, Handle, TokenRecord, now_ms};

/// Runs a `token` command.
pub(super) fn run(config: &Config, command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create::run(config, args),
        TokenCommand::List(args) => list::run(config, args),
        TokenCommand::Inspect(args) => inspect::run(config, args),
        TokenCommand::Rotate(args) => rotate::run(config, args),
        TokenCommand::Revoke(args) => revoke::run(config, args),
    }
}

/// A token as a sentence names it.
pub(super) fn title(token: &TokenRecord) -> String {
    match &token.name {
        Some(name) => format!("token '{name}' ({})", token.public_id),
        None => format!("token {}", token.public_id),
    }
}

/// What becomes of a token that was revoked just now.
fn revoked(token: &TokenRecord) -> String {
    format!(
        "revoked {}: it is refused from the next request on",
        title(token)
    )
}

/// Which scope an isolated token is for, behind the word for its access.
fn for_scope(wish: &Wish) -> String {
    match (&wish.isolated_scope, wish.access) {
        (Some(scope), _) => format!(" for scope '{scope}'"),
        (None, Access::Isolated) => {
            " for the scope that the URL names, as in https://cache.example/s/pr-123".to_owned()
        }
        (None, Access::Read | Access::Write | Access::WriteOnly) => String::new(),
    }
}

/// Until when a new token lives.
fn until(wish: &Wish) -> String {
    match wish.expires_at_ms {
        Some(ms) => format!("expires {}", date(ms)),
        None => "never expires".to_owned(),
    }
}

/// Prints the one line that holds the secret. Where nobody can have read it, that is a failure: `lost` says
/// what was done, `next` is the command that helps.
fn hand_over(secret: &NewTokenText, lost: &str, next: String) -> anyhow::Result<()> {
    // The capacity is exact: growing would leave a copy of the secret behind.
    let mut line = Zeroizing::new(String::with_capacity(secret.expose().len() + 1));
    line.push_str(secret.expose());
    line.push('\n');
    print(&line).map_err(|error| {
        Failure::new(format!(
            "{lost}, but its secret could not be printed: {error:#}"
        ))
        .hint(next)
        .into()
    })
}

/// The moment after a time that was typed after `option`.
fn moment_ms(option: &str, after: Duration) -> anyhow::Result<i64> {
    let after_ms = i64::try_from(after.as_millis()).ok();
    let moment_ms = after_ms.and_then(|after_ms| now_ms().checked_add(after_ms));
    // A date that cannot be shown is no date.
    let shown = moment_ms.filter(|ms| Timestamp::from_millisecond(*ms).is_ok());
    shown.ok_or_else(|| {
        let instead = match option {
            "--expires" => "leave it out for never",
            _ => "use a time like '7d'",
        };
        Failure::usage(format!("{option} is too far in the future: {instead}")).into()
    })
}

/// When a token expires for which `--expires` was typed.
fn expiry_ms(expires: Duration) -> anyhow::Result<i64> {
    if expires.is_zero() {
        return Err(Failure::usage("--expires 0 would make a token that is dead").into());
    }
    moment_ms("--expires", expires)
}

/// The command that makes a token like this one.
fn create_command(config: &Config, token: &TokenRecord) -> String {
    let scope = match &token.isolated_scope {
        Some(scope) => format!("={scope}"),
        None => String::new(),
    };
    let name = match &token.name {
        Some(name) => format!(" --name {name}"),
        None => String::new(),
    };
    let workspace = workspace::flag(&token.workspace);
    let access = token.access.as_str();
    let command = format!("cachesrv token create --{access}{scope}{name}{workspace}");
    shell::with_db(&command, &config.db)
}

/// What was typed to name a token.
fn handle<'h>(
    admin: &Admin,
    config: &Config,
    name_or_id: &'h str,
    place: &InWorkspace,
) -> anyhow::Result<Handle<'h>> {
    Ok(Handle {
        name_or_id,
        workspace: workspace::find(admin, config, place.name())?,
        only_there: place.is_typed(),
    })
}

/// Says that no token is called so, and where one is.
fn not_found(
    config: &Config,
    verb: &str,
    name_or_id: &str,
    place: &InWorkspace,
    found: &Found,
) -> Failure {
    let here = place.name();
    let there = |token: &TokenRecord| {
        let flag = format!(" --workspace {}", token.workspace);
        shell::with_db(
            &format!("cachesrv token {verb} {name_or_id}{flag}"),
            &config.db,
        )
    };
    match found {
        Found::IdElsewhere(token) => Failure::new(format!(
            "{} belongs to workspace '{}', not to '{here}'",
            title(token),
            token.workspace
        ))
        .hint(there(token)),
        Found::NameElsewhere(tokens) if let Some(token) = tokens.first() => Failure::new(format!(
            "there is no token '{name_or_id}' in workspace '{here}', but one in '{}'",
            token.workspace
        ))
        .hint(there(token)),
        _ => {
            let list = format!("cachesrv token list{}", workspace::flag(here));
            let place = if place.is_typed() {
                format!(" in workspace '{here}'")
            } else {
                String::new()
            };
            Failure::new(format!("there is no token '{name_or_id}'{place}"))
                .hint(shell::with_db(&list, &config.db))
        }
    }
}

/// The isolated scope of a token in a list: the one it is bound to, or any that a URL names.
fn scope_cell(token: &TokenRecord) -> &str {
    match (&token.isolated_scope, token.access) {
        (Some(scope), _) => scope.as_str(),
        (None, Access::Isolated) => "any",
        (None, Access::Read | Access::Write | Access::WriteOnly) => "-",
    }
}
