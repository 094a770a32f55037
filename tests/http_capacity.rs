//! Many clients at once: nobody is refused, nobody young is closed, and the server survives without
//! file descriptors.

#[path = "support/http_app.rs"]
mod app;
#[path = "support/raw.rs"]
mod raw;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use app::TestServer;
use cachesrv::server::{BindError, Limits, bind};
use raw::{Raw, get, put};

const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn burst_of_five_hundred_new_connections_is_answered_while_all_stay_open() {
    let server = TestServer::start(Limits::default());
    let mut clients: Vec<Raw> = (0..500).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(get("/bytes/1000"));
    }
    for client in &mut clients {
        let answer = client.answer();
        assert!(answer.status == 200 && !answer.closes());
    }
    for client in &mut clients {
        assert_eq!(
            client.get("/bytes/10").status,
            200,
            "and again on the same connection"
        );
    }
}

#[test]
fn answers_close_above_three_quarters_of_the_connections() {
    let limits = Limits {
        connections_max: 8,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut clients: Vec<Raw> = (0..6).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert!(!client.get("/bytes/3").closes(), "six of eight");
    }
    let answer = server.connect().get("/bytes/3");
    assert!(
        answer.status == 200 && answer.closes(),
        "seven of eight: {answer:?}"
    );
    raw::eventually("there is room again", || {
        drop(clients.pop());
        !server.connect().get("/bytes/3").closes()
    });
}

#[test]
fn known_clients_keep_their_connections_in_a_crowd_until_they_have_half_of_all() {
    let limits = Limits {
        connections_max: 8,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut known: Vec<Raw> = (0..4).map(|_| server.connect()).collect();
    for client in &mut known {
        assert!(!client.get("/known").closes());
    }
    let _strangers = [server.connect(), server.connect()];
    let mut stranger = server.connect();
    assert!(stranger.get("/bytes/3").closes(), "seven of eight");
    drop(stranger);
    let mut seventh = server.connect();
    for client in &mut known {
        assert!(!client.get("/known").closes(), "four of eight are known");
    }
    let answer = seventh.get("/known");
    assert!(answer.status == 200 && answer.closes(), "the fifth");
    let _third = server.connect();
    drop((seventh, known.pop()));
    raw::eventually("those who are gone do not count", || {
        !server.connect().get("/known").closes()
    });
}

#[test]
fn client_over_the_limit_waits_and_is_served_once_there_is_room() {
    let limits = Limits {
        connections_max: 4,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut inside: Vec<Raw> = (0..4).map(|_| server.connect()).collect();
    raw::eventually("the limit is reached", || {
        server.app.events_with("Full") > 0
    });
    let mut waiting = server.connect();
    waiting.send(get("/bytes/3"));
    assert!(waiting.stays_open_for(MOMENT), "neither refused nor served");
    for client in &mut inside {
        assert!(
            client.stays_open_for(Duration::from_millis(20)),
            "a young idle connection stays"
        );
    }
    assert_eq!(inside[0].get("/bytes/3").status, 200, "and is served");
    drop(inside.pop());
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(server.app.events_with("AcceptFailed"), 0);
}

#[test]
fn at_the_limit_only_what_has_been_idle_for_long_makes_room() {
    let limits = Limits {
        connections_max: 2,
        idle_under_pressure: 4 * MOMENT,
        idle_under_pressure_stranger: MOMENT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut busy = server.connect();
    busy.send(put("/echo", 10) + "hello");
    let mut idle = server.connect();
    assert_eq!(idle.get("/known").status, 200);
    let mut waiting = server.connect();
    waiting.send(get("/bytes/3"));
    assert!(idle.stays_open_for(2 * MOMENT), "not idle for long enough");
    assert_eq!(waiting.answer().status, 200, "served in the end");
    assert!(idle.is_closed_silently(), "in the place of the idle one");
    busy.send("hello");
    assert_eq!(
        busy.answer().body,
        b"hellohello",
        "a request under way goes on"
    );
}

#[test]
fn at_the_limit_strangers_who_are_idle_make_room_before_known_clients() {
    let limits = Limits {
        connections_max: 4,
        idle_under_pressure_stranger: 2 * MOMENT,
        ..Limits::default()
    };
    let server = TestServer::start(limits);
    let mut known = server.connect();
    assert!(!known.get("/known").closes());
    let mut silent = server.connect();
    let mut stranger = server.connect();
    assert_eq!(stranger.get("/bytes/3").status, 200);
    let mut slow = server.connect();
    slow.send("GET /bytes/3 HT");
    let mut waiting = server.connect();
    waiting.send(get("/known"));
    assert!(silent.stays_open_for(MOMENT), "not idle for long enough");
    assert_eq!(waiting.answer().status, 200, "served in the end");
    assert!(silent.is_closed_silently() && stranger.is_closed_silently());
    slow.send("TP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(slow.answer().status, 200, "a request has arrived");
    assert_eq!(known.get("/known").status, 200, "and a build is here");
}

#[test]
fn address_in_use_is_an_error_of_its_own() {
    let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = taken.local_addr().expect("an address");
    let error = bind(address).expect_err("taken");
    assert!(matches!(error, BindError::InUse { address: named } if named == address));
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    assert!(matches!(bind(elsewhere), Err(BindError::NotHere { .. })));
}

#[test]
fn address_can_be_bound_again_at_once_after_connections_were_closed() {
    let mut server = TestServer::start(Limits::default());
    let mut client = server.connect();
    client.send("GET /bytes/3 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    client
        .rest()
        .expect("the server closed first, which leaves TIME_WAIT");
    let address = server.address;
    server.server.take().expect("running").shutdown();
    bind(address).expect("free");
}

/// The real executable with few file descriptors.
struct Starved {
    child: Child,
    log: std::io::Lines<BufReader<std::process::ChildStderr>>,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Starved {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // About half of these are taken by the database.
        let serve = "ulimit -n 64; exec \"$0\" serve --listen 127.0.0.1:0";
        let mut child = Command::new("sh")
            .args(["-c", serve, env!("CARGO_BIN_EXE_cachesrv")])
            .current_dir(directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let stderr = child.stderr.take().expect("piped");
        let mut log = BufReader::new(stderr).lines();
        let found = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("listening address=")?;
            address.parse().ok()
        });
        Self {
            child,
            log,
            address: found.expect("an address"),
            _directory: directory,
        }
    }

    /// Ends the process; what it logged meanwhile.
    fn end(mut self) -> Vec<String> {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.log.by_ref().map_while(Result::ok).collect()
    }
}

#[test]
fn server_without_file_descriptors_waits_and_recovers() {
    let starved = Starved::start();
    let mut clients: Vec<Raw> = (0..60).map(|_| Raw::connect(starved.address)).collect();
    assert_eq!(clients[0].get("/").status, 200);
    let mut late = clients.pop().expect("sixty");
    late.send(get("/"));
    assert!(late.stays_open_for(4 * MOMENT), "waits in the kernel");
    assert_eq!(
        clients[0].get("/").status,
        200,
        "others are served meanwhile"
    );
    clients.truncate(2);
    assert_eq!(
        late.answer().status,
        200,
        "accepted once there are descriptors"
    );
    let log = starved.end();
    let failures = log
        .iter()
        .filter(|line| line.contains("cannot accept connections"));
    assert!(
        (1..=8).contains(&failures.count()),
        "at most one a second: {log:?}"
    );
}
