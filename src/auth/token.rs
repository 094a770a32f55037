//! The form of a token: `csrv_{id}_{secret}{check}`.
//!
//! * id: 12 base62 characters, stored and shown in clear.
//! * secret: 43 characters, each drawn uniformly from 62 by the operating system. 43 draws from 62 are
//!   256.03 bits, as much as 32 random bytes, and every such string is a secret: there is nothing to
//!   decode and no second spelling of the same one.
//! * check: CRC-32 of all that stands before, as 6 base62 characters, most significant first. A mistyped
//!   token costs neither a look at the database nor a hash, and a scanner can tell a token from text
//!   that looks like one.
//!
//! [`TOKEN_PATTERN`] finds a token in logs and repositories.
//!
//! The secret is on the heap once, is wiped when dropped, and has no `Display`. It leaves this crate by
//! [`NewTokenText::expose`] alone. What a client sent is parsed without an allocation until the check
//! digits are right.

use std::fmt;

use rand::TryRng;
use rand::rngs::{SysError, SysRng};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::refusal::Refusal;

/// What every token begins with.
pub const TOKEN_PREFIX: &str = "csrv_";

/// The regular expression that finds a token in any text, for secret scanners.
pub const TOKEN_PATTERN: &str = "csrv_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}";

/// The longest value of `Authorization` that is looked at, in bytes. A token and its scheme take 74.
pub const AUTHORIZATION_MAX_LEN: usize = 256;

const SCHEME: &[u8] = b"Bearer";
const PREFIX: &[u8] = TOKEN_PREFIX.as_bytes();
const SEPARATOR: &[u8] = b"_";
const ID_LEN: usize = 12;
const SECRET_LEN: usize = 43;
const CHECK_LEN: usize = 6;
const TOKEN_LEN: usize = PREFIX.len() + ID_LEN + SEPARATOR.len() + SECRET_LEN + CHECK_LEN;

/// So many characters of a secret are no help to anybody; a file may have a name like that.
const HARMLESS_LEN: usize = 8;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The part of a token that may be shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicId([u8; ID_LEN]);

impl PublicId {
    /// The twelve characters.
    pub fn as_str(&self) -> &str {
        // Base62 by construction, so the default is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicId({self})")
    }
}

/// The part of a token that proves it: compared in constant time, wiped when dropped, never printed.
/// It is boxed so that moving it leaves no copies behind.
pub struct Secret(Box<Zeroizing<[u8; SECRET_LEN]>>);

impl Secret {
    fn copied_from(characters: &[u8; SECRET_LEN]) -> Self {
        let mut secret = Self::blank();
        secret.0.copy_from_slice(characters);
        secret
    }

    fn blank() -> Self {
        Self(Box::new(Zeroizing::new([0; SECRET_LEN])))
    }

    /// The characters themselves; for the hashes in this module only.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl ConstantTimeEq for Secret {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// A token that a client presents: well-formed, its check digits right, and not more than that.
#[derive(Debug, PartialEq, Eq)]
pub struct PresentedToken {
    id: PublicId,
    secret: Secret,
}

impl PresentedToken {
    /// Takes the value of `Authorization` apart: the scheme `Bearer` in any case, spaces, a token.
    ///
    /// A `Bearer` with nothing behind it is `Missing`: so it looks when the variable is set but empty,
    /// as for a pull request from a fork, which gets no secrets.
    pub fn from_authorization(value: Option<&str>) -> Result<Self, Refusal> {
        let value = value.unwrap_or_default().as_bytes();
        if value.is_empty() {
            return Err(Refusal::Missing);
        }
        if value.len() > AUTHORIZATION_MAX_LEN {
            return Err(Refusal::Malformed);
        }
        let (scheme, rest) = value
            .split_at_checked(SCHEME.len())
            .ok_or(Refusal::Malformed)?;
        let spaces_len = rest.iter().take_while(|byte| **byte == b' ').count();
        let token = &rest[spaces_len..];
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            Err(Refusal::Malformed)
        } else if token.is_empty() {
            Err(Refusal::Missing)
        } else if spaces_len == 0 {
            Err(Refusal::Malformed)
        } else {
            Self::parse(token)
        }
    }

    /// Takes the token itself apart, without a scheme before it or space around it.
    pub fn parse(token: &[u8]) -> Result<Self, Refusal> {
        let parts = Parts::of(token).ok_or(Refusal::Malformed)?;
        if *parts.check != check_digits(parts.checked) {
            return Err(Refusal::BadCheck);
        }
        Ok(Self {
            id: PublicId(*parts.id),
            secret: Secret::copied_from(parts.secret),
        })
    }

    /// The part that may be shown, and by which the store finds the token.
    pub fn public_id(&self) -> &PublicId {
        &self.id
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// The text of a token that was just made: shown once, to the one who asked for it.
pub struct NewTokenText(Zeroizing<String>);

impl NewTokenText {
    /// The whole token, the secret included; for the one line that prints it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(super) fn spell(id: &PublicId, secret: &Secret) -> Self {
        // The capacity is exact: growing would leave a copy of the secret behind.
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_LEN));
        for part in [PREFIX, &id.0, SEPARATOR, secret.expose()] {
            text.extend(part.iter().copied().map(char::from));
        }
        let check = check_digits(text.as_bytes());
        text.extend(check.map(char::from));
        Self(text)
    }
}

impl fmt::Debug for NewTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewTokenText(redacted)")
    }
}

/// Draws a new token from the random numbers of the operating system.
pub(super) fn draw() -> Result<(PublicId, Secret, NewTokenText), SysError> {
    let mut id = PublicId([0; ID_LEN]);
    draw_base62(&mut id.0)?;
    let mut secret = Secret::blank();
    draw_base62(secret.0.as_mut_slice())?;
    let text = NewTokenText::spell(&id, &secret);
    Ok((id, secret, text))
}

/// `text` without the secrets in it, for what is said about something that somebody typed: what begins
/// like a token, mistyped or cut short even, is shown up to the end of its id.
pub fn redacted(text: &str) -> String {
    let is_around = |c: char| c.is_whitespace() || "'\"`/,()".contains(c);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(TOKEN_PREFIX) {
        let (before, token) = rest.split_at(at);
        let end = token.find(is_around).unwrap_or(token.len());
        shown += before;
        if end > PREFIX.len() + ID_LEN + SEPARATOR.len() + HARMLESS_LEN {
            shown += &token[..token.floor_char_boundary(PREFIX.len() + ID_LEN)];
            shown += "_(secret)";
        } else {
            shown += &token[..end];
        }
        rest = &token[end..];
    }
    shown + rest
}

/// The id of the token whose secret, or the best part of it, stands somewhere in `text`: what must not be
/// repeated to anybody. Check digits do not matter, for a secret that lost a character is one all the same;
/// what is mangled more than that is left to [`redacted`], for it may be the path of a file.
pub fn find_secret(text: &str) -> Option<PublicId> {
    let after_prefix = text.match_indices(TOKEN_PREFIX);
    let mut rests = after_prefix.map(|(at, prefix)| &text.as_bytes()[at + prefix.len()..]);
    rests.find_map(|rest| {
        let (id, rest) = rest.split_first_chunk::<ID_LEN>()?;
        let secret = rest.strip_prefix(SEPARATOR)?;
        let known = secret
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric());
        let is_id = id.iter().all(u8::is_ascii_alphanumeric);
        (is_id && known.count() > HARMLESS_LEN).then_some(PublicId(*id))
    })
}

/// The parts of a text that has the form of a token.
struct Parts<'t> {
    id: &'t [u8; ID_LEN],
    secret: &'t [u8; SECRET_LEN],
    check: &'t [u8; CHECK_LEN],
    /// All that stands before the check digits.
    checked: &'t [u8],
}

impl<'t> Parts<'t> {
    fn of(token: &'t [u8]) -> Option<Self> {
        let (checked, check) = token.split_last_chunk()?;
        let (id, rest) = checked.strip_prefix(PREFIX)?.split_first_chunk()?;
        let secret: &[u8; SECRET_LEN] = rest.strip_prefix(SEPARATOR)?.try_into().ok()?;
        let mut digits = id.iter().chain(secret).chain(check);
        digits.all(u8::is_ascii_alphanumeric).then_some(Self {
            id,
            secret,
            check,
            checked,
        })
    }
}

fn check_digits(checked: &[u8]) -> [u8; CHECK_LEN] {
    let mut rest = crc32fast::hash(checked);
    let mut digits = [0; CHECK_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Fills `characters` with uniformly drawn base62 characters.
fn draw_base62(characters: &mut [u8]) -> Result<(), SysError> {
    // The largest multiple of 62 in a byte: what lies above would favour the first digits.
    const ACCEPTED_BELOW: u8 = 248;
    let mut bytes = Zeroizing::new([0_u8; 64]);
    let mut blanks = characters.iter_mut();
    while blanks.len() > 0 {
        SysRng.try_fill_bytes(bytes.as_mut_slice())?;
        let accepted = bytes.iter().filter(|byte| **byte < ACCEPTED_BELOW);
        // The bytes come first: a zip that ends with them has not taken a blank.
        for (byte, blank) in accepted.zip(blanks.by_ref()) {
            *blank = BASE62[usize::from(byte % 62)];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn new_text() -> String {
        draw().expect("random bytes").2.expose().to_owned()
    }

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    fn present(value: &str) -> Result<PresentedToken, Refusal> {
        PresentedToken::from_authorization(Some(value))
    }

    #[test]
    fn a_drawn_token_is_found_again_in_its_text() {
        for _ in 0..1000 {
            let (id, secret, text) = draw().expect("random bytes");
            let presented = present(&bearer(text.expose())).expect("well-formed");
            assert_eq!(*presented.public_id(), id);
            assert_eq!(*presented.secret(), secret);
        }
    }

    #[test]
    fn the_text_is_exactly_the_documented_form() {
        let (id, secret, text) = draw().expect("random bytes");
        let text = text.expose();
        let secret = std::str::from_utf8(secret.expose()).expect("base62");
        assert_eq!(text.len(), TOKEN_LEN);
        assert_eq!(text[..61], format!("csrv_{id}_{secret}"));
        assert!(text[61..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn no_token_fits_into_a_name() {
        assert_eq!(TOKEN_PREFIX, crate::store::SECRETS_BEGIN);
    }

    #[test]
    fn what_looks_like_a_token_is_shown_without_its_secret() {
        let id = "AbCdEfGhIjKl";
        let secret = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg";
        let token = format!("csrv_{id}_{secret}000000");
        let shown = format!("csrv_{id}_(secret)");
        for (text, expected) in [
            (token.clone(), shown.clone()),
            (
                format!("'{token}' and {token}, ({token})"),
                format!("'{shown}' and {shown}, ({shown})"),
            ),
            (format!("ä/{token}/ä"), format!("ä/{shown}/ä")),
            // Mistyped, cut short, with too much behind it.
            (token.replace('X', "."), shown.clone()),
            (token.replace('8', "ä"), shown.clone()),
            (token.replace("l_", "l-"), shown.clone()),
            (token[..27].to_owned(), shown.clone()),
            (format!("{token}{token}"), shown.clone()),
            (
                format!("csrv_{secret}"),
                "csrv_0123456789AB_(secret)".to_owned(),
            ),
        ] {
            assert_eq!(redacted(&text), expected);
        }
        let ids = format!("csrv_ csrv_{id} ./csrv_cache-2026.db csrv_{id}_01234567");
        for text in ["", "token", "csrv", &ids] {
            assert_eq!(redacted(text), text);
        }
    }

    #[test]
    fn a_secret_is_found_wherever_it_stands_and_a_name_is_none() {
        let (id, _, text) = draw().expect("random bytes");
        let text = text.expose();
        for (before, after) in [
            ("", ""),
            ("--name=", ""),
            ("Bearer ", "\n"),
            ("csrv_", ""),
            ("é", "_"),
        ] {
            let around = format!("{before}{text}{after}");
            assert_eq!(find_secret(&around), Some(id), "{before:?} {after:?}");
        }
        assert_eq!(find_secret(&text[..TOKEN_LEN - 1]), Some(id));
        for name in [
            "",
            "csrv_",
            "csrv_ci",
            &text[..18],
            "csrv_production12_x",
            &text[5..],
        ] {
            assert_eq!(find_secret(name), None);
        }
    }

    #[test]
    fn the_check_digits_are_crc_32_in_base62() {
        // 0xCBF43926 is the check value of CRC-32 in every catalogue; 0 and u32::MAX are the ends.
        assert_eq!(&check_digits(b"123456789"), b"3jZRME");
        assert_eq!(&check_digits(b""), b"000000");
        assert_eq!(&check_digits(&[0xff; 4]), b"4gfFC3");
    }

    #[test]
    fn no_token_at_all_is_missing() {
        assert_eq!(
            PresentedToken::from_authorization(None),
            Err(Refusal::Missing)
        );
        for value in ["", "Bearer", "bearer", "Bearer ", "Bearer    "] {
            assert_eq!(present(value), Err(Refusal::Missing), "{value:?}");
        }
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case_with_one_or_more_spaces() {
        let token = new_text();
        for lead in ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   "] {
            assert!(present(&format!("{lead}{token}")).is_ok(), "{lead:?}");
        }
    }

    #[test]
    fn anything_but_bearer_spaces_token_is_malformed() {
        let token = new_text();
        let values = [
            token.clone(),
            format!("Bearer{token}"),
            format!("Bearer\t{token}"),
            format!("Bearer: {token}"),
            format!(" Bearer {token}"),
            format!("Bearer {token} "),
            format!("Bearer {token}\n"),
            format!("Bearer \"{token}\""),
            format!("Bearer {token},{token}"),
            format!("Bearer Bearer {token}"),
            format!("Basic {token}"),
            format!("Token {token}"),
            format!("Bearer {}", &token[1..]),
            format!("Bearer {}", &token[..TOKEN_LEN - 1]),
            format!("Bearer {token}0"),
            "Bearer x".to_owned(),
            "B".to_owned(),
            "Bearé csrv_".to_owned(),
        ];
        for value in values {
            assert_eq!(present(&value), Err(Refusal::Malformed), "{value:?}");
        }
    }

    #[test]
    fn characters_outside_base62_are_malformed_even_with_the_right_check_digits() {
        let token = new_text();
        for place in (5..17).chain(18..61) {
            for byte in [
                b'-', b'_', b' ', b'+', b'/', b'%', b'\'', b'\0', b'\n', 0x7f, 0xc3, 0xff,
            ] {
                let mut checked = token.as_bytes()[..61].to_vec();
                checked[place] = byte;
                let check = check_digits(&checked);
                let changed = [checked.as_slice(), &check].concat();
                assert_eq!(
                    PresentedToken::parse(&changed),
                    Err(Refusal::Malformed),
                    "{place} {byte}"
                );
            }
        }
    }

    #[test]
    fn the_length_of_the_header_is_bounded() {
        let token = new_text();
        let spaces_max_len = AUTHORIZATION_MAX_LEN - SCHEME.len() - TOKEN_LEN;
        let longest = format!("Bearer{}{token}", " ".repeat(spaces_max_len));
        assert!(present(&longest).is_ok());
        let too_long = format!("Bearer{}{token}", " ".repeat(spaces_max_len + 1));
        assert_eq!(present(&too_long), Err(Refusal::Malformed));
        assert_eq!(present(&"é".repeat(1 << 20)), Err(Refusal::Malformed));
    }

    #[test]
    fn two_tokens_never_share_an_id_or_a_secret() {
        let (first_id, first_secret, _) = draw().expect("random bytes");
        let (second_id, second_secret, _) = draw().expect("random bytes");
        assert_ne!(first_id, second_id);
        assert_ne!(first_secret, second_secret);
    }

    #[test]
    fn secrets_differ_by_any_one_character() {
        let (_, secret, _) = draw().expect("random bytes");
        for place in 0..SECRET_LEN {
            let mut other = Secret::blank();
            other.0.copy_from_slice(secret.expose());
            assert_eq!(secret, other);
            other.0[place] ^= 1;
            assert_ne!(secret, other, "place {place}");
        }
    }

    #[test]
    fn characters_are_drawn_without_a_favourite() {
        // 2,000 of each are expected, 44 is the standard deviation; a plain `% 62` of a byte gives the
        // first eight characters 2,422.
        let mut drawn = vec![0; 62 * 2000];
        draw_base62(&mut drawn).expect("random bytes");
        let mut counts = BASE62.map(|character| (character, 0));
        for character in drawn {
            let count = counts.iter_mut().find(|(known, _)| *known == character);
            count.expect("a base62 character").1 += 1;
        }
        for (character, count) in counts {
            assert!(
                (1700..2300).contains(&count),
                "{}: {count}",
                char::from(character)
            );
        }
    }

    #[test]
    fn nothing_that_holds_a_secret_prints_it() {
        let (_, secret, text) = draw().expect("random bytes");
        let presented = present(&bearer(text.expose())).expect("well-formed");
        let printed = format!("{secret:?} {text:?} {presented:?} {presented:#?}");
        let spelled = std::str::from_utf8(secret.expose()).expect("base62");
        assert!(!printed.contains(&spelled[..6]), "{printed}");
        assert!(printed.contains("redacted"));
        assert!(printed.contains(presented.public_id().as_str()));
    }

    #[test]
    fn secrets_are_wiped_when_dropped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let (_, secret, text) = draw().expect("random bytes");
        wiped(&*secret.0);
        wiped(&text.0);
    }

    proptest! {
        #[test]
        fn every_change_of_one_character_is_refused(place in 0..TOKEN_LEN, byte in 0_u8..128) {
            let mut token = new_text().into_bytes();
            prop_assume!(token[place] != byte);
            token[place] = byte;
            let refusal = PresentedToken::parse(&token);
            prop_assert!(matches!(refusal, Err(Refusal::Malformed | Refusal::BadCheck)), "{:?}", refusal);
        }

        #[test]
        fn every_swap_of_two_neighbours_is_refused(place in 0..TOKEN_LEN - 1) {
            let mut token = new_text().into_bytes();
            prop_assume!(token[place] != token[place + 1]);
            token.swap(place, place + 1);
            prop_assert!(PresentedToken::parse(&token).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(PresentedToken::parse(&bytes).is_err());
            let _ = present(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn arbitrary_text_after_the_scheme_never_panics(text in "\\PC{0,80}") {
            prop_assert!(present(&bearer(&text)).is_err());
            prop_assert!(present(&text).is_err());
        }

        #[test]
        fn what_the_documented_pattern_finds_has_the_form_of_a_token(text in TOKEN_PATTERN) {
            // Its check digits are right once in 2^32.
            prop_assert_eq!(present(&bearer(&text)), Err(Refusal::BadCheck));
        }
    }
}
