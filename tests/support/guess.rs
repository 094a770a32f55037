//! Tokens that nobody made: of the right form, as one who knows the form would guess them. The benchmark
//! uses this file, too.

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Another secret for the id of a token, with its check digits.
pub fn wrong_secret(random: impl FnMut() -> u64, token: &str) -> String {
    let id = &token[5..17];
    with_check_digits(&format!("csrv_{id}_{}", base62(random, 43)))
}

/// A token with an id that no token has, and its check digits.
pub fn unknown_id(random: impl FnMut() -> u64) -> String {
    let digits = base62(random, 12 + 43);
    let (id, secret) = digits.split_at(12);
    with_check_digits(&format!("csrv_{id}_{secret}"))
}

/// A token with one of its last 49 characters mistyped.
pub fn bad_check(mut random: impl FnMut() -> u64, token: &str) -> String {
    let at = 18 + (random() % 49) as usize;
    let digit = BASE62
        .iter()
        .position(|digit| *digit == token.as_bytes()[at]);
    let other = digit.expect("a digit") + 1 + (random() % 61) as usize;
    let other = char::from(BASE62[other % 62]);
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

fn base62(mut random: impl FnMut() -> u64, length: usize) -> String {
    let digit = |_| char::from(BASE62[(random() % 62) as usize]);
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
    let digits = digits.map(char::from);
    checked.chars().chain(digits).collect()
}
