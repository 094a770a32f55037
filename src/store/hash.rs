//! What an artifact is stored under, in its scope. Nx computes it; here it is a key and means nothing.

use super::name::SECRETS_BEGIN;

/// 1 to 128 of `[A-Za-z0-9_-]`, without the beginning of a secret: one that was pasted into a URL must not
/// be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash<'t>(&'t str);

/// The text is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use 1 to {} of A-Z, a-z, 0-9, '_' and '-'", Hash::LENGTH_MAX)]
pub struct NotAHash;

impl<'t> Hash<'t> {
    /// The longest hash, in characters.
    pub const LENGTH_MAX: usize = 128;

    /// Checks a text; nothing is decoded or corrected.
    pub fn parse(text: &'t str) -> Result<Self, NotAHash> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_hash = (1..=Self::LENGTH_MAX).contains(&text.len())
            && text.bytes().all(is_allowed)
            && !text.contains(SECRETS_BEGIN);
        if is_hash {
            Ok(Self(text))
        } else {
            Err(NotAHash)
        }
    }

    /// The hash.
    pub fn as_str(self) -> &'t str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_1_to_128_harmless_characters() {
        for hash in ["1", "abc_DEF-123", &"9".repeat(128)] {
            assert!(Hash::parse(hash).is_ok(), "{hash}");
        }
        for hash in [
            "",
            "..",
            "a/b",
            "a.b",
            "a b",
            "a%2e",
            "ä",
            "csrv_AbCdEfGhIjKl_0",
            &"9".repeat(129),
        ] {
            assert!(Hash::parse(hash).is_err(), "{hash}");
        }
    }
}
