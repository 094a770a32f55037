//! What a path asks for.

/// The characters of a hash, and how many there may be.
const HASH_LENGTH_MAX: usize = 128;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'p> {
    /// What this server is, in one line.
    Root,
    /// Is the process alive?
    Health,
    /// Can it serve?
    Ready,
    /// An artifact; the hash is as it was sent, to be checked by [`Hash::parse`].
    Artifact(&'p str),
    /// Nothing.
    Unknown,
}

impl<'p> Route<'p> {
    pub fn of(path: &'p str) -> Self {
        // A base URL with a slash at its end gives `//v1/cache/…`.
        let path = path
            .strip_prefix('/')
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path);
        match path {
            "/" => Self::Root,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            _ => path
                .strip_prefix("/v1/cache/")
                .map_or(Self::Unknown, Self::Artifact),
        }
    }
}

/// A hash that may be a key: 1 to 128 of `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash<'p>(&'p str);

impl<'p> Hash<'p> {
    pub fn parse(text: &'p str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_hash = (1..=HASH_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_allowed);
        is_hash.then_some(Self(text))
    }

    pub fn as_str(self) -> &'p str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_of_the_base_url_changes_nothing() {
        assert_eq!(Route::of("//v1/cache/1"), Route::Artifact("1"));
        assert_eq!(Route::of("/v1/cache/1"), Route::Artifact("1"));
        assert_eq!(Route::of("//"), Route::Root);
        assert_eq!(Route::of("///v1/cache/1"), Route::Unknown);
    }

    #[test]
    fn what_is_not_a_path_of_ours_is_unknown() {
        for path in [
            "/v1",
            "/v1/cache",
            "/V1/cache/1",
            "/v2/cache/1",
            "/healthz/",
            "/metrics",
            "*",
        ] {
            assert_eq!(Route::of(path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn a_hash_is_1_to_128_harmless_characters() {
        for hash in ["1", "abc_DEF-123", &"9".repeat(128)] {
            assert!(Hash::parse(hash).is_some(), "{hash}");
        }
        for hash in ["", "..", "a/b", "a.b", "a b", "a%2e", "ä", &"9".repeat(129)] {
            assert!(Hash::parse(hash).is_none(), "{hash}");
        }
    }
}
