//! The one table from what went wrong to a status, a sentence for the client and a word for the log.

use crate::auth;
use crate::http::{Method, Status};
use crate::store::{NotAHash, Quota, StoreError};
use crate::units::print_size;

use super::reason::Reason;

/// Why a request does not get what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No token, or none that counts.
    Credential(auth::Refusal),
    /// The token may read only; its name or id.
    ReadOnly(String),
    /// Metrics need a token.
    ScrapeWithoutToken,
    /// Metrics are for whoever runs the cache.
    NoMetrics,
    /// Nothing is stored under this hash where the token may look.
    Miss,
    /// Something is stored under this hash already.
    Exists,
    /// The hash is none.
    Hash,
    /// The artifact is larger than this server takes.
    TooLarge {
        /// What was announced.
        size_bytes: u64,
        /// What is allowed.
        max_bytes: u64,
    },
    /// The isolated scope has no room for it.
    OverQuota(Quota),
    /// The disk has no room for it.
    DiskFull,
    /// The database, or the check of a token, was busy for too long.
    Busy,
    /// What is stored is damaged; it was put aside.
    Damaged,
    /// A mistake of ours, or of the disk.
    Internal,
    /// A PUT that does not say how long it is.
    LengthRequired,
    /// The path does not know this method; those that it knows.
    Method(&'static str),
    /// There is no such path; what there is.
    NoSuchPath(&'static str),
}

impl Refusal {
    /// The status, which for the server's own trouble depends on what Nx survives.
    pub fn status(&self, method: Method) -> Status {
        // What a GET survives is a miss, what a PUT survives is "not stored".
        let harmless = if method == Method::Put { 403 } else { 404 };
        Status(match self {
            Self::Credential(_) | Self::ScrapeWithoutToken => 401,
            Self::ReadOnly(_) | Self::NoMetrics | Self::TooLarge { .. } | Self::OverQuota(_) => 403,
            Self::Exists => 409,
            Self::Miss | Self::NoSuchPath(_) => 404,
            Self::Hash | Self::DiskFull | Self::Busy | Self::Damaged | Self::Internal => harmless,
            Self::LengthRequired => 411,
            Self::Method(_) => 405,
        })
    }

    /// What the client reads: what is wrong and what to do, in one sentence.
    pub fn message(&self) -> String {
        match self {
            Self::Credential(refusal) => refusal.message().to_owned(),
            Self::ReadOnly(token) => format!(
                "token '{token}' is read-only: create one with `cachesrv token create --write`"
            ),
            Self::ScrapeWithoutToken => {
                "metrics need a token: send one made by `cachesrv token create` as Authorization: Bearer, or set \
                 metrics.listen"
                    .to_owned()
            }
            Self::NoMetrics => {
                "metrics are for tokens of the workspace 'default' that are not isolated: make one with \
                 `cachesrv token create`"
                    .to_owned()
            }
            Self::Miss => "nothing is stored under this hash".to_owned(),
            Self::Exists => {
                "an artifact is stored under this hash already; it never changes".to_owned()
            }
            Self::Hash => format!("the URL ends in no hash: {NotAHash}"),
            Self::TooLarge {
                size_bytes,
                max_bytes,
            } => format!(
                "the artifact has {}, this cache takes {}: raise limits.artifact_max_size",
                print_size(*size_bytes),
                print_size(*max_bytes),
            ),
            Self::OverQuota(quota) => over_quota(*quota),
            Self::DiskFull => "the disk of this cache is full: free some space on it, or lower \
                               eviction.min_free_disk"
                .to_owned(),
            Self::Busy => {
                "this cache is too busy at the moment; the artifact was not moved".to_owned()
            }
            Self::Damaged => {
                "what was stored under this hash is damaged and was put aside".to_owned()
            }
            Self::Internal => "internal error of the cache; its log says more".to_owned(),
            Self::LengthRequired => "a PUT must announce its length in Content-Length".to_owned(),
            Self::Method(allowed) => format!("this path knows {allowed}"),
            Self::NoSuchPath(what_there_is) => format!("there is nothing here: {what_there_is}"),
        }
    }

    /// The word for the log line and the metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Credential(refusal) => Reason::from(*refusal),
            Self::ScrapeWithoutToken => Reason::TokenMissing,
            Self::ReadOnly(_) => Reason::ReadOnly,
            Self::NoMetrics => Reason::NoMetrics,
            Self::Miss => Reason::Miss,
            Self::Exists => Reason::Exists,
            Self::Hash => Reason::BadHash,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::OverQuota(_) => Reason::OverQuota,
            Self::DiskFull => Reason::DiskFull,
            Self::Busy => Reason::Busy,
            Self::Damaged => Reason::Damaged,
            Self::Internal => Reason::Internal,
            Self::LengthRequired => Reason::NoLength,
            Self::Method(_) => Reason::BadMethod,
            Self::NoSuchPath(_) => Reason::NoSuchPath,
        }
    }

    /// The header that this status must carry (RFC 9110, 11.6.1 and 15.5.6).
    pub fn header(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Credential(_) | Self::ScrapeWithoutToken => Some(("WWW-Authenticate", "Bearer")),
            Self::Method(allowed) => Some(("Allow", allowed)),
            _ => None,
        }
    }

    /// Whether the operator should hear of it even where requests are not logged.
    pub fn is_trouble(&self) -> bool {
        matches!(
            self,
            Self::TooLarge { .. } | Self::OverQuota(_) | Self::DiskFull | Self::Busy
        )
    }
}

fn over_quota(quota: Quota) -> String {
    match quota {
        Quota::Scope(max_bytes) => format!(
            "this isolated scope may hold {}: empty it with `cachesrv purge --scope`, or raise \
             limits.isolated_scope_max_size",
            print_size(max_bytes)
        ),
        Quota::Workspace(max_bytes) => format!(
            "the isolated scopes of this workspace may hold {} together: empty some with \
             `cachesrv purge --scope`, or raise limits.isolated_max_size",
            print_size(max_bytes)
        ),
        Quota::ScopeEntries(entries_max) => format!(
            "this isolated scope holds {entries_max} artifacts, and no more: empty it with \
             `cachesrv purge --scope`"
        ),
        Quota::WorkspaceEntries(entries_max) => format!(
            "the isolated scopes of this workspace hold {entries_max} artifacts together, and no more: \
             empty some with `cachesrv purge --scope`"
        ),
        Quota::Scopes(scopes_max) => format!(
            "{scopes_max} isolated scopes of this workspace hold entries already: empty some with \
             `cachesrv purge --scope`"
        ),
    }
}

impl From<auth::Refusal> for Refusal {
    fn from(refusal: auth::Refusal) -> Self {
        match refusal {
            auth::Refusal::Busy => Self::Busy,
            refusal if refusal.is_internal() => Self::Internal,
            refusal => Self::Credential(refusal),
        }
    }
}

impl From<NotAHash> for Refusal {
    fn from(_: NotAHash) -> Self {
        Self::Hash
    }
}

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Busy | StoreError::Closed => Self::Busy,
            StoreError::DiskFull => Self::DiskFull,
            StoreError::Damaged { .. } => Self::Damaged,
            StoreError::Incomplete | StoreError::Sqlite { .. } => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_TROUBLE: [Refusal; 4] = [
        Refusal::DiskFull,
        Refusal::Busy,
        Refusal::Damaged,
        Refusal::Internal,
    ];

    #[test]
    fn the_servers_own_trouble_is_a_miss_for_get_and_not_stored_for_put() {
        for refusal in OWN_TROUBLE {
            assert_eq!(refusal.status(Method::Get), Status(404), "{refusal:?}");
            assert_eq!(refusal.status(Method::Head), Status(404), "{refusal:?}");
            assert_eq!(refusal.status(Method::Put), Status(403), "{refusal:?}");
        }
    }

    #[test]
    fn a_busy_check_of_a_token_does_not_read_like_a_bad_token() {
        assert_eq!(Refusal::from(auth::Refusal::Busy), Refusal::Busy);
        let bad = Refusal::from(auth::Refusal::Revoked);
        assert_eq!(bad.status(Method::Get), Status(401));
    }
}
