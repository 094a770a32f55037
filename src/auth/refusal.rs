//! Why a request gets no grant, with one sentence for the Nx user. The word for the log is in `api/reason.rs`.
//!
//! Who is told what:
//!
//! * What follows from the header alone (`Missing`, `Malformed`, `BadCheck`) is told to anybody.
//! * An unknown id and a wrong secret read the same, so that nobody learns by guessing which ids exist.
//!   The log tells them apart.
//! * `Revoked` and `Expired` are told only to one whose secret has the right pre-tag. The holder of a dead
//!   token learns why his build has no cache, also by other secrets that he searched out to have the tag
//!   of his own; one who holds no secret of that id has the tag once in 2^32 guesses, and reads what he
//!   reads for every other guess.
//! * What is wrong with the place that the URL says is told to the holder of a living token only. Whether
//!   another workspace or scope exists is told to nobody.
//! * `Busy` and `Failed` are this server's trouble, not the client's: see [`Refusal::is_internal`].
//!
//! No sentence names a token: an id is not a secret, but what an Nx user reads ends in build logs.

use super::hash::HashError;

/// Why a request gets no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no token in the request.
    Missing,
    /// What stands in `Authorization` has not the form of a token.
    Malformed,
    /// It has the form, but its check digits are wrong: a character was lost or mistyped.
    BadCheck,
    /// No token has this id.
    Unknown,
    /// The id exists, the secret is another one.
    WrongSecret,
    /// The token was revoked.
    Revoked,
    /// The token's time is over.
    Expired,
    /// The URL names a scope, and the token is not an isolated one.
    ScopeNotForToken,
    /// The token needs a URL that names a scope.
    ScopeMissing,
    /// What the URL names as a scope is no name.
    ScopeMalformed,
    /// The token is bound to another scope than the URL names.
    ScopeOfAnother,
    /// The token belongs to another workspace than the URL names.
    WorkspaceOfAnother,
    /// The secret could not be verified in time: too many first verifications at once.
    Busy,
    /// The secret could not be verified at all.
    Failed(HashError),
}

impl Refusal {
    /// What the Nx user reads: what is wrong and what to do, in one sentence.
    pub fn message(self) -> &'static str {
        match self {
            Self::Missing => {
                "this cache needs a token: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to one made by \
                 `cachesrv token create`"
            }
            Self::Malformed => {
                "this is not a token of this cache: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to the \
                 whole line that `cachesrv token create` printed, which begins with csrv_"
            }
            Self::BadCheck => {
                "this token was mistyped or cut short, its check digits are wrong: copy the whole line \
                 that `cachesrv token create` printed into NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN"
            }
            Self::Unknown | Self::WrongSecret => {
                "this cache does not know this token: check that it was made for this server, or set \
                 NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made by `cachesrv token create`"
            }
            Self::Revoked => {
                "this token was revoked: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made \
                 by `cachesrv token create`"
            }
            Self::Expired => {
                "this token has expired: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made \
                 by `cachesrv token create`"
            }
            Self::ScopeNotForToken => {
                "this token is not for isolated scopes: take /s/... out of \
                 NX_SELF_HOSTED_REMOTE_CACHE_SERVER, or use a token made by `cachesrv token create --isolated`"
            }
            Self::ScopeMissing => {
                "this token needs an isolated scope: put its name into the URL, as in \
                 NX_SELF_HOSTED_REMOTE_CACHE_SERVER=https://cache.example/s/pr-123"
            }
            Self::ScopeMalformed => {
                "what stands behind /s/ in NX_SELF_HOSTED_REMOTE_CACHE_SERVER is not the name of a scope: use \
                 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', but not '.' or '..'"
            }
            Self::ScopeOfAnother => {
                "this token is bound to another isolated scope: take /s/... out of \
                 NX_SELF_HOSTED_REMOTE_CACHE_SERVER, or use a token made by `cachesrv token create --isolated`"
            }
            Self::WorkspaceOfAnother => {
                "this token does not belong to the workspace behind /w/ in \
                 NX_SELF_HOSTED_REMOTE_CACHE_SERVER: correct it, or use a token made by \
                 `cachesrv token create --workspace`"
            }
            Self::Busy => "this cache is too busy to check a token: try again in a minute",
            Self::Failed(_) => {
                "this cache could not check the token: its operator finds the cause in the server's log"
            }
        }
    }

    /// Whether the token is alive and its secret right, and only the place that the URL says is not its own.
    pub fn is_about_place(self) -> bool {
        matches!(
            self,
            Self::ScopeNotForToken
                | Self::ScopeMissing
                | Self::ScopeMalformed
                | Self::ScopeOfAnother
                | Self::WorkspaceOfAnother
        )
    }

    /// Whether it is told to the holder of a token only, so that the log may name the token.
    pub fn is_told_to_holder(self) -> bool {
        self.is_about_place() || matches!(self, Self::Revoked | Self::Expired)
    }

    /// Whether the server is at fault, and the token may be good: such a request is answered like any
    /// other internal error, never like a bad credential.
    pub fn is_internal(self) -> bool {
        matches!(self, Self::Busy | Self::Failed(_))
    }
}

impl From<HashError> for Refusal {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Busy => Self::Busy,
            other => Self::Failed(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 14] = [
        Refusal::Missing,
        Refusal::Malformed,
        Refusal::BadCheck,
        Refusal::Unknown,
        Refusal::WrongSecret,
        Refusal::Revoked,
        Refusal::Expired,
        Refusal::ScopeNotForToken,
        Refusal::ScopeMissing,
        Refusal::ScopeMalformed,
        Refusal::ScopeOfAnother,
        Refusal::WorkspaceOfAnother,
        Refusal::Busy,
        Refusal::Failed(HashError::Abandoned),
    ];

    #[test]
    fn a_guesser_reads_the_same_for_an_unknown_id_and_a_wrong_secret() {
        assert_eq!(Refusal::Unknown.message(), Refusal::WrongSecret.message());
    }

    #[test]
    fn every_refusal_of_a_credential_names_the_variable_to_set() {
        for refusal in ALL.into_iter().filter(|refusal| !refusal.is_internal()) {
            let message = refusal.message();
            let variables = [
                "NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN",
                "NX_SELF_HOSTED_REMOTE_CACHE_SERVER",
            ];
            assert!(
                variables.iter().any(|variable| message.contains(variable)),
                "{refusal:?}"
            );
            let ways_out = ["`cachesrv token create", "/s/pr-123", "1 to 64"];
            assert!(
                ways_out.iter().any(|way| message.contains(way)),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn every_message_is_one_line_without_stray_spaces() {
        for refusal in ALL {
            assert!(!refusal.message().contains(['\n', '\r']), "{refusal:?}");
            assert!(!refusal.message().contains("  "), "{refusal:?}");
        }
    }

    #[test]
    fn a_busy_server_does_not_blame_the_token() {
        assert_eq!(Refusal::from(HashError::Busy), Refusal::Busy);
        assert!(Refusal::Busy.is_internal());
        assert!(Refusal::from(HashError::Undecodable).is_internal());
        assert!(!Refusal::WrongSecret.is_internal());
    }
}
