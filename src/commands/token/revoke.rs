//! `cachesrv token revoke`: one token by its id, or all of a name.

use anyhow::Context;

use super::super::time::date;
use super::super::{database, note};
use super::{handle, not_found, revoked, title};
use crate::cli::TokenRevokeArgs;
use crate::config::Config;
use crate::store::Revoked;

/// Runs the command.
pub(super) fn run(config: &Config, args: &TokenRevokeArgs) -> anyhow::Result<()> {
    let mut admin = database::open(config)?;
    let handle = handle(&admin, config, &args.token, &args.place)?;
    match admin
        .revoke_tokens(handle)
        .context("cannot revoke the token")?
    {
        Revoked::Done(tokens) => {
            for token in &tokens {
                note(&revoked(token));
            }
            Ok(())
        }
        Revoked::Already(token) => {
            let when = token
                .revoked_at_ms
                .map_or_else(String::new, |ms| format!(" on {}", date(ms)));
            note(&format!("{} was revoked already{when}", title(&token)));
            Ok(())
        }
        Revoked::NotFound(found) => {
            Err(not_found(config, "revoke", &args.token, &args.place, &found).into())
        }
    }
}
