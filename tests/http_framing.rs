//! Every framing rule and limit of a request head, on a real socket: what is refused gets its status,
//! an answer that says `Connection: close`, and nothing after it is taken for a request.

#[path = "support/http_app.rs"]
mod app;
#[path = "support/raw.rs"]
mod raw;

use app::TestServer;
use cachesrv::server::Limits;
use raw::{get, put};

/// A request that must never be answered: it hides behind one that is malformed.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

fn assert_refused(status: u16, request: &str) {
    let server = TestServer::start(Limits::default());
    let mut client = server.connect();
    client.send(request);
    client.send(SMUGGLED);
    let answer = client.answer();
    assert_eq!(answer.status, status, "{request:?}: {answer:?}");
    assert!(answer.closes(), "{request:?}: {answer:?}");
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    client.finish_sending();
    assert_eq!(
        client.rest().expect("no reset"),
        b"",
        "{request:?}: nothing after the refusal"
    );
    assert_eq!(
        server.app.handled_count(),
        0,
        "{request:?} reached the application"
    );
    let rejections = server.app.rejections.lock().unwrap();
    assert_eq!(rejections.len(), 1, "the refusal was reported once");
    assert!(rejections[0].0.is_loopback() && rejections[0].1 == status);
}

/// `lines` after a valid request line and `Host`, then a body of five bytes.
fn with(lines: &str) -> String {
    format!("PUT /echo HTTP/1.1\r\nHost: t\r\n{lines}\r\n\r\n12345")
}

#[test]
fn every_ambiguous_length_is_refused() {
    for lines in [
        "Content-Length: 5\r\nContent-Length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Content-Length: -5",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999",
    ] {
        assert_refused(400, &with(lines));
    }
}

#[test]
fn every_ambiguous_line_is_refused() {
    for lines in [
        "Content-Length : 5",
        "Content-Length\t: 5",
        "A: b\r\n folded: 5",
        "A: b\r\n\tfolded",
        "no colon",
        ": 5",
        "A: b\nContent-Length: 5",
        "A: b\rContent-Length: 5",
        "A: b\0c",
        "A: b\u{e9}",
        "A: b\u{7f}",
        "\u{e9}: b",
    ] {
        assert_refused(400, &with(lines));
    }
    assert_refused(400, "GET / HTTP/1.1\nHost: t\n\n");
    assert_refused(400, "\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_refused(400, "\nGET / HTTP/1.1\r\nHost: t\r\n\r\n");
}

#[test]
fn every_target_but_a_plain_path_is_refused() {
    for target in [
        "http://t/echo",
        "*",
        "t:80",
        "echo",
        "/v1/cache/%31",
        "/%2e%2e/a",
        "/a#b",
    ] {
        assert_refused(400, &format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
    }
}

#[test]
fn every_other_request_line_is_refused() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "G@T / HTTP/1.1",
        "GET / XTTP/1.1",
        "GET /\t HTTP/1.1",
    ] {
        assert_refused(400, &format!("{line}\r\nHost: t\r\n\r\n"));
    }
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9"] {
        assert_refused(505, &format!("GET / {version}\r\nHost: t\r\n\r\n"));
    }
    assert_refused(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[test]
fn http_1_1_without_exactly_one_host_is_refused() {
    for lines in [
        "",
        "Host: t\r\nHost: t\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
    ] {
        assert_refused(400, &format!("GET / HTTP/1.1\r\n{lines}\r\n"));
    }
}

#[test]
fn expectation_of_anything_else_is_refused() {
    assert_refused(417, &with("Expect: 200-ok\r\nContent-Length: 5"));
}

#[test]
fn head_target_and_header_count_over_their_limits_are_refused() {
    assert_refused(414, &get(&format!("/{}", "a".repeat(2048))));
    assert_refused(414, &get(&format!("/{}", "a".repeat(100_000))));
    assert_refused(431, &with(&"A: b\r\n".repeat(65)));
    assert_refused(431, &with(&format!("A: {}", "b".repeat(16 * 1024))));
    assert_refused(431, &with(&format!("A: {}", "b".repeat(8 << 20))));
}

#[test]
fn head_target_and_header_count_at_their_limits_are_served() {
    let server = TestServer::start(Limits::default());
    let mut client = server.connect();
    assert_eq!(client.get(&format!("/{}", "a".repeat(2047))).status, 404);
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: t\r\n{}\r\n",
        "A: b\r\n".repeat(63)
    ));
    assert_eq!(client.answer().status, 404);
    let prefix = "GET /bytes/3 HTTP/1.1\r\nHost: t\r\nA: ";
    let fill = "b".repeat(16 * 1024 - prefix.len() - 4);
    client.send(format!("{prefix}{fill}\r\n\r\n"));
    assert_eq!(client.answer().body, app::pattern(3));
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    let server = TestServer::start(Limits::default());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("\r\n");
        assert_eq!(client.get("/bytes/3").status, 200);
    }
}

#[test]
fn head_is_read_however_it_is_cut_into_packets() {
    let server = TestServer::start(Limits::default());
    let mut client = server.connect();
    for bytes in [put("/echo", 5).into_bytes(), b"hello".to_vec()] {
        for byte in bytes {
            client.send([byte]);
        }
    }
    assert_eq!(client.answer().body, b"hello");
}

#[test]
fn repeated_authorization_counts_as_none() {
    let server = TestServer::start(Limits::default());
    let mut client = server.connect();
    let request = |lines: &str| format!("GET /authorization HTTP/1.1\r\nHost: t\r\n{lines}\r\n");
    client.send(request("Authorization: Bearer a\r\n"));
    assert_eq!(client.answer().body, b"Bearer a");
    client.send(request(
        "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n",
    ));
    assert_eq!(client.answer().body, b"none");
}

#[test]
fn tls_on_the_plain_port_is_hung_up_on_at_once_and_reported() {
    let server = TestServer::start(Limits::default());
    let mut client = server.connect();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert!(
        client.is_closed_silently(),
        "no bytes: the client would take them for TLS"
    );
    raw::eventually("the report", || {
        server.app.events_with("TlsOnPlainPort") == 1
    });
}
