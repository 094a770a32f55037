//! Every deadline, with short limits: who is too slow is cut, however he is slow, and who keeps the
//! pace is not.

#[path = "support/http_app.rs"]
mod app;
#[path = "support/raw.rs"]
mod raw;

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use app::TestServer;
use cachesrv::http::Cut;
use cachesrv::server::Limits;
use raw::{Raw, get, put};

const SHORT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(50);

/// Sends `byte` again and again until the server hangs up or `time` is over. True: it hung up.
fn trickle(client: &mut Raw, byte: &str, time: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < time {
        if client.try_send(byte).is_err() || !client.stays_open_for(PAUSE) {
            return true;
        }
    }
    false
}

#[test]
fn head_that_trickles_is_given_up_at_its_deadline() {
    let limits = Limits {
        head_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send("GET /bytes/3 HTTP/1.1\r\n");
    assert!(
        trickle(&mut client, "A: b\r\n", 10 * SHORT),
        "no byte moves the deadline"
    );
    let answer = client.answer();
    assert!(answer.status == 408 && answer.closes(), "{answer:?}");
    assert_eq!(server.app.handled_count(), 0);
}

#[test]
fn head_that_stops_is_given_up_at_its_deadline() {
    let limits = Limits {
        head_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    assert_eq!(client.get("/bytes/3").status, 200);
    client.send("GET /bytes/3 HT");
    assert_eq!(client.answer().status, 408);
}

#[test]
fn clock_of_a_head_starts_with_its_first_byte() {
    let limits = Limits {
        head_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    assert!(client.stays_open_for(2 * SHORT));
    assert_eq!(client.get("/bytes/3").status, 200);
    assert!(client.stays_open_for(2 * SHORT));
    assert_eq!(client.get("/bytes/3").status, 200);
}

#[test]
fn idle_connection_is_closed_without_a_word() {
    let limits = Limits {
        idle_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let (mut fresh, mut used) = (server.connect(), server.connect());
    assert_eq!(used.get("/bytes/3").status, 200);
    assert!(fresh.is_closed_silently() && used.is_closed_silently());
}

#[test]
fn idle_timeout_counts_from_the_last_answer() {
    let limits = Limits {
        idle_timeout: 3 * SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    for _ in 0..4 {
        assert!(client.stays_open_for(SHORT));
        assert_eq!(client.get("/bytes/3").status, 200);
    }
}

#[test]
fn body_that_stalls_is_given_up() {
    let limits = Limits {
        body_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(put("/echo", 10) + "12345");
    assert!(client.is_closed_silently());
    assert_eq!(*server.app.cuts.lock().unwrap(), [Cut::TimedOut]);
}

#[test]
fn body_below_the_average_rate_is_given_up_though_it_never_stalls() {
    let limits = Limits {
        body_timeout: SHORT,
        body_rate_min_bytes: 10_000,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(put("/echo", 1000));
    assert!(
        trickle(&mut client, "x", 10 * SHORT),
        "a byte each {PAUSE:?} is too slow"
    );
    assert_eq!(*server.app.cuts.lock().unwrap(), [Cut::TimedOut]);
}

#[test]
fn body_at_the_average_rate_may_take_longer_than_any_timeout() {
    let limits = Limits {
        body_timeout: SHORT,
        body_rate_min_bytes: 1000,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(put("/count", 30 * 500));
    for _ in 0..30 {
        client.send([7; 500]);
        thread::sleep(PAUSE);
    }
    assert_eq!(client.answer().body, b"15000");
}

#[test]
fn discarded_body_that_stalls_is_given_up() {
    let limits = Limits {
        body_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(put("/refuse-known", 10) + "12345");
    assert!(client.is_closed_silently());
}

#[test]
fn client_that_does_not_read_is_given_up() {
    let limits = Limits {
        write_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(get("/bytes/100000000"));
    let cuts = || server.app.cuts.lock().unwrap().clone();
    raw::eventually("the response is cut", || cuts() == [Cut::TimedOut]);
    assert!(client.rest().unwrap_or_default().len() < 100_000_000);
}

#[test]
fn client_that_reads_below_the_average_rate_is_given_up() {
    let limits = Limits {
        write_timeout: SHORT,
        body_rate_min_bytes: 1 << 40,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(get("/bytes/1000000000"));
    let mut buffer = vec![0; 256 * 1024];
    let began = Instant::now();
    while client
        .socket()
        .read(&mut buffer)
        .is_ok_and(|count| count > 0)
    {
        thread::sleep(Duration::from_millis(10));
        assert!(began.elapsed() < raw::PATIENCE, "never given up");
    }
    assert_eq!(*server.app.cuts.lock().unwrap(), [Cut::TimedOut]);
}

#[test]
fn client_that_reads_slowly_gets_everything() {
    let limits = Limits {
        write_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(get("/bytes/20000000"));
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    while total < 20_000_000 {
        total += client.socket().read(&mut buffer).expect("not cut");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(server.app.cuts.lock().unwrap().is_empty());
}

#[test]
fn handler_that_waits_does_not_use_up_the_patience_with_its_client() {
    let limits = Limits {
        body_timeout: SHORT,
        write_timeout: SHORT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut client = server.connect();
    client.send(get("/wait"));
    assert!(client.stays_open_for(3 * SHORT));
    server.app.open_gate();
    assert_eq!(client.answer().body, b"waited");
}

#[test]
fn refused_stranger_is_discarded_for_a_bounded_time_and_a_known_client_for_longer() {
    let limits = Limits {
        linger_timeout_stranger: SHORT,
        linger_timeout: 20 * SHORT,
        // Each byte is fast enough: only the whole time is left to end it.
        body_rate_min_bytes: 1,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let refused = |path| {
        let mut client = server.connect();
        client.send(put(path, 1 << 40));
        assert!(client.answer().closes());
        client
    };
    // The answers end the streams, so reading cannot tell; a reset refuses further bytes.
    let is_refused_within = |client: &mut Raw, time: Duration| {
        let began = Instant::now();
        while began.elapsed() < time {
            if client.try_send("x").is_err() {
                return true;
            }
            thread::sleep(PAUSE);
        }
        false
    };
    assert!(is_refused_within(&mut refused("/refuse"), raw::PATIENCE));
    let mut known = refused("/refuse-known");
    assert!(!is_refused_within(&mut known, 5 * SHORT), "not yet");
    assert!(is_refused_within(&mut known, raw::PATIENCE), "in the end");
}
