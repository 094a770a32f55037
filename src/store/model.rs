//! The words of the store: ids and records that its callers share. No SQL.

use super::chunks;
use super::name::Name;

/// The row id of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkspaceId(pub i64);

/// The row id of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeId(pub i64);

/// Where entries live. Which one a request may use is decided in `auth`, nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The trusted scope of a workspace.
    Trusted(ScopeId),
    /// The isolated scope of this name in a workspace; it begins to exist with its first entry.
    Isolated(WorkspaceId, Name),
}

/// Trusted or isolated: what shares a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScopeKind {
    /// What protected branches build.
    Trusted,
    /// What a pull request builds.
    Isolated,
}

impl ScopeKind {
    /// The word for it, in the database and in front of people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Isolated => "isolated",
        }
    }
}

impl Scope {
    /// Whether it is trusted or isolated.
    pub fn kind(&self) -> ScopeKind {
        match self {
            Self::Trusted(_) => ScopeKind::Trusted,
            Self::Isolated(..) => ScopeKind::Isolated,
        }
    }
}

/// The row id of a token; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId(pub i64);

/// What a token may do in its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads the trusted scope, writes nothing.
    Read,
    /// Reads and writes the trusted scope.
    Write,
    /// Reads the trusted scope, then an isolated one, and writes the isolated one.
    Isolated,
    /// Writes the trusted scope, reads nothing.
    WriteOnly,
}

impl Access {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Isolated, Self::WriteOnly];

    /// The word for it, in the database and in front of people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Isolated => "isolated",
            Self::WriteOnly => "write-only",
        }
    }

    /// The access with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|access| access.as_str() == word)
    }
}

/// One repository, or a group of them that trusts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// The row id.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// When it was added, milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

/// A token as it is stored: its secret only as a hash.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    /// The row id.
    pub id: TokenId,
    /// The part of the token that may be shown: 12 base62 characters.
    pub public_id: String,
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The name of that workspace.
    pub workspace: String,
    /// The trusted scope of that workspace.
    pub trusted_scope: ScopeId,
    /// What it may do.
    pub access: Access,
    /// The one isolated scope that an isolated token is bound to; without it the URL names the scope.
    pub isolated_scope: Option<Name>,
    /// Its name, unique among the tokens of the workspace that are alive and not replaced.
    pub name: Option<String>,
    /// The Argon2id hash of the secret, a PHC string.
    pub secret_phc: String,
    /// The first four bytes of the SHA-256 of the secret.
    pub secret_tag: [u8; 4],
    /// When it was created, milliseconds since 1970 UTC.
    pub created_at_ms: i64,
    /// From when on it is refused, milliseconds since 1970 UTC.
    pub expires_at_ms: Option<i64>,
    /// When it was revoked, milliseconds since 1970 UTC.
    pub revoked_at_ms: Option<i64>,
    /// When it was last used (to the minute), milliseconds since 1970 UTC.
    pub last_used_at_ms: Option<i64>,
    /// The token that took its place when it was rotated.
    pub replaced_by: Option<TokenId>,
    /// The row id of the artifact that it stored first, which need not be there any more.
    pub first_artifact_id: Option<i64>,
}

/// What has become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It can be used.
    Live,
    /// It can be used for a while yet; another has taken its place.
    Replaced,
    /// Its time is over.
    Expired,
    /// It was revoked, for good.
    Revoked,
}

impl TokenState {
    /// The word for it, in front of people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// Whether requests with the token are granted.
    pub fn is_living(self) -> bool {
        matches!(self, Self::Live | Self::Replaced)
    }
}

impl TokenRecord {
    /// What has become of it by now.
    pub fn state(&self, now_ms: i64) -> TokenState {
        // In the order in which `auth` judges: revoked is for ever, whatever the clock says.
        match (self.revoked_at_ms, self.expires_at_ms, self.replaced_by) {
            (Some(_), ..) => TokenState::Revoked,
            (None, Some(expires_at_ms), _) if expires_at_ms <= now_ms => TokenState::Expired,
            (None, _, Some(_)) => TokenState::Replaced,
            (None, _, None) => TokenState::Live,
        }
    }
}

/// A token about to be stored.
#[derive(Debug, Clone)]
pub struct NewToken<'t> {
    /// 12 base62 characters.
    pub public_id: &'t str,
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// What it may do.
    pub access: Access,
    /// The one isolated scope that it is bound to; of isolated tokens only.
    pub isolated_scope: Option<&'t Name>,
    /// Its name, if it gets one.
    pub name: Option<&'t str>,
    /// The Argon2id hash of the secret, a PHC string.
    pub secret_phc: &'t str,
    /// The first four bytes of the SHA-256 of the secret.
    pub secret_tag: [u8; 4],
    /// From when on it is refused, milliseconds since 1970 UTC.
    pub expires_at_ms: Option<i64>,
}

/// An artifact that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Artifact {
    /// The row id; never used again for another one.
    pub id: i64,
    /// The kind of the scope it is in.
    pub kind: ScopeKind,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When it was stored, milliseconds since 1970 UTC.
    pub created_at_ms: i64,
    /// When it was last noted as read, milliseconds since 1970 UTC; when it was stored, if never.
    pub read_at_ms: i64,
}

impl Artifact {
    /// Whether it needs no buffer of a whole chunk: it lies in one page of the file.
    pub fn is_small(&self) -> bool {
        self.size_bytes <= chunks::IN_PAGE_BYTES_MAX as u64
    }

    /// How many chunks it has.
    pub fn chunk_count(&self) -> u32 {
        chunks::count(self.size_bytes)
    }

    /// How long the chunk at `sequence` is, in bytes.
    pub fn chunk_bytes(&self, sequence: u32) -> usize {
        chunks::length(self.size_bytes, sequence)
    }
}

/// An artifact about to be stored: its key, its length and its provenance.
#[derive(Debug, Clone)]
pub struct NewArtifact {
    /// The scope it is for.
    pub scope: Scope,
    /// Another scope in which an entry of the same hash refuses it, too.
    pub unless_in: Option<Scope>,
    /// The hash it is stored under.
    pub hash: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The token that writes it.
    pub writer: TokenId,
    /// The address it came from.
    pub writer_address: String,
}

/// How storing an artifact ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is stored, whole.
    New,
    /// Another was stored under its key first; that one is unchanged.
    Exists,
    /// The token was revoked or expired while the upload ran; nothing is stored.
    TokenNotLive,
    /// Its isolated scope has no room for it; nothing is stored.
    OverQuota(Quota),
}

/// A limit of isolated scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// What one isolated scope may hold, in bytes.
    Scope(u64),
    /// What the isolated scopes of one workspace may hold together, in bytes.
    Workspace(u64),
    /// How many entries one isolated scope may hold.
    ScopeEntries(u64),
    /// How many entries the isolated scopes of one workspace may hold together.
    WorkspaceEntries(u64),
    /// How many isolated scopes of one workspace may hold entries.
    Scopes(u64),
}

/// Why an artifact was hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condemned {
    /// Its bytes fail their checksum.
    Damaged,
    /// Its upload ended before it was complete.
    Unfinished,
    /// Its upload was interrupted by a crash.
    Interrupted,
    /// An operator removed it.
    Purged,
    /// The limits let it go.
    Evicted(Reason),
}

/// Why an artifact was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The entries of its kind took more than their budget.
    Size,
    /// Nobody had read it for too long.
    Age,
    /// The disk had too little free.
    Disk,
}

impl Reason {
    /// The word for it, in the database and in front of people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Age => "age",
            Self::Disk => "disk",
        }
    }
}

impl Condemned {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Unfinished => "unfinished",
            Self::Interrupted => "interrupted",
            Self::Purged => "purged",
            Self::Evicted(reason) => reason.as_str(),
        }
    }

    /// Whether somebody may be reading it at this moment.
    pub(super) fn was_readable(self) -> bool {
        matches!(self, Self::Damaged | Self::Purged | Self::Evicted(_))
    }
}
