//! Who asks, and what he may do: the form of tokens, the hash of their secrets, the memo of verified
//! ones, and the grant that decides which scopes a request may read and write.
//!
//! No SQL and no statuses: the caller reads the token's record from the store and turns a [`Refusal`]
//! into an answer. A request goes this way:
//!
//! 1. [`Authenticator::present`] takes the header apart. Bad check digits end here, before the database.
//! 2. The caller looks the record up by its public id; none is [`Refusal::Unknown`], before any hash.
//! 3. [`Authenticator::recall`] judges by what is cheap: the pre-tag, the life of the token, the memo; and,
//!    once the secret is known to be right, whether the token may be used at the place that the URL says.
//! 4. [`Authenticator::verify`] runs Argon2, once per token and process, and only for a secret whose
//!    pre-tag is right. It waits and takes long: the caller holds no database connection meanwhile.
//!
//! So guessing costs no Argon2 for one who holds no secret of the id that he guesses at. The holder of a
//! living token's secret knows its pre-tag and can search out other secrets that pass it, as many as he
//! likes: each costs a run. Of one id there is but one verification at a time, and permits go to who came
//! first (`turn`, `permit`): another token's first use waits for at most one run of each such id.
//!
//! The record is read anew for every request, so a revocation by another process counts at once; nothing
//! about a token's life is remembered here.

pub mod grant;
pub mod hash;
pub mod refusal;
pub mod token;

mod flight;
mod memo;
mod permit;
mod turn;

use rand::rngs::SysError;

use crate::store::{Access, Name, NewToken, TokenRecord, WorkspaceId};

pub use grant::{Grant, Place, ReadChain, WriteTarget, read_chain, write_target};
pub use hash::{Cost, HashError, HashedSecret};
pub use refusal::Refusal;
pub use token::{NewTokenText, PresentedToken, PublicId};

use hash::{Hasher, Verdict};
use memo::Memo;

/// Makes and verifies tokens. One for each process; every thread shares it.
pub struct Authenticator {
    hasher: Hasher,
    memo: Memo,
}

/// No authenticator could be set up, or no token made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random(#[from] SysError),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl Authenticator {
    /// An authenticator at the current cost.
    pub fn new() -> Result<Self, AuthError> {
        Self::with_cost(Cost::CURRENT)
    }

    /// An authenticator that hashes new secrets at `cost`; it verifies others at their own.
    pub fn with_cost(cost: Cost) -> Result<Self, AuthError> {
        Ok(Self {
            hasher: Hasher::new(cost)?,
            memo: Memo::new()?,
        })
    }

    /// Takes the value of `Authorization` apart, without the database and without a hash.
    pub fn present(authorization: Option<&str>) -> Result<PresentedToken, Refusal> {
        PresentedToken::from_authorization(authorization)
    }

    /// What can be said without Argon2: a refusal, a grant, or `None` for a token that must be verified.
    pub fn recall(
        &self,
        presented: &PresentedToken,
        record: &TokenRecord,
        place: Place<'_>,
        now_ms: i64,
    ) -> Result<Option<Grant>, Refusal> {
        judge_cheaply(presented, record, now_ms)?;
        let key = self.memo.key(presented, &record.secret_phc);
        match self.memo.recall(&key) {
            None => Ok(None),
            Some(Verdict::Right) => Grant::new(*presented.public_id(), record, place).map(Some),
            Some(Verdict::Wrong) => Err(Refusal::WrongSecret),
        }
    }

    /// Verifies the secret with Argon2 and remembers the verdict. Threads that verify one token at the
    /// same time share one run; those with other secrets for one id take turns. Blocks for up to [`hash::VERIFY_WAIT_MAX`] and the run itself.
    pub fn verify(
        &self,
        presented: &PresentedToken,
        record: &TokenRecord,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        judge_cheaply(presented, record, now_ms)?;
        let key = self.memo.key(presented, &record.secret_phc);
        let verdict = self.memo.settle(key, || {
            let id = *presented.public_id();
            self.hasher
                .verify_in_turn(id, presented.secret(), &record.secret_phc)
        })?;
        match verdict {
            Verdict::Right => Ok(()),
            Verdict::Wrong => Err(Refusal::WrongSecret),
        }
    }

    /// Verifies the secret alone, with Argon2 unless the pre-tag is wrong: whether the token is alive is
    /// another question. For whoever holds the database and wants to know which token this is.
    pub fn prove(&self, presented: &PresentedToken, record: &TokenRecord) -> Result<(), Refusal> {
        judge_tag(presented, record)?;
        match self.hasher.verify(presented.secret(), &record.secret_phc)? {
            Verdict::Right => Ok(()),
            Verdict::Wrong => Err(Refusal::WrongSecret),
        }
    }

    /// The secret hashed anew, to be stored in place of a hash that was made at another cost; `None`
    /// where there is nothing to do. To be called after `verify` has granted: it upgrades only what was
    /// verified in this process, once for any number of callers, and the new hash needs no verification.
    pub fn upgrade(
        &self,
        presented: &PresentedToken,
        record: &TokenRecord,
    ) -> Result<Option<HashedSecret>, HashError> {
        let key = self.memo.key(presented, &record.secret_phc);
        if !self.hasher.needs_upgrade(&record.secret_phc) || !self.memo.claim_upgrade(key) {
            return Ok(None);
        }
        let hashed = self.hasher.hash(presented.secret())?;
        self.memo
            .remember(self.memo.key(presented, &hashed.phc), Ok(Verdict::Right));
        Ok(Some(hashed))
    }

    /// Makes a token: its text, to be shown once, and what is to be stored of it.
    pub fn mint(&self, wish: Wish) -> Result<(NewTokenText, Minted), AuthError> {
        let (public_id, secret, text) = token::draw()?;
        let secret = self.hasher.hash(&secret)?;
        Ok((
            text,
            Minted {
                public_id,
                secret,
                wish,
            },
        ))
    }

    /// How often Argon2 ran in this process so far, for whatever reason.
    pub fn argon2_runs(&self) -> u64 {
        self.hasher.runs()
    }
}

/// What a new token shall be.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// What it may do.
    pub access: Access,
    /// The one isolated scope that it is bound to; of isolated tokens only.
    pub isolated_scope: Option<Name>,
    /// Its name, if it gets one.
    pub name: Option<String>,
    /// From when on it is refused, milliseconds since 1970 UTC.
    pub expires_at_ms: Option<i64>,
}

/// What is stored of a token that was just made.
#[derive(Debug)]
pub struct Minted {
    public_id: PublicId,
    secret: HashedSecret,
    wish: Wish,
}

impl Minted {
    /// The part of the token that may be shown.
    pub fn public_id(&self) -> &PublicId {
        &self.public_id
    }

    /// What it was to be.
    pub fn wish(&self) -> &Wish {
        &self.wish
    }

    /// The fields for the store.
    pub fn to_store(&self) -> NewToken<'_> {
        NewToken {
            public_id: self.public_id.as_str(),
            workspace: self.wish.workspace,
            access: self.wish.access,
            isolated_scope: self.wish.isolated_scope.as_ref(),
            name: self.wish.name.as_deref(),
            secret_phc: &self.secret.phc,
            secret_tag: self.secret.tag,
            expires_at_ms: self.wish.expires_at_ms,
        }
    }
}

/// Refuses what can be refused without Argon2. The pre-tag comes first: one who does not hold the
/// secret must not learn that a token existed and is dead.
fn judge_cheaply(
    presented: &PresentedToken,
    record: &TokenRecord,
    now_ms: i64,
) -> Result<(), Refusal> {
    judge_tag(presented, record)?;
    // Revoked is for ever, whatever the clock says: one that was set back must not revive a token.
    if record.revoked_at_ms.is_some() {
        return Err(Refusal::Revoked);
    }
    if record
        .expires_at_ms
        .is_some_and(|expires_at_ms| now_ms >= expires_at_ms)
    {
        return Err(Refusal::Expired);
    }
    Ok(())
}

/// Refuses another token than the record's, and a secret that cannot be its.
fn judge_tag(presented: &PresentedToken, record: &TokenRecord) -> Result<(), Refusal> {
    if record.public_id != presented.public_id().as_str() {
        return Err(Refusal::Unknown);
    }
    if !hash::has_tag(presented.secret(), record.secret_tag) {
        return Err(Refusal::WrongSecret);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
