//! `cachesrv token inspect`: which token is this, is it alive, what may it do. The secret comes from stdin,
//! never from the command line, and is wiped when it was looked at.

use anyhow::Context;
use serde::Serialize;

use super::super::secret::{ask_for_token, not_a_token, without_scheme};
use super::super::time::date;
use super::super::{Failure, database, print, shell};
use super::list::Listed;
use super::title;
use crate::auth::{Authenticator, PresentedToken, Refusal};
use crate::cli::TokenInspectArgs;
use crate::config::Config;
use crate::store::{Access, Admin, TokenRecord, TokenState, now_ms};

/// Runs the command.
pub(super) fn run(config: &Config, args: &TokenInspectArgs) -> anyhow::Result<()> {
    // Before a person is asked for a secret that could not be looked up.
    let admin = database::open(config)?;
    let presented = parse(&ask_for_token()?)?;
    let token = verified(&admin, config, &presented)?;
    let successor = match token.replaced_by {
        Some(by) => admin.token_by_row(by).context("cannot read the token")?,
        None => None,
    };
    let successor = successor.as_ref().map(|token| token.public_id.as_str());
    let inspected = Inspected {
        token: Listed::of(&token, successor),
        may_read: may_read(&token),
        may_write: may_write(&token),
    };
    if args.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&inspected)?));
    }
    print(&report(&token, successor, &inspected))
}

/// The token, with white space around it or not, and as the header has it or not.
fn parse(input: &[u8]) -> Result<PresentedToken, Failure> {
    let token = without_scheme(input);
    if token.is_empty() {
        let pipe = "printf %s \"$TOKEN\" | cachesrv token inspect";
        return Err(Failure::new("there is no token to look at").hint(pipe));
    }
    PresentedToken::parse(token).map_err(not_a_token)
}

/// The record of the token, if the secret is the right one; dead or alive.
fn verified(
    admin: &Admin,
    config: &Config,
    presented: &PresentedToken,
) -> anyhow::Result<TokenRecord> {
    let id = presented.public_id();
    let found = admin.token(id.as_str()).context("cannot read the token")?;
    let Some(token) = found else {
        let list = shell::with_db("cachesrv token list", &config.db);
        return Err(Failure::new(format!(
            "there is no token {id} here: it was made for another database, or forged"
        ))
        .hint(list)
        .into());
    };
    match Authenticator::new()?.prove(presented, &token) {
        Ok(()) => Ok(token),
        Err(Refusal::Failed(error)) => {
            Err(anyhow::Error::new(error).context("cannot verify the token"))
        }
        Err(Refusal::Busy) => {
            Err(Failure::new("cannot verify the token: this machine is too busy").into())
        }
        Err(_) => Err(Failure::new(format!(
            "this is not the secret of {}: it has that id, and was forged",
            title(&token)
        ))
        .into()),
    }
}

/// What a token may read, in a sentence. Decided in `auth::grant`; here it is told.
fn may_read(token: &TokenRecord) -> String {
    if let Some(dead) = dead(token) {
        return dead;
    }
    let sentence = match (token.access, &token.isolated_scope) {
        (Access::Read | Access::Write, _) => "the trusted scope of its workspace",
        (Access::Isolated, Some(_)) => {
            "the trusted scope of its workspace, then its own isolated scope"
        }
        (Access::Isolated, None) => {
            "the trusted scope of its workspace, then the isolated scope that the URL names"
        }
        (Access::WriteOnly, _) => "nothing",
    };
    sentence.to_owned()
}

/// What a token may write, in a sentence.
fn may_write(token: &TokenRecord) -> String {
    if let Some(dead) = dead(token) {
        return dead;
    }
    let sentence = match (token.access, &token.isolated_scope) {
        (Access::Read, _) => "nothing",
        (Access::Write | Access::WriteOnly, _) => {
            "the trusted scope of its workspace, which other builds restore from"
        }
        (Access::Isolated, Some(_)) => "its own isolated scope, which no other scope sees",
        (Access::Isolated, None) => {
            "the isolated scope that the URL names, which no other scope sees"
        }
    };
    sentence.to_owned()
}

fn dead(token: &TokenRecord) -> Option<String> {
    let on = |ms: Option<i64>| ms.map_or_else(String::new, |ms| format!(" on {}", date(ms)));
    match token.state(now_ms()) {
        TokenState::Revoked => Some(format!(
            "nothing: it was revoked{}",
            on(token.revoked_at_ms)
        )),
        TokenState::Expired => Some(format!("nothing: it expired{}", on(token.expires_at_ms))),
        TokenState::Live | TokenState::Replaced => None,
    }
}

/// The token as a person reads it.
fn report(token: &TokenRecord, successor: Option<&str>, inspected: &Inspected<'_>) -> String {
    let or_never = |ms: Option<i64>| ms.map_or_else(|| "never".to_owned(), date);
    let scope = match (&token.isolated_scope, token.access) {
        (Some(scope), _) => scope.as_str(),
        (None, Access::Isolated) => "the URL names it: https://cache.example/s/pr-123",
        (None, Access::Read | Access::Write | Access::WriteOnly) => "-",
    };
    let state = match (token.state(now_ms()), successor) {
        (TokenState::Replaced, Some(by)) => format!("replaced by token {by}"),
        (dead, Some(by)) => format!("{}, replaced by token {by}", dead.as_str()),
        (state, None) => state.as_str().to_owned(),
    };
    let lines = [
        ("id", token.public_id.clone()),
        ("name", token.name.clone().unwrap_or_else(|| "-".to_owned())),
        ("workspace", token.workspace.clone()),
        ("access", token.access.as_str().to_owned()),
        ("scope", scope.to_owned()),
        ("state", state),
        ("created", date(token.created_at_ms)),
        ("expires", or_never(token.expires_at_ms)),
        ("last used", or_never(token.last_used_at_ms)),
        ("may read", inspected.may_read.clone()),
        ("may write", inspected.may_write.clone()),
    ];
    let lines = lines.map(|(key, value)| format!("{key:<11}{value}\n"));
    lines.concat()
}

/// A token as scripts see it: the keys of the list, and what it may do.
#[derive(Serialize)]
struct Inspected<'t> {
    #[serde(flatten)]
    token: Listed<'t>,
    may_read: String,
    may_write: String,
}
