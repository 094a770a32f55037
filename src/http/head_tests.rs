//! Heads as bytes, most of them malformed, and the properties that hold for any bytes.

use proptest::prelude::*;

use super::*;
use crate::http::{HeadScanner, HeadSpan};

/// Scans and parses, as a connection does: `None` while the head is incomplete.
fn read_at_once(bytes: &[u8]) -> Result<Option<(HeadSpan, Head<'_>)>, Reject> {
    let Some(span) = HeadScanner::default().advance(bytes)? else {
        return Ok(None);
    };
    Head::parse(&bytes[span.start..span.end]).map(|head| Some((span, head)))
}

fn parse(text: &str) -> Result<Head<'_>, Reject> {
    let read = read_at_once(text.as_bytes())?;
    Ok(read.expect("the head is complete").1)
}

/// A head with further header lines.
fn with(lines: &str) -> String {
    format!("PUT /v1/cache/1 HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
}

fn refusal_of(lines: &str) -> Option<Reject> {
    parse(&with(lines)).err()
}

#[test]
fn request_of_the_nx_client_is_understood() {
    let head = parse(
        "PUT /v1/cache/123?x=%20 HTTP/1.1\r\naccept: */*\r\nauthorization: Bearer t\r\n\
         content-type: application/octet-stream\r\nhost: localhost:8787\r\ncontent-length: 300\r\n\r\n",
    );
    let expected = Head {
        method: Method::Put,
        path: "/v1/cache/123",
        authorization: Some(Authorization::new("Bearer t")),
        forwarded_for: None,
        content_length: Some(300),
        expects_continue: false,
        keep_alive: true,
        is_http_1_0: false,
    };
    assert_eq!(head, Ok(expected));
}

#[test]
fn content_length_is_one_plain_number_or_refused() {
    for value in [
        "-5",
        "+5",
        "5, 5",
        "0x5",
        "5 5",
        "",
        "5;",
        "18446744073709551616",
        "1e3",
        "٣",
    ] {
        let refusal = refusal_of(&format!("Content-Length: {value}"));
        let expected = if value.is_ascii() {
            Reject::ContentLength
        } else {
            Reject::ForbiddenByte
        };
        assert_eq!(refusal, Some(expected), "{value:?}");
    }
    for lines in [
        "Content-Length: 5\r\nContent-Length: 0",
        "Content-Length: 5\r\ncontent-length: 5",
    ] {
        assert_eq!(refusal_of(lines), Some(Reject::ContentLength), "{lines:?}");
    }
    let most = with("Content-Length:  18446744073709551615\t ");
    assert_eq!(
        parse(&most).map(|head| head.content_length),
        Ok(Some(u64::MAX))
    );
}

#[test]
fn transfer_encoding_of_any_kind_is_refused() {
    for lines in [
        "Transfer-Encoding: chunked",
        "transfer-encoding: identity",
        "Transfer-Encoding:",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(
            refusal_of(lines),
            Some(Reject::TransferEncoding),
            "{lines:?}"
        );
    }
}

#[test]
fn header_lines_that_parsers_disagree_on_are_refused() {
    for lines in [
        "Content-Length : 5",
        "Content-Length\t: 5",
        " Content-Length: 5",
        "A: b\r\n folded",
        "A: b\r\n\tfolded",
        ": nameless",
        "no colon",
        "A(b): c",
    ] {
        assert_eq!(refusal_of(lines), Some(Reject::HeaderLine), "{lines:?}");
    }
}

#[test]
fn target_that_is_no_plain_path_is_refused() {
    for target in [
        "http://a/v1",
        "*",
        "v1/cache",
        "a:80",
        "/v1/cache/%31",
        "/%2e%2e/x",
        "/a#b",
        "/a<b",
        "/a|b",
        "/a\\b",
        "/a?b#c",
        "/a?b\"c",
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(parse(&text), Err(Reject::Target), "{target:?}");
    }
}

#[test]
fn path_is_left_as_it_was_sent() {
    for path in [
        "/",
        "//v1/cache/1",
        "/a/../b",
        "/a;b",
        "/V1/Cache",
        "/-._~!$&'()*+,;=:@",
    ] {
        let text = format!("GET {path}?q HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(parse(&text).map(|head| head.path), Ok(path));
    }
}

#[test]
fn target_of_the_limit_passes_and_one_byte_more_does_not() {
    let of = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "a".repeat(length - 1)
        )
    };
    assert!(parse(&of(TARGET_BYTES_MAX)).is_ok());
    assert_eq!(parse(&of(TARGET_BYTES_MAX + 1)), Err(Reject::TargetTooLong));
}

#[test]
fn sixty_four_headers_pass_and_sixty_five_do_not() {
    let of = |count: usize| with("A: b\r\n".repeat(count - 1).trim_end());
    assert!(parse(&of(HEADERS_MAX)).is_ok());
    assert_eq!(parse(&of(HEADERS_MAX + 1)), Err(Reject::TooManyHeaders));
}

#[test]
fn only_two_versions_are_spoken() {
    let of = |version: &str| format!("GET / {version}\r\nHost: a\r\n\r\n");
    assert!(parse(&of("HTTP/1.1")).is_ok() && parse(&of("HTTP/1.0")).is_ok());
    for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9"] {
        assert_eq!(parse(&of(version)), Err(Reject::Version), "{version}");
    }
    for version in [
        "HTTP/1.1 ",
        "http/1.1",
        "HTTP/11",
        "HTTP/1.10",
        "HTTP/x.1",
        "HTTP/",
        "ICY",
    ] {
        assert_eq!(parse(&of(version)), Err(Reject::RequestLine), "{version:?}");
    }
}

#[test]
fn request_line_of_another_shape_is_refused() {
    for line in [
        "GET /",
        "GET",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "G@T / HTTP/1.1",
    ] {
        let text = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(parse(&text), Err(Reject::RequestLine), "{line:?}");
    }
}

#[test]
fn http_1_1_has_exactly_one_host_and_http_1_0_at_most_one() {
    let of = |version: &str, lines: &str| {
        parse(&format!("GET / HTTP/{version}\r\n{lines}\r\n")).map(|_| ())
    };
    assert_eq!(of("1.1", "Host: a:1\r\n"), Ok(()));
    assert_eq!(of("1.1", "Host:\r\n"), Ok(()));
    assert_eq!(of("1.0", ""), Ok(()));
    for (version, lines) in [
        ("1.1", ""),
        ("1.1", "Host: a\r\nHost: a\r\n"),
        ("1.0", "Host: a\r\nHost: b\r\n"),
        ("1.1", "Host: a, b\r\n"),
        ("1.1", "Host: a/b\r\n"),
    ] {
        assert_eq!(of(version, lines), Err(Reject::Host), "{version} {lines:?}");
    }
}

#[test]
fn expectation_is_100_continue_or_refused() {
    let accepted = with("Expect: 100-Continue\r\nContent-Length: 1");
    assert_eq!(parse(&accepted).map(|head| head.expects_continue), Ok(true));
    assert_eq!(refusal_of("Expect: a-miracle"), Some(Reject::Expectation));
    let old = "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(parse(old).map(|head| head.expects_continue), Ok(false));
}

#[test]
fn repeated_authorization_is_none_at_all() {
    let text = with("Authorization: Bearer a\r\nAuthorization: Bearer a");
    assert_eq!(parse(&text).map(|head| head.authorization), Ok(None));
}

#[test]
fn connection_is_kept_by_the_rules_of_each_version() {
    let rows = [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: TE, Close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        (
            "1.0",
            "Connection: keep-alive\r\nConnection: close\r\n",
            false,
        ),
    ];
    for (version, lines, kept) in rows {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(
            parse(&text).map(|head| head.keep_alive),
            Ok(kept),
            "{version} {lines:?}"
        );
    }
}

/// The end of reading a head, without borrowed parts.
#[derive(Debug, PartialEq)]
enum Outcome {
    Partial,
    Refused(Reject),
    Read(HeadSpan, String),
}

/// Feeds `bytes` in pieces of the given lengths (again and again), as reads from a socket would.
fn read_in_pieces(bytes: &[u8], lengths: &[usize]) -> Outcome {
    let mut scanner = HeadScanner::default();
    let mut filled = 0;
    for length in lengths.iter().cycle() {
        filled = (filled + length).min(bytes.len());
        match scanner.advance(&bytes[..filled]) {
            Err(reject) => return Outcome::Refused(reject),
            Ok(Some(span)) => return finish(bytes, span),
            Ok(None) if filled == bytes.len() => return Outcome::Partial,
            Ok(None) => {}
        }
    }
    unreachable!("the lengths are never empty")
}

fn finish(bytes: &[u8], span: HeadSpan) -> Outcome {
    match Head::parse(&bytes[span.start..span.end]) {
        Ok(head) => Outcome::Read(span, format!("{head:?}")),
        Err(reject) => Outcome::Refused(reject),
    }
}

/// Heads that are valid, or nearly: the interesting lines in any number and order.
fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "Host: localhost:8787",
        "Content-Length: 17",
        "Content-Length: 0x5",
        "Transfer-Encoding: chunked",
        "Authorization: Bearer abc",
        "Connection: close",
        "Expect: 100-continue",
        "X-Forwarded-For: 10.0.0.1",
        "accept: */*",
        " folded",
    ]);
    let first = prop::sample::select(vec![
        "GET /v1/cache/1 HTTP/1.1",
        "PUT //v1/cache/12?q HTTP/1.1",
        "HEAD / HTTP/1.0",
        "PRI * HTTP/2.0",
        "",
    ]);
    (first, prop::collection::vec(line, 0..70), any::<bool>()).prop_map(|(first, lines, blank)| {
        let mut text = if blank {
            "\r\n".to_owned()
        } else {
            String::new()
        };
        for line in std::iter::once(first).chain(lines) {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\nleft over");
        text.into_bytes()
    })
}

proptest! {
    #[test]
    fn any_split_into_reads_gives_the_same_result(
        bytes in any_head(),
        lengths in prop::collection::vec(1usize..40, 1..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = bytes;
        for (index, byte) in flips {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = read_in_pieces(&bytes, &[bytes.len()]);
        prop_assert_eq!(&whole, &read_in_pieces(&bytes, &lengths));
        prop_assert_eq!(&whole, &read_in_pieces(&bytes, &[1]));
    }

    #[test]
    fn any_mutation_of_a_valid_head_is_a_clean_error_or_a_clean_request(
        at in any::<prop::sample::Index>(),
        removed in 0usize..4,
        inserted in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut bytes = b"PUT /v1/cache/1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\
            Content-Length: 30\r\nConnection: keep-alive\r\n\r\n".to_vec();
        let from = at.index(bytes.len());
        let to = (from + removed).min(bytes.len());
        bytes.splice(from..to, inserted);
        if let Ok(Some((span, head))) = read_at_once(&bytes) {
            prop_assert!(span.end <= bytes.len());
            prop_assert!(bytes[..span.end].ends_with(b"\r\n\r\n"));
            prop_assert!(bytes[..span.end].iter().all(u8::is_ascii));
            prop_assert!(head.path.starts_with('/') && !head.path.contains('%'));
        }
    }

    #[test]
    fn any_bytes_at_all_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_at_once(&bytes);
        let _ = Head::parse(&bytes);
    }
}
