//! Takes a complete request head apart.
//!
//! httparse does the splitting; [`HeadScanner`](super::HeadScanner) has seen each byte before, and the
//! rules that httparse leaves to its caller are here and in `fields`.

use std::mem::MaybeUninit;

use super::fields::Fields;
use super::scan::TARGET_BYTES_MAX;
use super::{Authorization, Method, Reject};

/// The most headers of one request.
const HEADERS_MAX: usize = 64;

/// A request head that kept every rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'b> {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: &'b str,
    /// `Authorization`, where there is exactly one.
    pub authorization: Option<Authorization<'b>>,
    /// The last `X-Forwarded-For`.
    pub forwarded_for: Option<&'b str>,
    /// The length of the body, where one was announced.
    pub content_length: Option<u64>,
    /// The client keeps its body back until it is told to go on.
    pub expects_continue: bool,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
    /// The client spoke HTTP/1.0, so keeping the connection has to be said.
    pub is_http_1_0: bool,
}

impl<'b> Head<'b> {
    /// Parses the bytes of one whole head, as the scanner found them.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Reject> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let status = parsed
            .parse_with_uninit_headers(bytes, &mut headers)
            .map_err(|error| explain(error, bytes))?;
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Reject::RequestLine);
        };
        // The scanner and httparse must agree on where the head ends.
        if status != httparse::Status::Complete(bytes.len()) {
            return Err(Reject::HeaderLine);
        }
        let path = path(target)?;
        let mut fields = Fields::default();
        for header in parsed.headers.iter() {
            let value = std::str::from_utf8(header.value).map_err(|_| Reject::ForbiddenByte)?;
            fields.take(header.name, value)?;
        }
        let is_http_1_0 = minor == 0;
        fields.check_host(!is_http_1_0)?;
        Ok(Self::new(
            Method::from_name(method),
            path,
            is_http_1_0,
            &fields,
        ))
    }

    fn new(method: Method, path: &'b str, is_http_1_0: bool, fields: &Fields<'b>) -> Self {
        Self {
            method,
            path,
            authorization: fields.authorization(),
            forwarded_for: fields.forwarded_for,
            content_length: fields.content_length,
            // RFC 9110, section 10.1.1: from HTTP/1.0 the expectation is ignored.
            expects_continue: fields.expects_continue && !is_http_1_0,
            keep_alive: !fields.close && (fields.keep_alive || !is_http_1_0),
            is_http_1_0,
        }
    }
}

/// The path of a target in origin-form (RFC 9112, section 3.2.1). A hash needs no percent sign, and
/// two spellings of one path are one too many for what stands in front of us. What RFC 3986 keeps out of a
/// target, httparse lets in, and others refuse, escape or take for the end of it.
fn path(target: &str) -> Result<&str, Reject> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(Reject::TargetTooLong);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_plain = path.starts_with('/')
        && path.bytes().all(is_path)
        && query
            .bytes()
            .all(|byte| is_path(byte) || matches!(byte, b'?' | b'%'));
    if is_plain {
        Ok(path)
    } else {
        Err(Reject::Target)
    }
}

/// A byte of `pchar` (RFC 3986, section 3.3) or a slash, but no percent sign.
fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

/// The rule behind an error of httparse.
fn explain(error: httparse::Error, bytes: &[u8]) -> Reject {
    match error {
        httparse::Error::TooManyHeaders => Reject::TooManyHeaders,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Reject::HeaderLine,
        httparse::Error::Version if names_a_version(bytes) => Reject::Version,
        _ => Reject::RequestLine,
    }
}

/// The request line ends in a version of HTTP, though not in one that is spoken here.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    let word = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
