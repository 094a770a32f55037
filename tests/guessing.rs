//! What a token costs: Argon2 once for each token and process, whoever asks and however many at once, and
//! nothing for those who guess. Counted by the server itself, which says so in its last line; no clock.

mod support;

use std::sync::Barrier;
use std::thread;

use support::guess::{bad_check, unknown_id, wrong_secret};
use support::{Client, Dir, Raw, Server, client};

/// Connections of those who guess.
const GUESSERS: u64 = 8;

/// Guesses of each kind.
const GUESSES: u64 = 10_000;

/// Requests that are sent before their answers are read.
const PIPELINED: u64 = 125;

const UNKNOWN: &str = "this cache does not know this token: check that it was made for this server, or set \
                       NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made by `cachesrv token create`\n";
const MISTYPED: &str = "this token was mistyped or cut short, its check digits are wrong: copy the whole line \
                        that `cachesrv token create` printed into NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN\n";

/// Sends one request on each of these connections in the same moment, PUT and GET by turns, and expects
/// what a write token gets for artifacts that do not exist. Their hashes begin with `prefix`.
fn first_requests(prefix: &str, clients: Vec<Client>) {
    let start = Barrier::new(clients.len());
    thread::scope(|scope| {
        for (number, mut client) in clients.into_iter().enumerate() {
            let start = &start;
            scope.spawn(move || {
                let hash = format!("{prefix}{number}");
                start.wait();
                if number.is_multiple_of(2) {
                    assert_eq!(client.get(&hash).status, 404, "{number}");
                } else {
                    assert_eq!(client.put(&hash, b"bytes").status, 200, "{number}");
                }
            });
        }
    });
}

#[test]
fn two_hundred_first_requests_at_once_cost_one_argon2() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    first_requests("", (0..200).map(|_| server.client(&token)).collect());
    for number in 0..200 {
        let stored = !u64::is_multiple_of(number, 2);
        let status = server.client(&token).get(&number.to_string()).status;
        assert_eq!(status, if stored { 200 } else { 404 }, "{number}");
    }
    assert_eq!(server.stop().argon2_runs(), 1);
}

#[test]
fn each_living_token_costs_one_argon2_in_each_process() {
    let dir = Dir::new();
    let tokens = ["write", "write", "write"].map(|access| dir.token(access));
    for format in ["text", "json"] {
        let set = format!("log.format={format}");
        let server = Server::start_with(&dir, &["--set", &set]);
        let clients = (0..60).map(|number| server.client(&tokens[number % 3]));
        first_requests(format, clients.collect());
        let ended = server.stop();
        assert_eq!(ended.argon2_runs(), 3, "{}", ended.log);
    }
}

#[test]
fn a_dead_token_costs_no_argon2() {
    let dir = Dir::new();
    let [revoked, expired] = ["write", "write"].map(|access| dir.token(access));
    dir.cli(&["token", "revoke", &revoked.id]).done();
    let sql = "UPDATE tokens SET expires_at_ms = 1 WHERE public_id = ?1";
    let changed = dir.sqlite().execute(sql, [&expired.id]);
    assert_eq!(changed, Ok(1));
    let server = Server::start(&dir);
    for token in [&revoked, &expired] {
        for _ in 0..20 {
            let mut client = server.client(token);
            assert_eq!(client.get("1").status, 401);
            assert_eq!(client.put("1", b"bytes").status, 401);
        }
    }
    assert_eq!(server.stop().argon2_runs(), 0);
}

#[test]
fn guessing_costs_no_argon2() {
    let dir = Dir::new();
    let token = dir.token("write");
    let never_used = dir.token("write");
    let server = Server::start_with(&dir, &["--set", "log.requests=false"]);
    let mut valid = server.client(&token);
    assert_eq!(valid.put("1", b"bytes").status, 200);
    let mut random = support::Random::seeded();
    thread::scope(|scope| {
        for _ in 0..GUESSERS {
            let (mut random, mut raw) = (random.fork(), server.connect());
            let (token, never_used) = (&token, &never_used);
            scope.spawn(move || {
                let mut number = || random.number();
                let half = GUESSES / GUESSERS / 2;
                for id in [&token.secret, &never_used.secret] {
                    guess(&mut raw, half, UNKNOWN, || wrong_secret(&mut number, id));
                }
                guess(&mut raw, 2 * half, UNKNOWN, || unknown_id(&mut number));
                let mistyped = || bad_check(&mut number, &token.secret);
                guess(&mut raw, 2 * half, MISTYPED, mistyped);
            });
        }
        for _ in 0..100 {
            assert_eq!(valid.get("1").body, b"bytes");
        }
    });
    assert_eq!(valid.get("1").body, b"bytes");
    assert_eq!(server.stop().argon2_runs(), 1, "the valid client's own");
}

/// Asks so many times, each time with another token, and expects 401 and this sentence.
fn guess(raw: &mut Raw, count: u64, sentence: &str, mut token: impl FnMut() -> String) {
    for _ in 0..count / PIPELINED {
        let mut request = |_| {
            let fields = format!("Host: cache\r\nAuthorization: Bearer {}\r\n", token());
            format!("GET {} HTTP/1.1\r\n{fields}\r\n", client::path("1"))
        };
        let requests: Vec<String> = (0..PIPELINED).map(&mut request).collect();
        raw.send(requests.concat());
        for _ in 0..PIPELINED {
            let answer = raw.answer();
            assert_eq!((answer.status, answer.text()), (401, sentence));
        }
    }
}
