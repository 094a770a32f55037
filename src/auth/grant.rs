//! What a request may read and write.
//!
//! [`read_chain`] and [`write_target`] decide it, and nothing else in the program chooses a scope: both
//! take a [`Grant`], which only a verified token yields, and what they return cannot be made elsewhere.
//! Each access is written out in both, so that a new one does not compile until it was thought about.

use crate::store::{Access, ScopeId, TokenId, TokenRecord};

use super::token::PublicId;

/// The proof that a request presented a living token and its right secret.
#[derive(Debug, Clone)]
pub struct Grant {
    token: TokenId,
    public_id: PublicId,
    name: Option<Box<str>>,
    workspace: Box<str>,
    access: Access,
    trusted_scope: ScopeId,
}

impl Grant {
    /// Made in this module's parent alone, once the token was verified.
    pub(super) fn new(public_id: PublicId, record: &TokenRecord) -> Self {
        Self {
            token: record.id,
            public_id,
            name: record.name.as_deref().map(Box::from),
            workspace: Box::from(record.workspace.as_str()),
            access: record.access,
            trusted_scope: record.trusted_scope,
        }
    }

    /// The row id of the token.
    pub fn token(&self) -> TokenId {
        self.token
    }

    /// The part of the token that may be shown.
    pub fn public_id(&self) -> &PublicId {
        &self.public_id
    }

    /// The token's name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The name of the token's workspace.
    pub fn workspace(&self) -> &str {
        &self.workspace
    }

    /// What the token may do.
    pub fn access(&self) -> Access {
        self.access
    }
}

/// The scopes to look in, in this order: none, one or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadChain([Option<ScopeId>; 2]);

impl ReadChain {
    /// The scopes, first the one that wins.
    pub fn scopes(&self) -> impl Iterator<Item = ScopeId> {
        self.0.into_iter().flatten()
    }
}

/// The scope that an upload goes to, and the token that answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteTarget {
    scope: ScopeId,
    writer: TokenId,
}

impl WriteTarget {
    /// The scope.
    pub fn scope(&self) -> ScopeId {
        self.scope
    }

    /// The token that is recorded with the entry.
    pub fn writer(&self) -> TokenId {
        self.writer
    }
}

/// Where this grant reads, in order.
pub fn read_chain(grant: &Grant) -> ReadChain {
    match grant.access {
        Access::Read | Access::Write => ReadChain([Some(grant.trusted_scope), None]),
    }
}

/// Where this grant writes, if it may write at all.
pub fn write_target(grant: &Grant) -> Option<WriteTarget> {
    let scope = match grant.access {
        Access::Read => return None,
        Access::Write => grant.trusted_scope,
    };
    Some(WriteTarget {
        scope,
        writer: grant.token,
    })
}

#[cfg(test)]
mod tests {
    use super::super::token;
    use super::*;

    fn record(access: Access) -> TokenRecord {
        TokenRecord {
            id: TokenId(7),
            public_id: String::new(),
            workspace: "shop".to_owned(),
            trusted_scope: ScopeId(3),
            access,
            name: Some("ci".to_owned()),
            secret_phc: "$argon2id$not-to-be-seen".to_owned(),
            secret_tag: [0; 4],
            created_at_ms: 0,
            expires_at_ms: None,
            revoked_at_ms: None,
            last_used_at_ms: None,
        }
    }

    fn grant(access: Access) -> Grant {
        Grant::new(token::draw().expect("random bytes").0, &record(access))
    }

    fn scopes_read(access: Access) -> Vec<ScopeId> {
        read_chain(&grant(access)).scopes().collect()
    }

    #[test]
    fn a_read_token_reads_the_trusted_scope_and_writes_nothing() {
        assert_eq!(scopes_read(Access::Read), [ScopeId(3)]);
        assert_eq!(write_target(&grant(Access::Read)), None);
    }

    #[test]
    fn a_write_token_reads_and_writes_the_trusted_scope() {
        assert_eq!(scopes_read(Access::Write), [ScopeId(3)]);
        let target = write_target(&grant(Access::Write)).expect("may write");
        assert_eq!(target.scope(), ScopeId(3));
    }

    #[test]
    fn the_writer_of_an_entry_is_the_token_of_the_request() {
        let target = write_target(&grant(Access::Write)).expect("may write");
        assert_eq!(target.writer(), TokenId(7));
    }

    #[test]
    fn a_chain_lists_its_scopes_in_order_and_skips_none() {
        let (first, second) = (ScopeId(1), ScopeId(2));
        let listed = |chain: [Option<ScopeId>; 2]| ReadChain(chain).scopes().collect::<Vec<_>>();
        assert_eq!(listed([None, None]), []);
        assert_eq!(listed([Some(first), None]), [first]);
        assert_eq!(listed([Some(first), Some(second)]), [first, second]);
    }

    #[test]
    fn a_grant_tells_whose_it_is_and_never_the_hash() {
        let grant = grant(Access::Read);
        assert_eq!(grant.token(), TokenId(7));
        assert_eq!(grant.name(), Some("ci"));
        assert_eq!(grant.workspace(), "shop");
        assert_eq!(grant.access(), Access::Read);
        assert_eq!(grant.public_id().as_str().len(), 12);
        assert!(!format!("{grant:?}").contains("argon2"));
    }
}
