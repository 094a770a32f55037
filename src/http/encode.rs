//! Response heads, as bytes.

use std::io::Write;

use super::{Reject, ResponseHead};

/// The answer to `Expect: 100-continue` once the application reads the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const NO_STORE: (&str, &str) = ("Cache-Control", "no-store");
const VARY: (&str, &str) = ("Vary", "Authorization");

/// What a response says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, which goes without saying in HTTP/1.1.
    KeepAlive,
    /// It stays open, and an HTTP/1.0 client has to be told.
    KeepAliveSaid,
    /// It closes after this response.
    Close,
}

/// Appends the head of a response to `out`.
pub fn head(out: &mut Vec<u8>, response: &ResponseHead<'_>, date: &[u8], persistence: Persistence) {
    out.extend_from_slice(b"HTTP/1.1 ");
    number(out, u64::from(response.status.0));
    out.push(b' ');
    out.extend_from_slice(response.status.reason_phrase().as_bytes());
    header(out, b"Date", date);
    header(out, b"Content-Type", response.content_type.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    number(out, response.content_length);
    match persistence {
        Persistence::KeepAlive => {}
        Persistence::KeepAliveSaid => header(out, b"Connection", b"keep-alive"),
        Persistence::Close => header(out, b"Connection", b"close"),
    }
    for (name, value) in response.headers {
        header(out, name.as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends the whole answer to a request that broke a rule.
pub fn rejection(out: &mut Vec<u8>, reject: Reject, date: &[u8]) {
    let text = reject.reason();
    let response = ResponseHead {
        status: reject.status(),
        content_type: "text/plain",
        content_length: text.len() as u64 + 1,
        // Whatever was asked for: one URL has different content for different tokens.
        headers: if reject == Reject::PlainOnTlsPort {
            &[NO_STORE, VARY, ("WWW-Authenticate", "Bearer")]
        } else {
            &[NO_STORE, VARY]
        },
    };
    head(out, &response, date, Persistence::Close);
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// Appends the line end before a header, and the header.
fn header(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    let safe = |byte: u8| if byte.is_ascii_control() { b'?' } else { byte };
    out.extend(value.iter().map(|&byte| safe(byte)));
}

/// Appends a decimal number.
fn number(out: &mut Vec<u8>, value: u64) {
    // A write to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Status;

    const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn encoded(headers: &[(&'static str, &str)], persistence: Persistence) -> String {
        let response = ResponseHead {
            status: Status(200),
            content_type: "text/plain",
            content_length: 42,
            headers,
        };
        let mut out = Vec::new();
        head(&mut out, &response, DATE, persistence);
        String::from_utf8(out).expect("heads are ASCII here")
    }

    #[test]
    fn head_is_exactly_these_bytes() {
        assert_eq!(
            encoded(&[("Cache-Control", "no-store")], Persistence::Close),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\n\
             Content-Length: 42\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
        );
    }

    #[test]
    fn only_http_1_0_is_told_of_keep_alive() {
        assert!(!encoded(&[], Persistence::KeepAlive).contains("Connection"));
        assert!(
            encoded(&[], Persistence::KeepAliveSaid).contains("\r\nConnection: keep-alive\r\n")
        );
    }

    #[test]
    fn line_ends_in_a_value_begin_no_header() {
        let text = encoded(&[("X-A", "a\r\nX-Evil: 1\0")], Persistence::KeepAlive);
        assert!(text.contains("\r\nX-A: a??X-Evil: 1?\r\n"), "{text:?}");
    }

    #[test]
    fn rejection_announces_the_length_it_has_and_closes() {
        let mut out = Vec::new();
        rejection(&mut out, Reject::Version, DATE);
        let text = String::from_utf8(out).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"));
        assert!(head.contains("\r\nConnection: close"));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
    }
}
