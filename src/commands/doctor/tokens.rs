//! The tokens: whether there are those that a cache needs, and which should be renewed or revoked.

use super::super::shell::with_db;
use super::super::time::date;
use super::super::token::title;
use super::super::workspace;
use super::finding::{Finding, Findings};
use super::some_of;
use crate::config::Config;
use crate::store::{Access, Admin, TokenRecord, TokenState, now_ms};

const CHECK: &str = "tokens";

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Whoever has less time than this left should be at it.
const SOON_MS: i64 = 14 * DAY_MS;

/// Nobody seems to need what was not used for so long.
const UNUSED_MS: i64 = 90 * DAY_MS;

/// Looks at the tokens.
pub(super) fn check(admin: &Admin, config: &Config, findings: &mut Findings) {
    let tokens = match admin.tokens() {
        Ok(tokens) => tokens,
        Err(error) => {
            let command = with_db("cachesrv verify", &config.db);
            let message = format!("cannot be read: {error}");
            findings.add(Finding::problem(CHECK, message).with_command(command));
            return;
        }
    };
    let now_ms = now_ms();
    let living: Vec<_> = tokens
        .iter()
        .filter(|token| token.state(now_ms) == TokenState::Live)
        .collect();
    let before = findings.count();
    let create = with_db("cachesrv token create --write", &config.db);
    if living.is_empty() {
        let message = "there is none that lives, so nobody can use this cache";
        findings.add(Finding::problem(CHECK, message).with_command(create));
        return;
    }
    if !living.iter().any(|token| writes_trusted(token)) {
        let message = "none may write, so nothing fills the trusted scope";
        findings.add(Finding::warning(CHECK, message).with_command(create));
    }
    let look = Look {
        config,
        living: &living,
    };
    look.at(
        |token| writes_trusted(token) && token.expires_at_ms.is_none(),
        |names| format!("may write and never expire: {names}"),
        |name| format!("rotate {name} --expires 90d"),
        findings,
    );
    look.at(
        |token| token.expires_at_ms.is_some_and(|ms| ms < now_ms + SOON_MS),
        |names| format!("expire within 14 days: {names}"),
        |name| format!("rotate {name} --expires 90d"),
        findings,
    );
    look.at(
        |token| token.last_used_at_ms.unwrap_or(token.created_at_ms) < now_ms - UNUSED_MS,
        |names| format!("not used for 90 days: {names}"),
        |name| format!("revoke {name}"),
        findings,
    );
    if findings.are_fine_since(before) {
        let message = format!("{} of {} live", living.len(), tokens.len());
        findings.add(Finding::ok(CHECK, message));
    }
}

fn writes_trusted(token: &TokenRecord) -> bool {
    matches!(token.access, Access::Write | Access::WriteOnly)
}

/// The tokens that live and have no successor.
struct Look<'t> {
    config: &'t Config,
    living: &'t [&'t TokenRecord],
}

impl Look<'_> {
    /// A warning about those that `wanted` picks, with the command for the first of them.
    fn at(
        &self,
        wanted: impl Fn(&TokenRecord) -> bool,
        message: impl Fn(&str) -> String,
        command: impl Fn(&str) -> String,
        findings: &mut Findings,
    ) {
        let picked: Vec<_> = self.living.iter().filter(|token| wanted(token)).collect();
        let Some(first) = picked.first() else {
            return;
        };
        let names: Vec<String> = picked.iter().map(|token| described(token)).collect();
        let command = format!("cachesrv token {}", command(&first.public_id));
        findings.add(
            Finding::warning(CHECK, message(&some_of(&names)))
                .with_command(with_db(&command, &self.config.db)),
        );
    }
}

/// A token with what tells it from others of its name, and when it ends.
fn described(token: &TokenRecord) -> String {
    let place = match token.workspace.as_str() {
        workspace::DEFAULT => String::new(),
        other => format!(" of workspace '{other}'"),
    };
    let until = token
        .expires_at_ms
        .map_or_else(String::new, |ms| format!(" ({})", date(ms)));
    format!("{}{place}{until}", title(token))
}
