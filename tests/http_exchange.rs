//! Requests and responses that keep the rules: reuse, pipelining, bodies, refusals that arrive, and
//! responses that must not look whole when they are not.

#[path = "support/http_app.rs"]
mod app;
#[path = "support/raw.rs"]
mod raw;

use std::io::Write;
use std::time::Duration;

use app::{DISCARD_BYTES_MAX, TestServer, pattern};
use cachesrv::http::Cut;
use cachesrv::server::Limits;
use raw::{get, put};

fn server() -> TestServer {
    TestServer::start(Limits::default())
}

#[test]
fn connection_serves_one_request_after_another() {
    let server = server();
    let mut client = server.connect();
    for count in [0, 1, 1000, 100_000, 3_000_000, 5] {
        let answer = client.get(&format!("/bytes/{count}"));
        assert!(
            answer.status == 200 && !answer.closes() && answer.body == pattern(count),
            "{count}"
        );
        client.send(put("/echo", count as u64));
        client.send(pattern(count));
        assert!(client.answer().body == pattern(count), "{count}");
    }
}

#[test]
fn head_of_a_response_is_complete() {
    let answer = server().connect().get("/bytes/7");
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(answer.header("content-length").as_deref(), Some("7"));
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(answer.header("x-test").as_deref(), Some("yes"));
    assert!(
        answer
            .header("date")
            .is_some_and(|date| date.ends_with(" GMT"))
    );
    assert_eq!(answer.header("connection"), None);
}

#[test]
fn head_request_gets_the_head_alone_and_the_connection_goes_on() {
    let server = server();
    let mut client = server.connect();
    client.send("HEAD /bytes/1000 HTTP/1.1\r\nHost: t\r\n\r\n");
    let answer = client.answer_to_head();
    assert_eq!(answer.header("content-length").as_deref(), Some("1000"));
    assert_eq!(client.get("/bytes/3").body, pattern(3));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = server();
    let mut client = server.connect();
    let put_five = format!("{}hello", put("/echo", 5));
    client.send([get("/bytes/1"), put_five, get("/nothing"), get("/bytes/2")].concat());
    let statuses = [200, 200, 404, 200].map(|status| (status, client.answer()));
    assert!(
        statuses
            .iter()
            .all(|(status, answer)| answer.status == *status)
    );
    assert_eq!(statuses[1].1.body, b"hello");
    assert_eq!(statuses[3].1.body, pattern(2));
}

#[test]
fn pipelined_requests_wait_unread_while_their_client_does_not_read() {
    let server = server();
    let client = server.connect();
    let burst = get("/bytes/20000").repeat(1000);
    // Sends until a second passes in which the server takes nothing more.
    let stall = Some(Duration::from_secs(1));
    client.socket().set_write_timeout(stall).unwrap();
    let mut sent = 0;
    while let Ok(count) = client.socket().write(burst.as_bytes()) {
        sent += count;
        assert!(sent < 100 << 20, "the server reads on and on");
    }
    let handled = server.app.handled_count();
    assert!(
        handled * get("/bytes/20000").len() < sent,
        "the server read ahead"
    );
    assert_eq!(
        server.connect().get("/bytes/1").status,
        200,
        "others are served"
    );
}

#[test]
fn http_1_0_closes_unless_it_asks_to_be_kept() {
    let server = server();
    let answer = server.exchange("GET /bytes/3 HTTP/1.0\r\n\r\nGET /bytes/3 HTTP/1.0\r\n\r\n");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("GET /bytes/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.header("connection").as_deref(), Some("keep-alive"));
        assert_eq!(answer.body, pattern(3));
    }
}

#[test]
fn client_that_asks_for_close_is_told_so_and_closed() {
    let server = server();
    let mut client = server.connect();
    client.send("GET /bytes/3 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    assert!(client.answer().closes());
    assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
}

#[test]
fn expectation_is_met_when_the_body_is_read() {
    let server = server();
    let mut client = server.connect();
    let expect = |path| put(path, 5).replace("Host", "Expect: 100-continue\r\nHost");
    client.send(expect("/echo"));
    let go_on = client.answer_to_head();
    assert_eq!(go_on.head, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    let answer = client.answer();
    assert!(answer.body == b"hello" && !answer.closes());
    // A client that does not wait is not told to go on.
    client.send(expect("/echo") + "hello");
    assert_eq!(client.answer().body, b"hello");
}

#[test]
fn expectation_that_is_refused_gets_the_refusal_and_no_100() {
    for path in ["/refuse", "/refuse-known"] {
        let server = server();
        let mut client = server.connect();
        client.send(put(path, 5).replace("Host", "Expect: 100-continue\r\nHost"));
        let answer = client.answer();
        assert!(
            matches!(answer.status, 401 | 403) && answer.closes(),
            "{answer:?}"
        );
        assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
    }
}

#[test]
fn client_is_not_told_to_go_on_after_its_answer() {
    let server = server();
    let mut client = server.connect();
    client.send(put("/answer-then-read", 5).replace("Host", "Expect: 100-continue\r\nHost"));
    assert_eq!(client.answer().body, b"early");
    assert!(client.is_closed_silently());
}

#[test]
fn refusal_arrives_while_the_client_still_sends_thirty_megabytes() {
    for (path, status) in [("/refuse", 401), ("/refuse-known", 403)] {
        let server = server();
        let mut client = server.connect();
        client.send(put(path, 30 << 20));
        for _ in 0..30 {
            client.send(vec![7; 1 << 20]);
        }
        let answer = client.answer();
        assert!(answer.status == status && answer.closes(), "{answer:?}");
        assert!(client.rest().expect("no reset").is_empty());
    }
}

#[test]
fn refused_body_within_the_limit_is_discarded_and_the_connection_goes_on() {
    let server = server();
    let mut client = server.connect();
    for length in [0, 5, DISCARD_BYTES_MAX] {
        client.send(put("/refuse-known", length));
        client.send(vec![7; length as usize]);
        let answer = client.answer();
        assert!(
            answer.status == 403 && !answer.closes(),
            "{length}: {answer:?}"
        );
    }
    assert_eq!(client.get("/bytes/3").status, 200);
}

#[test]
fn refused_body_over_the_limit_closes_after_the_answer() {
    let server = server();
    let mut client = server.connect();
    client.send(put("/refuse-known", DISCARD_BYTES_MAX + 1));
    let answer = client.answer();
    assert!(answer.status == 403 && answer.closes(), "{answer:?}");
}

#[test]
fn unread_body_is_never_taken_for_a_request() {
    let server = server();
    let hidden = get("/smuggled");
    let text = server.exchange(put("/refuse", hidden.len() as u64) + &hidden);
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert_eq!(*server.app.handled.lock().unwrap(), ["/refuse"]);
}

#[test]
fn body_of_exabytes_costs_nothing() {
    let server = server();
    let mut client = server.connect();
    client.send(put("/refuse-known", u64::MAX));
    assert_eq!(client.answer().status, 403);
    assert_eq!(server.connect().get("/bytes/1").status, 200);
}

#[test]
fn body_that_ends_early_is_an_error_for_the_application_and_gets_no_answer() {
    let server = server();
    assert_eq!(server.exchange(put("/echo", 10) + "12345"), "");
    assert_eq!(*server.app.cuts.lock().unwrap(), [Cut::Closed]);
}

#[test]
fn response_that_fails_midway_is_cut_and_never_looks_whole() {
    let server = server();
    for path in ["/short", "/abort", "/panic-late"] {
        let mut client = server.connect();
        client.send(get(path) + &get("/bytes/3"));
        let rest = client.rest().unwrap_or_default();
        let text = String::from_utf8(rest).unwrap();
        assert!(
            text.is_empty() || text.ends_with("\r\n\r\n12345"),
            "{path}: {text:?}"
        );
    }
    assert!(
        server.app.excused.lock().unwrap().is_empty(),
        "no second answer after a first"
    );
    for path in ["/silent", "/long"] {
        let mut client = server.connect();
        client.send(get(path));
        assert!(client.is_closed_silently(), "{path}");
    }
    let twice = server.exchange(get("/twice"));
    assert!(twice.ends_with("\r\n\r\n1"), "{twice}");
}

#[test]
fn panic_costs_its_own_connection_and_nothing_else() {
    let server = server();
    let mut bystander = server.connect();
    assert_eq!(bystander.get("/bytes/3").status, 200);
    for _ in 0..3 {
        let mut client = server.connect();
        let answer = client.get("/panic");
        assert!(answer.status == 404 && answer.closes(), "{answer:?}");
    }
    assert_eq!(server.app.events_with("asked to"), 3);
    assert_eq!(bystander.get("/bytes/3").status, 200);
}
