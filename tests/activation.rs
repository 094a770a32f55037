//! The listening socket that systemd passes: what is served on it, and what is refused.
//!
//! Guaranteed while whoever passed the socket keeps it open: the server is stopped and started again
//! under load, and no request is refused, reset or lost. Clients wait in the queue of the socket. The
//! clients here retry nothing. They close where they are told to, and look before they write whether
//! the server has closed a connection that was idle, as those of real builds do.

mod support;

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::dir::{BINARY, run};
use support::passed::{FOR_US, UNUSABLE, command, is_open, listener, shared, start};
use support::raw::Raw;
use support::{Authority, Dir, Random, Server, Token, client, eventually, noise, secure};

/// How often the server is restarted under load.
const RESTARTS: usize = 5;

/// Clients of each kind: one connection for a request, or one for many.
const CLIENTS: u64 = 4;

/// Requests that each client has answered before the next restart.
const REQUESTS_BETWEEN: u64 = 3;

/// What is stored before: small, and large enough to be under way when the server has to stop.
const ARTIFACTS: [(&str, usize); 2] = [("small", 1000), ("large", 6 << 20)];

/// A directory with a token, and the artifacts stored by a server of its own.
fn with_artifacts() -> (Dir, Token) {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    for (hash, size) in ARTIFACTS {
        let answer = server.client(&token).put(hash, &noise(7, size));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.stop().code(), Some(0));
    (dir, token)
}

/// A client that GETs the artifacts, one after the other, until it is told to stop.
struct Getter {
    address: SocketAddr,
    token: Token,
    keep_alive: bool,
    idle: Option<Raw>,
    random: Random,
}

/// How far a client is.
#[derive(Default)]
struct Progress {
    asked: AtomicU64,
    answered: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// A request of this client has no answer yet.
    fn is_waiting(&self) -> bool {
        self.asked.load(Ordering::SeqCst) > self.answered.load(Ordering::SeqCst)
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }
}

impl Getter {
    /// Returns how many of its connections the server closed in good order.
    fn run(mut self, progress: &Progress) -> u64 {
        let artifacts = ARTIFACTS.map(|(hash, size)| (hash, noise(7, size)));
        let mut closed = 0;
        for (hash, bytes) in artifacts.iter().cycle() {
            if progress.stop.load(Ordering::SeqCst) {
                break;
            }
            progress.asked.fetch_add(1, Ordering::SeqCst);
            let number = progress.answered();
            closed += self
                .get(hash, bytes)
                .unwrap_or_else(|error| panic!("request {number} for {hash}: {error}"));
            progress.answered.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(self.random.below(20)));
        }
        closed
    }

    fn get(&mut self, hash: &str, bytes: &[u8]) -> io::Result<u64> {
        let mut raw = self.connection()?;
        raw.try_send(self.head(hash))?;
        let answer = raw.try_answer(true)?;
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert!(answer.body == bytes, "another body");
        if !self.keep_alive {
            return Ok(0);
        }
        let closes = answer.closes();
        self.idle = (!closes).then_some(raw);
        Ok(u64::from(closes))
    }

    /// The connection that was left, where the server has not closed it since; or a new one.
    fn connection(&mut self) -> io::Result<Raw> {
        match self.idle.take() {
            Some(raw) if is_open(&raw)? => Ok(raw),
            _ => Raw::try_connect(self.address),
        }
    }

    fn head(&self, hash: &str) -> String {
        let persistence = if self.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        let (path, secret) = (client::path(hash), &self.token.secret);
        format!(
            "GET {path} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {secret}\r\n\
             Connection: {persistence}\r\n\r\n"
        )
    }
}

/// Clients at work.
struct Load {
    clients: Vec<(Arc<Progress>, JoinHandle<u64>)>,
}

impl Load {
    fn start(address: SocketAddr, token: &Token) -> Self {
        let mut random = Random::seeded();
        let client = |number: u64| {
            let getter = Getter {
                address,
                token: token.clone(),
                keep_alive: number.is_multiple_of(2),
                idle: None,
                random: random.fork(),
            };
            let progress = Arc::new(Progress::default());
            let its = Arc::clone(&progress);
            (progress, thread::spawn(move || getter.run(&its)))
        };
        let clients = (0..2 * CLIENTS).map(client).collect();
        Self { clients }
    }

    /// Waits until `done` is true of every client; one that has failed is the end.
    fn wait(&self, what: &str, done: impl Fn(usize, &Progress) -> bool) {
        eventually(what, || {
            let failed = self.clients.iter().any(|(_, thread)| thread.is_finished());
            assert!(!failed, "{what}: a client has failed, see above");
            let mut clients = self.clients.iter().enumerate();
            clients
                .all(|(at, client)| done(at, &client.0))
                .then_some(())
        });
    }

    /// Waits until every client has had some more answers.
    fn wait_for_answers(&self) {
        let before: Vec<u64> = self
            .clients
            .iter()
            .map(|client| client.0.answered())
            .collect();
        self.wait("all clients are served", |at, progress| {
            progress.answered() >= before[at] + REQUESTS_BETWEEN
        });
    }

    /// Ends the clients. How many connections were closed in good order.
    fn stop(self) -> u64 {
        for (progress, _) in &self.clients {
            progress.stop.store(true, Ordering::SeqCst);
        }
        let ended = self.clients.into_iter().map(|(_, thread)| thread.join());
        ended.map(|closed| closed.expect("no client failed")).sum()
    }
}

#[test]
fn the_passed_socket_is_served_in_place_of_the_configured_address() {
    let (dir, token) = with_artifacts();
    let listener = listener();
    let server = start(&dir, &listener);
    assert_eq!(server.client(&token).get("small").body, noise(7, 1000));
    let line = server.wait_for_line(" listening ");
    assert!(line.ends_with(" socket=systemd"), "{line}");
    let ended = server.stop();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
}

#[test]
fn no_request_is_lost_when_the_server_restarts_under_load() {
    let (dir, token) = with_artifacts();
    let listener = listener();
    let mut server = start(&dir, &listener);
    let load = Load::start(server.address(), &token);
    for _ in 0..RESTARTS {
        load.wait_for_answers();
        let ended = server.stop();
        assert_eq!(ended.code(), Some(0), "{}", ended.log);
        assert!(!ended.log.contains("requests were cut"), "{}", ended.log);
        load.wait("all clients wait", |_, progress| progress.is_waiting());
        server = start(&dir, &listener);
    }
    load.wait_for_answers();
    let closed = load.stop();
    assert!(closed > 0, "clients with idle connections met a restart");
}

#[test]
fn over_tls_too_clients_wait_in_the_socket_while_the_server_restarts() {
    let (dir, token) = with_artifacts();
    let authority = Authority::new();
    authority.issue().write_to(dir.path());
    let listener = listener();
    let start = || {
        let variables = format!("{FOR_US} LISTEN_FDS=1");
        let arguments = format!("{UNUSABLE} {}", secure::SETTINGS.join(" "));
        let sockets = vec![shared(&listener)];
        Server::start_command(&mut command(&dir, sockets, &variables, &arguments))
    };
    let server = start();
    let line = server.wait_for_line(" listening ");
    assert!(line.ends_with(" socket=systemd tls=true"), "{line}");
    let address = server.address();
    assert_eq!(server.stop().code(), Some(0));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let (trusted, token) = (authority.trusted(), token.clone());
            // In the queue by the time this returns; nobody answers the handshake yet.
            let raw = Raw::try_connect(address).expect("the socket listens");
            thread::spawn(move || {
                let raw = raw.with_tls(&trusted).expect("a handshake");
                let mut client = support::Client::over(raw, Some(&token.secret));
                client.get("small").body
            })
        })
        .collect();
    let _server = start();
    for client in waiting {
        assert_eq!(client.join().expect("an answer"), noise(7, 1000));
    }
}

#[test]
fn an_idle_connection_is_closed_in_good_order_and_its_client_comes_back() {
    let (dir, token) = with_artifacts();
    let listener = listener();
    let server = start(&dir, &listener);
    let mut idle = server.client(&token);
    assert!(!idle.get("small").closes());
    let silent = server.connect();
    assert_eq!(server.stop().code(), Some(0));
    for raw in [idle.raw, silent] {
        assert!(!is_open(&raw).expect("no reset"));
    }
    let address = listener.local_addr().expect("bound");
    let mut queued = support::Client::new(address, Some(&token.secret));
    queued.begin("GET", &client::path("small"), &[]);
    let _server = start(&dir, &listener);
    assert_eq!(queued.raw.answer().body, noise(7, 1000));
}

#[test]
fn a_socket_for_another_process_is_left_alone() {
    let dir = Dir::new();
    let listener = listener();
    let sockets = vec![shared(&listener)];
    let mut command = command(&dir, sockets, "LISTEN_PID=1 LISTEN_FDS=1", "127.0.0.1:0");
    let server = Server::start_command(&mut command);
    assert_ne!(server.address(), listener.local_addr().expect("bound"));
    let line = server.wait_for_line(" listening ");
    assert!(!line.contains("socket="), "{line}");
}

#[test]
fn what_is_no_listening_tcp_socket_is_refused() {
    let dir = Dir::new();
    let listener = listener();
    let address = listener.local_addr().expect("bound");
    let file = std::fs::File::open(BINARY).expect("the binary is readable");
    let connected = TcpStream::connect(address).expect("it listens");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let local = UnixListener::bind(dir.join("socket")).expect("a local socket");
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    bound.bind(&any.into()).expect("a free port");
    let wrong: [Vec<OwnedFd>; 6] = [
        vec![],
        vec![file.into()],
        vec![connected.into()],
        vec![datagrams.into()],
        vec![local.into()],
        vec![bound.into()],
    ];
    for sockets in wrong {
        println!("passed: {sockets:?}");
        let variables = format!("{FOR_US} LISTEN_FDS=1");
        let outcome = run(&mut command(&dir, sockets, &variables, "127.0.0.1:0"));
        outcome.failed(
            1,
            "error: what systemd passed (LISTEN_FDS) is not a listening TCP socket\n",
        );
    }
    assert_eq!(dir.files(), ["socket"], "no database was made");
}

#[test]
fn more_than_one_socket_is_refused() {
    let dir = Dir::new();
    let sockets = vec![shared(&listener()), shared(&listener())];
    let variables = format!("{FOR_US} LISTEN_FDS=2");
    run(&mut command(&dir, sockets, &variables, "127.0.0.1:0")).failed(
        1,
        "error: systemd passed 2 sockets (LISTEN_FDS), and the server takes one\n",
    );
    assert_eq!(dir.files(), [""; 0], "no database was made");
}
