//! `cachesrv token create`: the secret alone on stdout, what it is for on stderr.

use anyhow::Context;

use super::super::workspace::{self, check_name};
use super::super::{Failure, database, note, shell};
use super::{expiry_ms, for_scope, hand_over, until};
use crate::auth::{Authenticator, Minted, Wish};
use crate::cli::{AccessArgs, TokenCreateArgs};
use crate::config::Config;
use crate::store::{Access, Created, Name, ProbeName};

/// Runs the command.
pub(super) fn run(config: &Config, args: &TokenCreateArgs) -> anyhow::Result<()> {
    if let Some(name) = &args.name {
        check_name(name, "a token")?;
        if ProbeName::is_of_token(name) {
            let why = "doctor names its own tokens like that, and deletes them";
            return Err(Failure::usage(format!("'{name}' cannot name a token: {why}")).into());
        }
    }
    let (access, isolated_scope) = access(&args.access)?;
    let expires_at_ms = args.expires.map(expiry_ms).transpose()?;
    let mut admin = database::open_or_create(config)?;
    let wish = Wish {
        workspace: workspace::find(&admin, config, args.place.name())?,
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
            let rotate = format!(
                "cachesrv token rotate {name}{}",
                workspace::flag(args.place.name())
            );
            let text = format!(
                "a token named '{name}' exists already: choose another name, or replace its secret"
            );
            let rotate = shell::with_db(&rotate, &config.db);
            return Err(Failure::new(text).hint(rotate).into());
        }
        Created::Done => {}
    }
    let revoke = format!("cachesrv token revoke {}", minted.public_id());
    let lost = format!("token {} was made", minted.public_id());
    hand_over(&text, &lost, shell::with_db(&revoke, &config.db))?;
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
    format!(
        "created {} token{named}, id {}{}, {}. The line above is its secret: it is not shown again",
        wish.access.as_str(),
        minted.public_id().as_str(),
        for_scope(wish),
        until(wish),
    )
}
