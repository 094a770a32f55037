//! The words of the store: ids, records and limits that its callers share. No SQL, no behaviour.

/// The row id of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeId(pub i64);

/// The row id of a token; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId(pub i64);

/// What a token may do in its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads the trusted scope, writes nothing.
    Read,
    /// Reads and writes the trusted scope.
    Write,
}

/// A token as it is stored: its secret only as a hash.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    /// The row id.
    pub id: TokenId,
    /// The part of the token that may be shown: 12 base62 characters.
    pub public_id: String,
    /// The name of the workspace it belongs to.
    pub workspace: String,
    /// The trusted scope of that workspace.
    pub trusted_scope: ScopeId,
    /// What it may do.
    pub access: Access,
    /// Its name, unique among the living tokens of the workspace.
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
}

/// A token about to be stored.
#[derive(Debug, Clone)]
pub struct NewToken<'t> {
    /// 12 base62 characters.
    pub public_id: &'t str,
    /// What it may do.
    pub access: Access,
    /// Its name, if it gets one.
    pub name: Option<&'t str>,
    /// The Argon2id hash of the secret, a PHC string.
    pub secret_phc: &'t str,
    /// The first four bytes of the SHA-256 of the secret.
    pub secret_tag: [u8; 4],
    /// From when on it is refused, milliseconds since 1970 UTC.
    pub expires_at_ms: Option<i64>,
}
