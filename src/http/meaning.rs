//! What a status says to whoever asks a cache: the words for it, so that no other layer needs the numbers.

/// What an answer means, by its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Here it is; it is stored; yes.
    Done,
    /// Stored, in the words of the older specification, which no published Nx takes.
    Accepted,
    /// It is somewhere else.
    Redirect,
    /// The token is none that counts.
    NotAuthorized,
    /// The token may not, or the cache cannot.
    Forbidden,
    /// There is no such thing.
    Missing,
    /// There is such a thing already.
    Exists,
    /// Too large for whoever answered; cachesrv never says so.
    TooLarge,
    /// Not at the moment.
    Unavailable,
    /// A proxy that has no server behind it.
    BadGateway,
    /// Anything else.
    Other,
}

impl Meaning {
    /// What this status means.
    pub fn of(status: u16) -> Self {
        match status {
            200 => Self::Done,
            202 => Self::Accepted,
            300..=399 => Self::Redirect,
            401 => Self::NotAuthorized,
            403 => Self::Forbidden,
            404 => Self::Missing,
            409 => Self::Exists,
            413 => Self::TooLarge,
            502 | 504 => Self::BadGateway,
            503 => Self::Unavailable,
            _ => Self::Other,
        }
    }
}
