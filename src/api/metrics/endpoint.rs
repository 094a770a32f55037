//! The labels of a request: what it asked for, and how it was answered. Closed sets, all of them here.

use crate::http::Method;

use super::super::route::Route;

/// What was asked for, as metrics know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Endpoint {
    Get,
    Head,
    Put,
    Root,
    Health,
    Ready,
    Metrics,
    /// A path or a method that there is not.
    Other,
    /// What never became a request.
    Rejected,
}

impl Endpoint {
    pub(super) const ALL: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Root,
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::Other,
        Self::Rejected,
    ];

    pub(in crate::api) fn of(route: &Route<'_>, method: Method) -> Self {
        match (route, method) {
            (Route::Artifact(_), Method::Get) => Self::Get,
            (Route::Artifact(_), Method::Head) => Self::Head,
            (Route::Artifact(_), Method::Put) => Self::Put,
            (_, Method::Put | Method::Other) | (Route::Unknown, _) => Self::Other,
            (Route::Root, _) => Self::Root,
            (Route::Health, _) => Self::Health,
            (Route::Ready, _) => Self::Ready,
            (Route::Metrics, _) => Self::Metrics,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Root => "root",
            Self::Health => "healthz",
            Self::Ready => "readyz",
            Self::Metrics => "metrics",
            Self::Other => "other",
            Self::Rejected => "rejected",
        }
    }

    /// The statuses that are answered to tokens that were admitted.
    pub(super) fn statuses_of_the_admitted(self) -> &'static [u16] {
        match self {
            Self::Get | Self::Head => &[200, 404, UNANSWERED],
            Self::Put => &[200, 202, 401, 403, 409, UNANSWERED],
            Self::Metrics => &[200, 403, UNANSWERED],
            _ => &[],
        }
    }

    /// The statuses that are answered to everybody else.
    pub(super) fn statuses_of_the_rest(self) -> &'static [u16] {
        match self {
            Self::Get | Self::Head => &[401, 404, UNANSWERED],
            Self::Put => &[401, 403, 411, UNANSWERED],
            Self::Root | Self::Health => &[200, 500],
            Self::Ready => &[200, 500, 503],
            Self::Metrics => &[200, 401, 403, 500, 503, UNANSWERED],
            Self::Other => &[404, 405, 500],
            Self::Rejected => &[400, 408, 414, 417, 431, 505],
        }
    }

    /// The histogram that its durations go into.
    pub(super) fn timed_as(self) -> usize {
        match self {
            Self::Get | Self::Head | Self::Put => self as usize,
            _ => TIMED.len() - 1,
        }
    }
}

/// Stands for the status of a request that ended without an answer.
pub(super) const UNANSWERED: u16 = 0;

/// Every status that is sent, with its label.
pub(super) const STATUSES: [(u16, &str); 17] = [
    (UNANSWERED, "none"),
    (200, "200"),
    (202, "202"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (411, "411"),
    (414, "414"),
    (417, "417"),
    (431, "431"),
    (500, "500"),
    (503, "503"),
    (505, "505"),
];

/// Which durations are told apart.
pub(super) const TIMED: [&str; 4] = ["get", "head", "put", "other"];
