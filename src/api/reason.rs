//! Why an answer is what it is, in one word: for the log line and for the metrics, which have a series for each.

use crate::auth;
use crate::http::Cut;

/// The words, each in one place; [`Reason::ALL`] is made of the same list.
macro_rules! reasons {
    ($($name:ident = $word:literal,)*) => {
        /// Why an answer is what it is, where that is not plain.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Reason { $($name,)* }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

reasons! {
    TokenMissing = "token_missing",
    TokenMalformed = "token_malformed",
    TokenBadCheck = "token_bad_check",
    TokenUnknown = "token_unknown",
    TokenWrongSecret = "token_wrong_secret",
    TokenRevoked = "token_revoked",
    TokenExpired = "token_expired",
    ScopeNotForToken = "scope_not_for_token",
    ScopeMissing = "scope_missing",
    ScopeMalformed = "scope_malformed",
    ScopeOfAnother = "scope_of_another",
    WorkspaceOfAnother = "workspace_of_another",
    ReadOnly = "read_only",
    NoMetrics = "no_metrics",
    Miss = "miss",
    Exists = "exists",
    BadHash = "bad_hash",
    TooLarge = "too_large",
    OverQuota = "over_quota",
    DiskFull = "disk_full",
    Busy = "busy",
    Damaged = "damaged",
    Internal = "internal",
    NoLength = "no_length",
    BadMethod = "bad_method",
    NoSuchPath = "no_such_path",
    NotReady = "not_ready",
    ClientClosed = "client_closed",
    ClientTooSlow = "client_too_slow",
    CutShort = "cut_short",
}

impl From<auth::Refusal> for Reason {
    fn from(refusal: auth::Refusal) -> Self {
        match refusal {
            auth::Refusal::Missing => Self::TokenMissing,
            auth::Refusal::Malformed => Self::TokenMalformed,
            auth::Refusal::BadCheck => Self::TokenBadCheck,
            auth::Refusal::Unknown => Self::TokenUnknown,
            auth::Refusal::WrongSecret => Self::TokenWrongSecret,
            auth::Refusal::Revoked => Self::TokenRevoked,
            auth::Refusal::Expired => Self::TokenExpired,
            auth::Refusal::ScopeNotForToken => Self::ScopeNotForToken,
            auth::Refusal::ScopeMissing => Self::ScopeMissing,
            auth::Refusal::ScopeMalformed => Self::ScopeMalformed,
            auth::Refusal::ScopeOfAnother => Self::ScopeOfAnother,
            auth::Refusal::WorkspaceOfAnother => Self::WorkspaceOfAnother,
            auth::Refusal::Busy => Self::Busy,
            auth::Refusal::Failed(_) => Self::Internal,
        }
    }
}

impl From<Cut> for Reason {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Closed => Self::ClientClosed,
            Cut::TimedOut => Self::ClientTooSlow,
            Cut::Aborted => Self::CutShort,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_operator_can_tell_all_reasons_apart() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn each_reason_has_its_own_number() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
    }
}
