//! `cachesrv token revoke`: one token by its id, or all of a name.

use anyhow::Context;

use super::super::time::date;
use super::super::{database, note, shell};
use super::{handle, not_found, revoked, title};
use crate::cli::TokenRevokeArgs;
use crate::config::Config;
use crate::store::{Admin, Kin, Revoked, TokenRecord};

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
            // Rotation keeps the name: what a name means leaves nobody behind.
            match &tokens[..] {
                [token] => note_kin(&admin, config, token),
                _ => Ok(()),
            }
        }
        Revoked::Already(token) => {
            let when = token
                .revoked_at_ms
                .map_or_else(String::new, |ms| format!(" on {}", date(ms)));
            note(&format!("{} was revoked already{when}", title(&token)));
            note_kin(&admin, config, &token)
        }
        Revoked::NotFound(found) => {
            Err(not_found(config, "revoke", &args.token, &args.place, &found).into())
        }
    }
}

/// Says which tokens live on that stand in one chain of rotations with this one.
fn note_kin(admin: &Admin, config: &Config, token: &TokenRecord) -> anyhow::Result<()> {
    let Kin { earlier, later } = admin
        .living_kin(token)
        .context("cannot read which tokens replaced each other")?;
    let later = later.iter().map(|token| (token, "that replaced it"));
    let earlier = earlier.iter().map(|token| (token, "that it replaced"));
    for (token, which) in later.chain(earlier) {
        let revoke = shell::with_db(
            &format!("cachesrv token revoke {}", token.public_id),
            &config.db,
        );
        note(&format!("{} {which} still lives: {revoke}", title(token)));
    }
    Ok(())
}
