//! Text that may be a token: what counts as one, and what of it is ever shown.

use cachesrv::auth::token::{find_secret, redacted};
use cachesrv::auth::{PresentedToken, Refusal};

const ID: std::ops::Range<usize> = 5..17;
const SECRET: std::ops::Range<usize> = 18..61;
const LEN: usize = 67;

/// Whatever the bytes are.
pub fn check(bytes: &[u8]) {
    let presented = PresentedToken::parse(bytes);
    let foreseen = match (has_form(bytes), has_check(bytes)) {
        (false, _) => Some(Refusal::Malformed),
        (true, false) => Some(Refusal::BadCheck),
        (true, true) => None,
    };
    assert_eq!(presented.as_ref().err(), foreseen.as_ref());
    if has_form(bytes) {
        check_mended(bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_header(text);
        check_shown(text);
    }
}

/// The form with its right check digits, which no fuzzer finds by itself.
fn check_mended(form: &[u8]) {
    let mut token = form[..SECRET.end].to_vec();
    token.extend(check_digits(&token));
    let presented = PresentedToken::parse(&token).expect("a token");
    assert_eq!(presented.public_id().as_str().as_bytes(), &token[ID]);
    let text = String::from_utf8(token).expect("ASCII");
    assert!(!format!("{presented:?}").contains(&text[SECRET]));
    let id = find_secret(&text).expect("it has a secret");
    assert_eq!(id.as_str(), &text[ID]);
    assert_eq!(redacted(&text), format!("{}_(secret)", &text[..ID.end]));
    for header in [format!("Bearer {text}"), format!("bEARER   {text}")] {
        assert!(PresentedToken::from_authorization(Some(&header)).is_ok());
    }
    for header in [
        format!("Bearer{text}"),
        format!("Basic {text}"),
        format!("Bearer {text} "),
    ] {
        assert!(PresentedToken::from_authorization(Some(&header)).is_err());
    }
}

/// As the value of `Authorization`.
fn check_header(text: &str) {
    let presented = PresentedToken::from_authorization(Some(text));
    let scheme = text.get(..6).unwrap_or_default();
    let rest = text.get(6..).unwrap_or_default();
    let token = rest.trim_start_matches(' ');
    let is_bearer = text.len() <= 256 && scheme.eq_ignore_ascii_case("bearer");
    if text.is_empty() || (is_bearer && token.is_empty()) {
        assert_eq!(presented, Err(Refusal::Missing));
    } else if is_bearer && rest.len() > token.len() {
        assert_eq!(presented, PresentedToken::parse(token.as_bytes()));
    } else {
        assert_eq!(presented, Err(Refusal::Malformed));
    }
}

/// In a message: what is shown has no secret in it, and says the same when it is shown again.
fn check_shown(text: &str) {
    let shown = redacted(text);
    assert_eq!(find_secret(&shown), None, "{shown:?}");
    assert_eq!(redacted(&shown), shown);
    if !text.contains("csrv_") {
        assert_eq!(shown, text);
    }
}

/// `csrv_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`
fn has_form(bytes: &[u8]) -> bool {
    let right = |(at, byte): (usize, &u8)| match at {
        0..5 => *byte == b"csrv_"[at],
        17 => *byte == b'_',
        _ => byte.is_ascii_alphanumeric(),
    };
    bytes.len() == LEN && bytes.iter().enumerate().all(right)
}

fn has_check(bytes: &[u8]) -> bool {
    bytes.len() == LEN && check_digits(&bytes[..SECRET.end]) == bytes[SECRET.end..]
}

/// CRC-32 by its definition, bit by bit, in base 62.
fn check_digits(checked: &[u8]) -> [u8; 6] {
    let crc = checked.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    let mut digits = *b"000000";
    let mut rest = !crc;
    for digit in digits.iter_mut().rev() {
        *digit =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}
