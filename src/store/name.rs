//! Names that people choose for scopes, workspaces and tokens. They end up in URLs, logs, commands and in
//! front of people, so they are plain: one spelling each, nothing to escape, no path, and no secret that
//! somebody pasted into the wrong place.

use std::fmt;

/// What no name contains, because a secret begins like that.
pub const SECRETS_BEGIN: &str = "csrv_";

/// 1 to 64 of `[A-Za-z0-9._-]`, neither `.` nor `..`, without [`SECRETS_BEGIN`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// Other characters, none, too many, or a path.
    #[error(
        "use 1 to {} of A-Z, a-z, 0-9, '.', '_' and '-', but not '.' or '..'",
        Name::LENGTH_MAX
    )]
    Form,
    /// [`SECRETS_BEGIN`] is in it.
    #[error("a name with '{SECRETS_BEGIN}' in it might be a secret, choose another one")]
    Secret,
}

impl Name {
    /// The longest name, in characters.
    pub const LENGTH_MAX: usize = 64;

    /// Checks a text; nothing is decoded or corrected.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_short = (1..=Self::LENGTH_MAX).contains(&text.len());
        let is_path = text == "." || text == "..";
        if text.contains(SECRETS_BEGIN) {
            Err(NotAName::Secret)
        } else if is_short && !is_path && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(NotAName::Form)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_1_to_64_plain_characters() {
        let longest = "x".repeat(64);
        for name in [
            "a", "pr-1", "-", "_", "...", ".a", "A.b_C-9", "trusted", &longest,
        ] {
            let parsed = Name::parse(name);
            assert_eq!(parsed.as_ref().map(Name::as_str), Ok(name));
        }
    }

    #[test]
    fn anything_else_is_none() {
        let too_long = "x".repeat(65);
        for text in [
            "", ".", "..", "a/b", "/", "a b", "a\0", "%2e%2e", "a%20b", "pr#1", "ä", "a\n", "*",
            "~", "\\", &too_long,
        ] {
            assert_eq!(Name::parse(text), Err(NotAName::Form), "{text:?}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_none() {
        for text in ["csrv_", "pr-csrv_0", "csrv_AbCdEfGhIjKl_0"] {
            assert_eq!(Name::parse(text), Err(NotAName::Secret), "{text:?}");
        }
    }
}
