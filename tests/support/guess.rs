//! Tokens that nobody made: of the right form, as one who knows the form would guess them.

use super::{Random, Token};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Another secret for the id of a token, with its check digits.
pub fn wrong_secret(random: &mut Random, token: &Token) -> String {
    let secret = base62(random, 43);
    with_check_digits(&format!("csrv_{}_{secret}", token.id))
}

/// A token with an id that no token has, and its check digits.
pub fn unknown_id(random: &mut Random) -> String {
    let (id, secret) = (base62(random, 12), base62(random, 43));
    with_check_digits(&format!("csrv_{id}_{secret}"))
}

/// A token with one of its last 49 characters mistyped.
pub fn bad_check(random: &mut Random, token: &Token) -> String {
    let mut mistyped = token.secret.clone().into_bytes();
    let at = 18 + random.below(49) as usize;
    let digit = BASE62.iter().position(|digit| *digit == mistyped[at]);
    let other = digit.expect("a digit") + 1 + random.below(61) as usize;
    mistyped[at] = BASE62[other % 62];
    String::from_utf8(mistyped).expect("base62")
}

fn base62(random: &mut Random, length: usize) -> String {
    let digit = |_| char::from(BASE62[random.below(62) as usize]);
    (0..length).map(digit).collect()
}

/// CRC-32 of all that stands before, as six base62 digits, the most significant first.
fn with_check_digits(checked: &str) -> String {
    let mut rest = crc32fast::hash(checked.as_bytes());
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    format!(
        "{checked}{}",
        str::from_utf8(&digits).expect("base62 digits")
    )
}
