//! TLS on the real binary: the cache works over it as it does without, for every client there is.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use support::secure::{Place, connect};
use support::{Authority, Client, Raw, Token, eventually, noise};

#[test]
fn the_cache_works_over_tls_1_3_and_1_2_as_it_does_without() {
    let place = Place::new();
    let server = place.serve();
    let line = server.wait_for_line(" listening ");
    assert!(line.ends_with(" tls=true"), "{line}");
    for (version, expected) in [
        (&TLS13, ProtocolVersion::TLSv1_3),
        (&TLS12, ProtocolVersion::TLSv1_2),
    ] {
        let mut config = place.authority.trusted_with(&[version]);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let raw = connect(&server, &Arc::new(config));
        assert_eq!(raw.tls().protocol_version(), Some(expected));
        assert_eq!(raw.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut client = Client::over(raw, Some(&place.token.secret));
        let hash = format!("{expected:?}");
        let hash = hash.as_str();
        assert_eq!(client.get(hash).status, 404);
        assert_eq!(client.put(hash, b"stored").status, 200);
        assert_eq!(client.put(hash, b"another").status, 409);
        assert_eq!(client.get(hash).body, b"stored");
        assert_eq!(
            client.look(hash).header("content-length").as_deref(),
            Some("6")
        );
        let mut stranger = Client::over(place.connect(&server), None);
        assert_eq!(stranger.get(hash).status, 401);
        assert_eq!(stranger.put(hash, &vec![7; 100_000]).status, 401);
    }
    let ended = server.stop();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
}

#[test]
fn large_artifacts_are_the_same_on_both_sides() {
    let place = Place::new();
    let server = place.serve();
    let bytes = noise(11, 64 << 20);
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(place.authority.trusted_with(&[version]));
        let raw = connect(&server, &config);
        let mut client = Client::over(raw, Some(&place.token.secret));
        let hash = format!("{:?}", version.version);
        assert_eq!(client.put(&hash, &bytes).status, 200);
        assert!(client.get(&hash).body == bytes, "other bytes over {hash}");
    }
    let stored = "SELECT sum(size_bytes) FROM artifacts WHERE state = 'stored'";
    assert_eq!(place.dir.number(stored), 2 * (64 << 20));
}

#[test]
fn requests_sent_ahead_are_answered_in_order_on_one_connection() {
    let place = Place::new();
    let server = place.serve();
    let mut client = place.client(&server);
    assert_eq!(client.put("one", b"1").status, 200);
    assert_eq!(client.put("two", &vec![2; 50_000]).status, 200);
    let heads: String = (0..40)
        .map(|at| client.head("GET", &client.path(["one", "two", "none"][at % 3]), &[]))
        .collect();
    client.raw.send(heads);
    for at in 0..40 {
        let answer = client.raw.answer();
        match at % 3 {
            0 => assert_eq!(answer.body, b"1"),
            1 => assert_eq!(answer.body, vec![2; 50_000]),
            _ => assert_eq!(answer.status, 404),
        }
        assert!(!answer.closes());
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_send() {
    let place = Place::new();
    let server = place.serve();
    let mut client = place.client(&server);
    assert_eq!(client.ask_to_put("asked", 3), 100);
    client.raw.send("abc");
    assert_eq!(client.raw.answer().status, 200);
    assert_eq!(client.get("asked").body, b"abc");
    let mut stranger = Client::over(place.connect(&server), None);
    assert_eq!(stranger.ask_to_put("asked", 3), 401);
}

#[test]
fn a_head_that_comes_byte_by_byte_in_records_of_its_own_is_understood() {
    let place = Place::new();
    let server = place.serve();
    let mut client = place.client(&server);
    let head = client.head("GET", &client.path("none"), &[]);
    for byte in head.as_bytes() {
        client.raw.send([*byte]);
    }
    assert_eq!(client.raw.answer().status, 404);
}

/// Whether a program is on the path of whoever runs this test.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[test]
fn curl_stores_and_restores_over_both_versions() {
    if !is_installed("curl") {
        eprintln!("curl is not installed, so nothing was tested with it");
        return;
    }
    let place = Place::new();
    fs::write(place.dir.join("ca.pem"), place.authority.pem()).expect("written");
    fs::write(place.dir.join("sent"), noise(3, 5_000_000)).expect("written");
    fs::write(place.dir.join("token"), authorization(&place.token)).expect("written");
    for name in ["ca.pem", "sent", "token", "got"] {
        place.dir.evidence().exempt_mode(name);
    }
    place.dir.evidence().exempt_secrets("token");
    let server = place.serve();
    let port = server.address().port();
    for (version, hash) in [("--tlsv1.3", "1"), ("--tls-max 1.2", "2")] {
        let url = format!("https://localhost:{port}/v1/cache/{hash}");
        let curl = format!("curl -sS --fail-with-body --cacert ca.pem -H @token {version}");
        let stored = place.dir.shell(&format!("{curl} -T sent {url}"));
        assert_eq!(
            (stored.code, &stored.stderr[..]),
            (Some(0), ""),
            "{stored:?}"
        );
        let restored = place.dir.shell(&format!("{curl} -o got {url}"));
        assert_eq!(
            (restored.code, &restored.stderr[..]),
            (Some(0), ""),
            "{restored:?}"
        );
        let same = fs::read(place.dir.join("sent")).ok() == fs::read(place.dir.join("got")).ok();
        assert!(same, "other bytes with {version}");
    }
    let untrusting = place
        .dir
        .shell(&format!("curl -sS https://localhost:{port}/"));
    assert_eq!(untrusting.code, Some(60), "{untrusting:?}");
    let line = server.wait_for_line("a TLS handshake failed");
    assert!(
        line.contains("the client does not know who issued the certificate"),
        "{line}"
    );
}

fn authorization(token: &Token) -> String {
    format!("Authorization: Bearer {}\n", token.secret)
}

#[test]
fn openssl_sees_a_chain_that_it_trusts_and_old_versions_are_refused() {
    if !is_installed("openssl") {
        eprintln!("openssl is not installed, so nothing was tested with it");
        return;
    }
    let place = Place::new();
    fs::write(place.dir.join("ca.pem"), place.authority.pem()).expect("written");
    place.dir.evidence().exempt_mode("ca.pem");
    let server = place.serve();
    let client = format!(
        "openssl s_client -connect {} -servername localhost -CAfile ca.pem -verify_return_error",
        server.address()
    );
    let request = "printf 'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'";
    for version in ["-tls1_2", "-tls1_3"] {
        let seen = place
            .dir
            .shell(&format!("{request} | {client} -quiet {version}"));
        assert_eq!(seen.code, Some(0), "{seen:?}");
        assert!(seen.stdout.starts_with("HTTP/1.1 200 OK\r\n"), "{seen:?}");
    }
    let old = place.dir.shell(&format!(
        "{client} -tls1_1 -cipher ALL:@SECLEVEL=0 </dev/null"
    ));
    assert_ne!(old.code, Some(0), "{old:?}");
    let line = server.wait_for_line("a TLS handshake failed");
    assert!(
        line.contains("the client speaks no TLS 1.2 or 1.3"),
        "{line}"
    );
}

#[test]
fn plain_http_on_the_tls_port_is_refused_in_words_that_nx_shows() {
    let place = Place::new();
    let server = place.serve();
    let mut stranger = server.client(&place.token);
    let answer = stranger.put("1", &vec![7; 1 << 20]);
    assert_eq!((answer.status, answer.closes()), (401, true), "{answer:?}");
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(
        answer.text(),
        "this server speaks TLS: its URL has to begin with https://\n"
    );
    server.wait_for_line(
        "a client speaks plain HTTP to this TLS port and was refused; its server URL must begin with https:// \
         peer=127.0.0.1",
    );
    assert_eq!(place.dir.number("SELECT count(*) FROM artifacts"), 0);
}

#[test]
fn failed_handshakes_are_told_with_their_reason_and_not_in_floods() {
    let place = Place::new();
    let server = place.serve();
    let another = Authority::new().trusted();
    for _ in 0..100 {
        let refused = Raw::try_connect_tls(server.address(), &another);
        assert!(refused.is_err(), "a certificate of an unknown authority");
    }
    assert_eq!(place.client(&server).get("1").status, 404);
    let log = server.stop().log;
    let mut told = log
        .lines()
        .filter(|line| line.contains("a TLS handshake failed"));
    let first = told.next().expect("a line");
    assert!(first.contains(" peer=127.0.0.1 reason="), "{first}");
    assert!(
        first.contains("does not know who issued the certificate"),
        "{first}"
    );
    assert!(told.count() < 50, "{log}");
}

#[test]
fn whoever_only_looks_whether_the_port_is_open_is_not_reported() {
    let place = Place::new();
    let server = place.serve();
    drop(server.connect());
    assert_eq!(place.client(&server).get("1").status, 404);
    let log = server.stop().log;
    assert!(!log.contains("handshake"), "{log}");
}

#[test]
fn a_client_that_wants_http_2_only_is_refused() {
    let place = Place::new();
    let server = place.serve();
    let mut config = place.authority.trusted_with(&[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(Raw::try_connect_tls(server.address(), &Arc::new(config)).is_err());
    let line = server.wait_for_line("a TLS handshake failed");
    assert!(
        line.contains("the client does not speak HTTP/1.1 (ALPN)"),
        "{line}"
    );
}

#[test]
fn half_an_upload_over_tls_is_not_stored() {
    let place = Place::new();
    let server = place.serve();
    let mut polite = place.client(&server);
    polite.begin_put("half", 1000);
    polite.raw.send([1; 999]);
    polite.raw.finish_sending();
    let cut = polite
        .raw
        .rest()
        .expect_err("no goodbye, for this is no good end");
    assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
    let mut rude = place.client(&server);
    rude.begin_put("half", 5_000_000);
    rude.raw.send(vec![1; 2_000_000]);
    // The socket ends, and TLS does not.
    drop(rude);
    let stored = "SELECT count(*) FROM artifacts WHERE state = 'stored'";
    eventually("both uploads have ended", || {
        (server.lines_with("method=PUT") == 2).then_some(())
    });
    assert_eq!(place.dir.number(stored), 0);
    assert_eq!(place.client(&server).get("half").status, 404);
}

#[test]
fn idle_connections_are_told_goodbye_when_the_server_stops() {
    let place = Place::new();
    let server = place.serve();
    let mut clients: Vec<Client> = (0..3).map(|_| place.client(&server)).collect();
    for client in &mut clients {
        assert!(!client.get("1").closes());
    }
    server.terminate();
    server.wait_for_line("shutting down");
    // One asks once more, in time.
    assert!(clients[0].get("1").closes());
    for client in &mut clients {
        let rest = client
            .raw
            .rest()
            .expect("an end in good order, by TLS and TCP");
        assert_eq!(rest, b"");
    }
    let ended = server.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
    assert!(!ended.log.contains("requests were cut"), "{}", ended.log);
}

#[test]
fn the_answer_to_a_refused_upload_arrives_and_ends_in_good_order() {
    let place = Place::new();
    let server = place.serve();
    let mut stranger = Client::over(place.connect(&server), None);
    stranger.begin_put("1", 3_000_000);
    stranger.raw.send(vec![1; 3_000_000]);
    let answer = stranger.raw.answer();
    assert_eq!((answer.status, answer.closes()), (401, true));
    assert_eq!(stranger.raw.rest().expect("a goodbye"), b"");
}
