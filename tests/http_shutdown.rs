//! The end of a server: what is under way is finished, who is idle gets a moment, and nobody can hold
//! it up.

#[path = "support/http_app.rs"]
mod app;
#[path = "support/raw.rs"]
mod raw;

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use app::TestServer;
use cachesrv::server::{Drained, Limits};
use raw::{Raw, get, put};

const DONE: Drained = Drained {
    cut: 0,
    is_complete: true,
};

/// Shuts down in another thread, and returns once the server accepts nobody.
fn shut_down(server: &mut TestServer) -> JoinHandle<Drained> {
    let running = server.server.take().expect("running");
    let ending = thread::spawn(move || running.shutdown());
    let address = server.address;
    raw::eventually("the listener is closed", || {
        Raw::try_connect(address).is_err()
    });
    ending
}

fn with_grace(shutdown_grace: Duration) -> TestServer {
    TestServer::start(Limits {
        shutdown_grace,
        ..Limits::default()
    })
}

#[test]
fn server_without_clients_ends_at_once() {
    let mut server = with_grace(Duration::from_mins(1));
    let began = Instant::now();
    assert_eq!(server.server.take().expect("running").shutdown(), DONE);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn transfers_under_way_are_finished_and_told_to_close() {
    let mut server = with_grace(Duration::from_mins(1));
    let mut upload = server.connect();
    upload.send(put("/echo", 10) + "hello");
    let mut waiting = server.connect();
    waiting.send(get("/wait"));
    let mut download = server.connect();
    download.send(get("/bytes/50000000"));
    raw::eventually("all are under way", || server.app.handled_count() == 3);
    let ending = shut_down(&mut server);
    upload.send("hello");
    let answer = upload.answer();
    assert!(
        answer.body == b"hellohello" && answer.closes(),
        "{answer:?}"
    );
    server.app.open_gate();
    let answer = waiting.answer();
    assert!(answer.body == b"waited" && answer.closes());
    assert_eq!(download.answer().body.len(), 50_000_000);
    drop((upload, waiting, download));
    assert_eq!(ending.join().expect("no panic"), DONE);
}

#[test]
fn idle_connection_is_still_answered_for_a_moment_and_then_closed() {
    let mut server = with_grace(Duration::from_mins(1));
    let (mut idle, mut sending) = (server.connect(), server.connect());
    assert!(!idle.get("/bytes/3").closes() && !sending.get("/bytes/3").closes());
    let ending = shut_down(&mut server);
    let answer = sending.get("/bytes/3");
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    assert!(
        idle.stays_open_for(Duration::from_millis(500)),
        "its client may be about to send"
    );
    assert!(idle.is_closed_silently());
    drop(sending);
    assert_eq!(ending.join().expect("no panic"), DONE);
}

#[test]
fn client_in_the_queue_of_the_listener_is_still_answered() {
    let mut server = with_grace(Duration::from_mins(1));
    let mut clients: Vec<Raw> = (0..50).map(|_| server.connect()).collect();
    let running = server.server.take().expect("running");
    let ending = thread::spawn(move || running.shutdown());
    for client in &mut clients {
        assert_eq!(client.get("/bytes/3").status, 200);
    }
    drop(clients);
    assert_eq!(ending.join().expect("no panic"), DONE);
}

#[test]
fn request_that_outlasts_the_grace_is_cut_and_counted() {
    let mut server = with_grace(Duration::from_millis(300));
    let mut slow = server.connect();
    slow.send(put("/echo", 10) + "hello");
    let mut idle = server.connect();
    assert_eq!(idle.get("/bytes/3").status, 200);
    raw::eventually("it is under way", || server.app.handled_count() == 2);
    let drained = server.server.take().expect("running").shutdown();
    assert_eq!(
        drained,
        Drained {
            cut: 1,
            is_complete: true
        }
    );
    assert!(slow.is_closed_silently() && idle.is_closed_silently());
}

#[test]
fn handler_that_never_returns_does_not_hold_up_the_end() {
    let mut server = with_grace(Duration::from_millis(100));
    let mut stuck = server.connect();
    stuck.send(get("/wait"));
    raw::eventually("it is under way", || server.app.handled_count() == 1);
    let began = Instant::now();
    let drained = server.server.take().expect("running").shutdown();
    assert_eq!(
        drained,
        Drained {
            cut: 1,
            is_complete: false
        }
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    server.app.open_gate();
}

#[test]
fn threads_end_with_their_connections() {
    let threads = || {
        std::fs::read_dir("/proc/self/task")
            .expect("Linux")
            .flatten()
    };
    let names =
        || threads().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let mut server = with_grace(Duration::from_mins(1));
    let mut clients: Vec<Raw> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET /nothing HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        assert_eq!(client.answer().status, 404);
    }
    assert!(
        names().any(|name| name.starts_with("conn-")),
        "threads have names"
    );
    drop(clients);
    assert_eq!(server.server.take().expect("running").shutdown(), DONE);
}
