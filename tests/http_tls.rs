//! TLS under the connection, with short limits: handshakes that take too long, clients that read or send too
//! slowly, and the end of a server.

#[path = "support/http_app.rs"]
mod app;
#[path = "support/authority.rs"]
mod authority;
#[path = "support/raw.rs"]
mod raw;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use app::{TestServer, pattern};
use authority::{Authority, put};
use cachesrv::http::Cut;
use cachesrv::server::{Certificate, Drained, Limits, Tls};
use raw::{Raw, get};
use rustls::{ClientConfig, ClientConnection};

const SHORT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(50);

/// A server with TLS, and clients that trust it.
struct Secure {
    server: TestServer,
    trusted: Arc<ClientConfig>,
}

impl Secure {
    fn start(limits: Limits) -> Self {
        let (directory, authority) = (tempfile::tempdir().expect("a directory"), Authority::new());
        let (path, pair) = (directory.path(), authority.issue());
        put(path, "cert.pem", &pair.chain);
        put(path, "key.pem", &pair.key);
        let certificate = Certificate::load(&path.join("cert.pem"), &path.join("key.pem"));
        let tls = Tls::new(certificate.expect("a certificate")).expect("TLS");
        Self {
            server: TestServer::start_with(limits, Some(tls)),
            trusted: authority.trusted(),
        }
    }

    fn connect(&self) -> Raw {
        Raw::try_connect_tls(self.server.address, &self.trusted).expect("a handshake")
    }

    /// The first bytes of a client.
    fn hello(&self) -> Vec<u8> {
        let name = "localhost".try_into().expect("a name");
        let client = ClientConnection::new(Arc::clone(&self.trusted), name);
        let mut hello = Vec::new();
        let mut client = client.expect("a client");
        client.write_tls(&mut hello).expect("into memory");
        hello
    }

    fn failed_because(&self, reason: &str) {
        raw::eventually(reason, || {
            let app = &self.server.app;
            app.events_with("HandshakeFailed") > 0 && app.events_with(reason) > 0
        });
    }
}

fn impatient() -> Limits {
    Limits {
        handshake_timeout: SHORT,
        ..Limits::default()
    }
}

#[test]
fn handshake_that_trickles_is_given_up_at_its_deadline() {
    let secure = Secure::start(impatient());
    let hello = secure.hello();
    let mut client = secure.server.connect();
    let began = Instant::now();
    // All of it would take far longer than the deadline; to the last byte the server would answer.
    let is_hung_up_on = hello[..hello.len() - 1]
        .iter()
        .any(|byte| client.try_send([*byte]).is_err() || !client.stays_open_for(PAUSE));
    assert!(is_hung_up_on, "no byte moves the deadline");
    assert!(began.elapsed() >= SHORT, "every client has this long");
    secure.failed_because("the client was too slow");
    assert_eq!(secure.server.app.handled_count(), 0);
}

#[test]
fn handshake_that_stops_halfway_is_given_up_at_its_deadline() {
    let secure = Secure::start(impatient());
    let mut client = secure.server.connect();
    client.send(secure.hello());
    // The server has said all it can, and waits for our half.
    client.rest().expect("it hangs up");
    secure.failed_because("the client was too slow");
}

#[test]
fn client_that_says_nothing_is_hung_up_on() {
    let secure = Secure::start(impatient());
    let mut client = secure.server.connect();
    assert!(client.is_closed_silently());
    secure.failed_because("the client was silent");
}

#[test]
fn handshakes_wait_on_threads_of_their_own() {
    let secure = Secure::start(Limits::default());
    let silent: Vec<Raw> = (0..100).map(|_| secure.server.connect()).collect();
    let mut halfway: Vec<Raw> = (0..100).map(|_| secure.server.connect()).collect();
    for client in &mut halfway {
        client.send(secure.hello());
    }
    assert_eq!(secure.connect().get("/bytes/3").status, 200);
    drop((silent, halfway));
}

#[test]
fn what_is_no_tls_is_told_apart() {
    let secure = Secure::start(Limits::default());
    let mut noise = secure.server.connect();
    noise.send([0x80, 0x2e, 1, 0, 2]);
    assert!(noise.is_closed_silently());
    secure.failed_because("what the client sent is not TLS");
    let mut plain = secure.server.connect();
    assert_eq!(plain.get("/bytes/3").status, 401);
    assert_eq!(secure.server.app.events_with("PlainOnTlsPort"), 1);
    let mut twice = secure.connect();
    twice.send(secure.hello());
    assert_eq!(twice.answer().status, 400);
    assert_eq!(secure.server.app.events_with("TlsOnPlainPort"), 0);
    assert_eq!(secure.server.app.handled_count(), 0);
}

#[test]
fn damaged_record_ends_the_connection() {
    let secure = Secure::start(Limits::default());
    let client = secure.connect();
    let mut socket: &TcpStream = client.socket();
    // Application data that no key has made.
    let mut record = vec![23, 3, 3, 0, 64];
    record.extend([7; 64]);
    socket.write_all(&record).expect("the server reads");
    let mut client = client;
    let error = client.rest().expect_err("an alert");
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    assert_eq!(secure.connect().get("/bytes/3").status, 200);
}

#[test]
fn idle_connection_is_told_goodbye() {
    let secure = Secure::start(Limits {
        idle_timeout: SHORT,
        ..Limits::default()
    });
    let mut client = secure.connect();
    assert_eq!(client.get("/bytes/3").body, pattern(3));
    assert_eq!(client.rest().expect("a good end"), b"");
}

#[test]
fn record_that_trickles_is_a_head_that_trickles() {
    let secure = Secure::start(Limits {
        head_timeout: SHORT,
        ..Limits::default()
    });
    let mut client = secure.connect();
    assert_eq!(client.get("/bytes/3").status, 200);
    // The head of a record of 100 bytes, and no more than its first ones.
    let mut socket: &TcpStream = client.socket();
    socket
        .write_all(&[23, 3, 3, 0, 100])
        .expect("the server reads");
    let began = Instant::now();
    let pause = Some(PAUSE);
    socket.set_read_timeout(pause).expect("a timeout");
    while !socket.peek(&mut [0]).is_ok_and(|count| count > 0) {
        // Too few bytes to complete the record in time.
        socket.write_all(&[0]).expect("the server reads");
        assert!(began.elapsed() < 10 * SHORT, "no byte moves the deadline");
    }
    socket
        .set_read_timeout(Some(raw::PATIENCE))
        .expect("a timeout");
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (408, true));
}

#[test]
fn client_that_never_reads_is_given_up() {
    let secure = Secure::start(Limits {
        write_timeout: SHORT,
        ..Limits::default()
    });
    let mut client = secure.connect();
    client.send(get("/bytes/100000000"));
    let cuts = || secure.server.app.cuts.lock().unwrap().clone();
    raw::eventually("the response is cut", || cuts() == [Cut::TimedOut]);
    let error = client.rest().expect_err("a part never looks whole");
    let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    assert!(kinds.contains(&error.kind()), "{error}");
}

#[test]
fn body_below_the_average_rate_is_given_up_though_it_never_stalls() {
    let secure = Secure::start(Limits {
        body_timeout: SHORT,
        body_rate_min_bytes: 10_000,
        ..Limits::default()
    });
    let mut client = secure.connect();
    client.send(raw::put("/echo", 1000));
    let cuts = || secure.server.app.cuts.lock().unwrap().clone();
    raw::eventually("it is cut", || {
        let _ = client.try_send("x");
        thread::sleep(PAUSE);
        cuts() == [Cut::TimedOut]
    });
}

#[test]
fn body_whose_record_is_never_complete_is_given_up() {
    let secure = Secure::start(Limits {
        body_timeout: SHORT,
        body_rate_min_bytes: 1000,
        ..Limits::default()
    });
    let mut client = secure.connect();
    client.send(raw::put("/echo", 1000));
    let mut socket: &TcpStream = client.socket();
    socket
        .write_all(&[23, 3, 3, 0x40, 0])
        .expect("the server reads");
    let cuts = || secure.server.app.cuts.lock().unwrap().clone();
    raw::eventually("it is cut", || {
        let _ = socket.write_all(&[0]);
        thread::sleep(PAUSE);
        cuts() == [Cut::TimedOut]
    });
}

#[test]
fn transfers_under_way_are_finished_when_the_server_ends() {
    let mut secure = Secure::start(Limits::default());
    let (mut idle, mut download) = (secure.connect(), secure.connect());
    assert_eq!(idle.get("/bytes/3").status, 200);
    download.send(get("/bytes/30000000"));
    raw::eventually("it is under way", || secure.server.app.handled_count() == 2);
    let running = secure.server.server.take().expect("running");
    let ending = thread::spawn(move || running.shutdown());
    assert!(download.answer().body == pattern(30_000_000));
    assert_eq!(download.rest().expect("a good end"), b"");
    assert_eq!(idle.rest().expect("a good end"), b"");
    drop((idle, download));
    let drained = ending.join().expect("no panic");
    let done = Drained {
        cut: 0,
        is_complete: true,
    };
    assert_eq!(drained, done);
}

#[test]
fn panic_of_a_handler_costs_its_connection_only() {
    let secure = Secure::start(Limits::default());
    let mut client = secure.connect();
    let answer = client.get("/panic");
    assert_eq!((answer.status, answer.closes()), (404, true));
    let mut late = secure.connect();
    late.send(get("/panic-late"));
    assert!(late.rest().is_err(), "no goodbye after half an answer");
    assert_eq!(secure.connect().get("/bytes/3").status, 200);
}
