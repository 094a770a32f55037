//! What a request may read and write.
//!
//! [`read_chain`] and [`write_target`] decide it, and nothing else in the program chooses a scope: both
//! take a [`Grant`], which only a verified token yields, and what they return cannot be made elsewhere.
//! Each access is written out in both, so that a new one does not compile until it was thought about.
//!
//! The scope comes from the token. A URL may say where it believes to be ([`Place`]): that can narrow
//! what the token allows, never widen it, and what it says in vain is refused rather than ignored.

use crate::store::{Access, Name, Scope, TokenId, TokenRecord, WorkspaceId};

use super::refusal::Refusal;
use super::token::PublicId;

/// What the URL of a request says of its place, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place<'u> {
    /// The workspace that it asserts: `/w/{workspace}`.
    pub workspace: Option<&'u str>,
    /// The isolated scope that it names: `/s/{scope}`.
    pub scope: Option<&'u str>,
}

/// The proof that a request presented a living token and its right secret, at a place that is the token's.
#[derive(Debug, Clone)]
pub struct Grant {
    token: TokenId,
    public_id: PublicId,
    name: Option<Box<str>>,
    workspace: Box<str>,
    workspace_id: WorkspaceId,
    trusted: Scope,
    right: Right,
}

/// What the token may do, with all that it takes to do it.
#[derive(Debug, Clone)]
enum Right {
    Read,
    Write,
    WriteOnly,
    /// With the token's own scope.
    Isolated(Scope),
}

impl Grant {
    /// Made in this module's parent alone, once the token was verified.
    pub(super) fn new(
        public_id: PublicId,
        record: &TokenRecord,
        place: Place<'_>,
    ) -> Result<Self, Refusal> {
        if place.workspace.is_some_and(|name| name != record.workspace) {
            return Err(Refusal::WorkspaceOfAnother);
        }
        Ok(Self {
            token: record.id,
            public_id,
            name: record.name.as_deref().map(Box::from),
            workspace: Box::from(record.workspace.as_str()),
            workspace_id: record.workspace_id,
            trusted: Scope::Trusted(record.trusted_scope),
            right: Right::of(record, place.scope)?,
        })
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

    /// The row id of the token's workspace.
    pub fn workspace_id(&self) -> WorkspaceId {
        self.workspace_id
    }

    /// The name of the isolated scope that the request is confined to, if it is.
    pub fn isolated_scope(&self) -> Option<&str> {
        match &self.right {
            Right::Isolated(Scope::Isolated(_, name)) => Some(name.as_str()),
            _ => None,
        }
    }

    /// What the token may do.
    pub fn access(&self) -> Access {
        match self.right {
            Right::Read => Access::Read,
            Right::Write => Access::Write,
            Right::WriteOnly => Access::WriteOnly,
            Right::Isolated(_) => Access::Isolated,
        }
    }
}

impl Right {
    fn of(record: &TokenRecord, named: Option<&str>) -> Result<Self, Refusal> {
        let right = match record.access {
            Access::Read => Self::Read,
            Access::Write => Self::Write,
            Access::WriteOnly => Self::WriteOnly,
            Access::Isolated => {
                let name = own_scope(record.isolated_scope.as_ref(), named)?;
                return Ok(Self::Isolated(Scope::Isolated(record.workspace_id, name)));
            }
        };
        // Whoever says that he is isolated must not find himself in the trusted scope.
        match named {
            None => Ok(right),
            Some(_) => Err(Refusal::ScopeNotForToken),
        }
    }
}

/// The scope of an isolated token: the one it is bound to, or else the one that the URL names.
fn own_scope(bound: Option<&Name>, named: Option<&str>) -> Result<Name, Refusal> {
    let named = named
        .map(|name| Name::parse(name).map_err(|_| Refusal::ScopeMalformed))
        .transpose()?;
    match (bound, named) {
        (None, None) => Err(Refusal::ScopeMissing),
        (None, Some(named)) => Ok(named),
        (Some(bound), Some(named)) if *bound != named => Err(Refusal::ScopeOfAnother),
        (Some(bound), _) => Ok(bound.clone()),
    }
}

/// The scopes to look in, in this order: none, one or two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadChain([Option<Scope>; 2]);

impl ReadChain {
    /// The scopes, first the one that wins.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter().flatten()
    }
}

/// The scope that an upload goes to, and the token that answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteTarget {
    scope: Scope,
    unless_in: Option<Scope>,
    writer: TokenId,
}

impl WriteTarget {
    /// The scope.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Another scope in which an entry of the same hash refuses the upload: the writer would never read
    /// his own, because that one comes first.
    pub fn unless_in(&self) -> Option<&Scope> {
        self.unless_in.as_ref()
    }

    /// The token that is recorded with the entry.
    pub fn writer(&self) -> TokenId {
        self.writer
    }
}

/// Where this grant reads, in order.
pub fn read_chain(grant: &Grant) -> ReadChain {
    let trusted = || Some(grant.trusted.clone());
    match &grant.right {
        Right::Read | Right::Write => ReadChain([trusted(), None]),
        Right::Isolated(own) => ReadChain([trusted(), Some(own.clone())]),
        Right::WriteOnly => ReadChain([None, None]),
    }
}

/// Where this grant writes, if it may write at all.
pub fn write_target(grant: &Grant) -> Option<WriteTarget> {
    let (scope, unless_in) = match &grant.right {
        Right::Read => return None,
        Right::Write | Right::WriteOnly => (grant.trusted.clone(), None),
        Right::Isolated(own) => (own.clone(), Some(grant.trusted.clone())),
    };
    Some(WriteTarget {
        scope,
        unless_in,
        writer: grant.token,
    })
}

#[cfg(test)]
mod tests {
    use super::super::token;
    use super::*;
    use crate::store::{ScopeId, WorkspaceId};

    const TRUSTED: Scope = Scope::Trusted(ScopeId(3));

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn isolated(text: &str) -> Scope {
        Scope::Isolated(WorkspaceId(2), name(text))
    }

    fn record(access: Access, bound: Option<&str>) -> TokenRecord {
        TokenRecord {
            id: TokenId(7),
            public_id: String::new(),
            workspace_id: WorkspaceId(2),
            workspace: "shop".to_owned(),
            trusted_scope: ScopeId(3),
            access,
            isolated_scope: bound.map(name),
            name: Some("ci".to_owned()),
            secret_phc: "$argon2id$not-to-be-seen".to_owned(),
            secret_tag: [0; 4],
            created_at_ms: 0,
            expires_at_ms: None,
            revoked_at_ms: None,
            last_used_at_ms: None,
            replaced_by: None,
            first_artifact_id: None,
        }
    }

    fn try_grant(access: Access, bound: Option<&str>, place: Place<'_>) -> Result<Grant, Refusal> {
        let id = token::draw().expect("random bytes").0;
        Grant::new(id, &record(access, bound), place)
    }

    fn grant(access: Access) -> Grant {
        try_grant(access, Some("pr-1"), Place::default()).expect("a grant")
    }

    fn at_scope(scope: &str) -> Place<'_> {
        Place {
            workspace: None,
            scope: Some(scope),
        }
    }

    fn at_workspace(workspace: &str) -> Place<'_> {
        Place {
            workspace: Some(workspace),
            scope: None,
        }
    }

    fn scopes_read(grant: &Grant) -> Vec<Scope> {
        read_chain(grant).scopes().cloned().collect()
    }

    #[test]
    fn a_read_token_reads_the_trusted_scope_and_writes_nothing() {
        let grant = grant(Access::Read);
        assert_eq!(scopes_read(&grant), [TRUSTED]);
        assert_eq!(write_target(&grant), None);
    }

    #[test]
    fn a_write_token_reads_and_writes_the_trusted_scope() {
        let grant = grant(Access::Write);
        assert_eq!(scopes_read(&grant), [TRUSTED]);
        let target = write_target(&grant).expect("may write");
        assert_eq!((target.scope(), target.unless_in()), (&TRUSTED, None));
    }

    #[test]
    fn a_write_only_token_reads_nothing_and_writes_the_trusted_scope() {
        let grant = grant(Access::WriteOnly);
        assert_eq!(scopes_read(&grant), []);
        let target = write_target(&grant).expect("may write");
        assert_eq!((target.scope(), target.unless_in()), (&TRUSTED, None));
    }

    #[test]
    fn an_isolated_token_reads_trusted_first_and_writes_its_own_scope_only() {
        let own = isolated("pr-1");
        let grant = grant(Access::Isolated);
        assert_eq!(scopes_read(&grant), [TRUSTED, own.clone()]);
        let target = write_target(&grant).expect("may write");
        assert_eq!((target.scope(), target.unless_in()), (&own, Some(&TRUSTED)));
    }

    #[test]
    fn the_url_names_the_scope_of_an_isolated_token_that_is_not_bound() {
        let granted = |scope| try_grant(Access::Isolated, None, at_scope(scope));
        let grant = granted("pr-2").expect("a grant");
        assert_eq!(scopes_read(&grant), [TRUSTED, isolated("pr-2")]);
        assert_eq!(grant.isolated_scope(), Some("pr-2"));
        // A name is a name: the trusted scope has none.
        let grant = granted("trusted").expect("a grant");
        assert_eq!(scopes_read(&grant), [TRUSTED, isolated("trusted")]);
        let nowhere = try_grant(Access::Isolated, None, Place::default());
        assert_eq!(nowhere.err(), Some(Refusal::ScopeMissing));
    }

    #[test]
    fn the_url_cannot_move_a_bound_token_out_of_its_scope() {
        let granted = |place| try_grant(Access::Isolated, Some("pr-1"), place);
        let same = granted(at_scope("pr-1")).expect("a grant");
        assert_eq!(scopes_read(&same), [TRUSTED, isolated("pr-1")]);
        for other in ["pr-2", "PR-1", "pr-1-", "trusted"] {
            let refused = granted(at_scope(other)).err();
            assert_eq!(refused, Some(Refusal::ScopeOfAnother), "{other}");
        }
    }

    #[test]
    fn what_is_no_name_is_no_scope() {
        for bound in [None, Some("pr-1")] {
            for scope in ["", ".", "..", "%2e%2e", "a/b", "pr-1/", &"x".repeat(65)] {
                let refused = try_grant(Access::Isolated, bound, at_scope(scope)).err();
                assert_eq!(refused, Some(Refusal::ScopeMalformed), "{scope}");
            }
        }
    }

    #[test]
    fn a_token_of_the_trusted_scope_is_refused_wherever_the_url_names_another() {
        for access in [Access::Read, Access::Write, Access::WriteOnly] {
            for scope in ["pr-1", "trusted", "", "..", "3"] {
                let refused = try_grant(access, None, at_scope(scope)).err();
                assert_eq!(refused, Some(Refusal::ScopeNotForToken), "{scope}");
            }
        }
    }

    #[test]
    fn a_token_is_refused_in_every_workspace_but_its_own() {
        for access in [
            Access::Read,
            Access::Write,
            Access::WriteOnly,
            Access::Isolated,
        ] {
            let granted = |place| try_grant(access, Some("pr-1"), place);
            assert!(granted(at_workspace("shop")).is_ok());
            for other in ["", "default", "Shop", "shop/", "..", "2"] {
                let refused = granted(at_workspace(other)).err();
                assert_eq!(refused, Some(Refusal::WorkspaceOfAnother), "{other}");
            }
        }
    }

    #[test]
    fn the_writer_of_an_entry_is_the_token_of_the_request() {
        for access in [Access::Write, Access::WriteOnly, Access::Isolated] {
            let target = write_target(&grant(access)).expect("may write");
            assert_eq!(target.writer(), TokenId(7));
        }
    }

    #[test]
    fn a_grant_tells_whose_it_is_and_never_the_hash() {
        let grant = grant(Access::Read);
        assert_eq!(grant.token(), TokenId(7));
        assert_eq!(grant.name(), Some("ci"));
        assert_eq!(grant.workspace(), "shop");
        assert_eq!(grant.isolated_scope(), None);
        assert_eq!(grant.public_id().as_str().len(), 12);
        assert!(!format!("{grant:?}").contains("argon2"));
    }

    #[test]
    fn a_grant_knows_its_access() {
        for access in [
            Access::Read,
            Access::Write,
            Access::WriteOnly,
            Access::Isolated,
        ] {
            assert_eq!(grant(access).access(), access);
        }
    }
}
