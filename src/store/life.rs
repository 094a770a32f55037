//! The life of a token after it was made: found by what a person calls it, rotated, revoked. Each change
//! looks at the token again in the transaction that changes it, so of two commands that want the same
//! one only the first gets it.

use std::collections::HashSet;

use rusqlite::{Connection, TransactionBehavior};

use super::admin::Admin;
use super::error::StoreError;
use super::model::{NewToken, TokenId, TokenRecord, TokenState, WorkspaceId};
use super::{now_ms, tokens};

/// What a person calls a token: by its public id, or by its name in a workspace.
#[derive(Debug, Clone, Copy)]
pub struct Handle<'h> {
    /// The name or the public id.
    pub name_or_id: &'h str,
    /// Where the name is looked for.
    pub workspace: WorkspaceId,
    /// Whether the token must be of that workspace even where it is called by its id.
    pub only_there: bool,
}

/// The tokens that a handle means.
#[derive(Debug)]
pub enum Found {
    /// The one with this public id. An id goes before a name, which anybody may choose.
    ById(TokenRecord),
    /// All that ever had this name in the workspace: those that can be used before the others, those without
    /// a successor before the replaced, newest first. At least one.
    ByName(Vec<TokenRecord>),
    /// The one with this public id, which is not of the workspace that it must be of.
    IdElsewhere(TokenRecord),
    /// None; but tokens that can be used have this name in other workspaces. At least one.
    NameElsewhere(Vec<TokenRecord>),
    /// None.
    Nowhere,
}

/// How revoking ended.
#[derive(Debug)]
pub enum Revoked {
    /// From the next request on these are refused.
    Done(Vec<TokenRecord>),
    /// This one was revoked before, and no other is meant.
    Already(TokenRecord),
    /// Nothing was found that could be revoked.
    NotFound(Found),
}

/// How long replaced tokens go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// They are refused from the next request on.
    None,
    /// Until then at most, milliseconds since 1970 UTC.
    Until(i64),
}

/// How rotating ended.
#[derive(Debug)]
pub enum Rotated {
    /// The new token can be used.
    Done {
        /// The old one as it is now.
        old: TokenRecord,
        /// Those that the old one had replaced, directly or not, and that lived until now or live on; as they
        /// are now, newest first.
        earlier: Vec<TokenRecord>,
    },
    /// The old one was replaced, revoked or expired in the meantime; nothing was changed.
    NotLive(TokenRecord),
}

/// The living tokens that rotation connects with one, however far away; nearest first.
#[derive(Debug)]
pub struct Kin {
    /// Those that it replaced.
    pub earlier: Vec<TokenRecord>,
    /// Those that replaced it.
    pub later: Vec<TokenRecord>,
}

impl Admin {
    /// The token with this public id.
    pub fn token(&self, public_id: &str) -> Result<Option<TokenRecord>, StoreError> {
        tokens::find(&self.connection, public_id)
    }

    /// The token with this row id.
    pub fn token_by_row(&self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        tokens::get(&self.connection, id)
    }

    /// The tokens that a handle means.
    pub fn find_tokens(&self, handle: Handle<'_>) -> Result<Found, StoreError> {
        find(&self.connection, handle)
    }

    /// The living tokens that rotation connects with this one.
    pub fn living_kin(&self, token: &TokenRecord) -> Result<Kin, StoreError> {
        Ok(Kin {
            earlier: living_earlier(&self.connection, token)?,
            later: living_later(&self.connection, token)?,
        })
    }

    /// Revokes the token with this id, or all with this name, expired ones too: a clock that was wrong would
    /// revive them.
    pub fn revoke_tokens(&mut self, handle: Handle<'_>) -> Result<Revoked, StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (unrevoked, revoked): (Vec<_>, Vec<_>) = match find(&transaction, handle)? {
            Found::ById(token) => vec![token],
            Found::ByName(tokens) => tokens,
            none => return Ok(Revoked::NotFound(none)),
        }
        .into_iter()
        .partition(|token| token.revoked_at_ms.is_none());
        if unrevoked.is_empty() {
            let newest = revoked.into_iter().next();
            return Ok(newest.map_or(Revoked::NotFound(Found::Nowhere), Revoked::Already));
        }
        for token in &unrevoked {
            tokens::revoke(&transaction, token.id)?;
        }
        transaction.commit()?;
        Ok(Revoked::Done(unrevoked))
    }

    /// Stores a token in the place of a living one that was not replaced yet. What the old one had replaced
    /// lives no longer than it does: of a chain only the last link may last.
    pub fn rotate_token(
        &mut self,
        old: &TokenRecord,
        new: &NewToken<'_>,
        overlap: Overlap,
    ) -> Result<Rotated, StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = tokens::get(&transaction, old.id)?.unwrap_or_else(|| old.clone());
        if found.state(now_ms()) != TokenState::Live {
            return Ok(Rotated::NotLive(found));
        }
        let new = tokens::insert(&transaction, new)?;
        tokens::replace(&transaction, old.id, new)?;
        let end = |token: TokenRecord| {
            match overlap {
                Overlap::Until(ms) => tokens::end_by(&transaction, token.id, ms)?,
                Overlap::None => tokens::revoke(&transaction, token.id)?,
            }
            tokens::find_by_row_id(&transaction, token.id)
        };
        let earlier = living_earlier(&transaction, &found)?
            .into_iter()
            .map(end)
            .collect::<Result<_, _>>()?;
        let old = end(found)?;
        transaction.commit()?;
        Ok(Rotated::Done { old, earlier })
    }
}

/// The living tokens that this one replaced, directly or not, newest first. One pass over the replaced ones,
/// since a token is younger than what it replaces.
fn living_earlier(
    connection: &Connection,
    token: &TokenRecord,
) -> Result<Vec<TokenRecord>, StoreError> {
    let now_ms = now_ms();
    let mut chain = HashSet::from([token.id.0]);
    let mut living = Vec::new();
    for earlier in tokens::replaced(connection, token.workspace_id)? {
        let by = earlier.replaced_by.map(|by| by.0);
        // A dead one may stand between two that live.
        if by.is_some_and(|by| chain.contains(&by)) {
            chain.insert(earlier.id.0);
            if earlier.state(now_ms).is_living() {
                living.push(earlier);
            }
        }
    }
    Ok(living)
}

/// The living tokens that replaced this one, directly or not, oldest first.
fn living_later(
    connection: &Connection,
    token: &TokenRecord,
) -> Result<Vec<TokenRecord>, StoreError> {
    let now_ms = now_ms();
    let mut living = Vec::new();
    let (mut last, mut next) = (token.id, token.replaced_by);
    // Each is younger than the one before, so this ends.
    while let Some(id) = next.filter(|id| id.0 > last.0) {
        let later = tokens::find_by_row_id(connection, id)?;
        (last, next) = (id, later.replaced_by);
        if later.state(now_ms).is_living() {
            living.push(later);
        }
    }
    Ok(living)
}

fn find(connection: &Connection, handle: Handle<'_>) -> Result<Found, StoreError> {
    if let Some(token) = tokens::find(connection, handle.name_or_id)? {
        let is_elsewhere = handle.only_there && token.workspace_id != handle.workspace;
        return Ok(if is_elsewhere {
            Found::IdElsewhere(token)
        } else {
            Found::ById(token)
        });
    }
    let named = tokens::named(connection, handle.name_or_id)?;
    let (mut here, mut elsewhere): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|token| token.workspace_id == handle.workspace);
    let now_ms = now_ms();
    if !here.is_empty() {
        // The order among equals stays: newest first.
        here.sort_by_key(|token| rank(token.state(now_ms)));
        return Ok(Found::ByName(here));
    }
    elsewhere.retain(|token| token.state(now_ms).is_living());
    Ok(if elsewhere.is_empty() {
        Found::Nowhere
    } else {
        Found::NameElsewhere(elsewhere)
    })
}

/// Which of several tokens of one name a person most likely means.
fn rank(state: TokenState) -> u8 {
    match state {
        TokenState::Live => 0,
        TokenState::Replaced => 1,
        TokenState::Expired => 2,
        TokenState::Revoked => 3,
    }
}
