//! What survives a stop and a copy, and what a kill leaves behind (that it loses nothing is in `crash.rs`).
//!
//! Guaranteed: what an interrupted upload left in the file is freed. A clean stop leaves one file, and so do writes
//! that pause; neither waits for whoever keeps the log from being folded.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::{Client, Dir, Server, Token, eventually, noise};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// An artifact. Its bytes follow from its hash, which is a number, and its size.
struct Sent {
    hash: u64,
    size: usize,
}

impl Sent {
    fn name(&self) -> String {
        self.hash.to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        noise(self.hash, self.size)
    }
}

/// Whether the server has this artifact; it must have all of it or nothing.
fn has(client: &mut Client, sent: &Sent) -> bool {
    let answer = client.get(&sent.name());
    match answer.status {
        200 => {
            assert!(answer.body == sent.bytes(), "{} is not whole", sent.hash);
            true
        }
        404 => false,
        status => panic!("{status} for {}", sent.hash),
    }
}

/// No row and no chunk but those of stored artifacts, and every one of them whole.
fn only_whole_artifacts_are_left(dir: &Dir) {
    eventually("what was interrupted is freed", || {
        let others = dir.number("SELECT count(*) FROM artifacts WHERE state <> 'stored'");
        let orphans = dir
            .number("SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)");
        (others + orphans == 0).then_some(())
    });
    let wrong = "SELECT count(*) FROM artifacts WHERE size_bytes <>
                 (SELECT coalesce(sum(length(data)), 0) FROM chunks WHERE chunks.id >> 20 = artifacts.id)";
    assert_eq!(dir.number(wrong), 0);
    let verdict: String = dir
        .sqlite()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a verdict");
    assert_eq!(verdict, "ok");
}

#[test]
fn an_upload_that_a_crash_interrupts_is_swept_away_at_the_next_start() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let bytes = noise(1, 10 * MIB);
    let mut client = server.client(&token);
    client.begin_put("1", bytes.len());
    client.raw.send(&bytes[..9 * MIB]);
    eventually("a part of it is in the file", || {
        (dir.number("SELECT count(*) FROM chunks") > 4).then_some(())
    });
    // Nobody sees it.
    assert_eq!(server.client(&token).get("1").status, 404);
    server.kill();
    let server = Server::start(&dir);
    server.wait_for_line("info swept away interrupted uploads uploads=1");
    assert_eq!(server.client(&token).get("1").status, 404);
    only_whole_artifacts_are_left(&dir);
    assert_eq!(dir.number("SELECT count(*) FROM chunks"), 0);
    assert_eq!(server.client(&token).put("1", &bytes).status, 200);
    assert!(server.client(&token).get("1").body == bytes);
}

#[test]
fn a_token_that_was_revoked_stays_revoked_when_everything_is_killed() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("1", b"bytes").status, 200);
    dir.cli(&["token", "revoke", &token.id]).done();
    server.kill();
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).get("1").status, 401);
}

/// Artifacts around the borders of what is stored how.
fn fill(server: &Server, token: &Token) -> Vec<Sent> {
    let sizes = [0, 1, 295, 128 * KIB, 256 * KIB + 1, 3 * MIB, 20 * MIB];
    let sent = |(hash, &size): (usize, &usize)| Sent {
        hash: hash as u64,
        size,
    };
    let all: Vec<Sent> = sizes.iter().enumerate().map(sent).collect();
    let mut client = server.client(token);
    for sent in &all {
        assert_eq!(client.put(&sent.name(), &sent.bytes()).status, 200);
    }
    all
}

/// From this length on large uploads wait for the log to be folded.
const LONG_LOG_BYTES: u64 = 192 << 20;

/// Keeps the log from being folded by a snapshot, and stores until it is long.
fn hold_a_long_log(dir: &Dir, client: &mut Client) -> rusqlite::Connection {
    let reader = rusqlite::Connection::open(dir.db()).expect("the database");
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM artifacts")
        .expect("a snapshot");
    let log_bytes = || fs::metadata(dir.join("cachesrv.db-wal")).map_or(0, |log| log.len());
    let (bulk, small) = (noise(1, 1 << 20), noise(2, 100_000));
    let mut numbers = 0..;
    let mut put = |body: &[u8]| {
        let hash = numbers.next().unwrap_or(0).to_string();
        assert_eq!(client.put(&hash, body).status, 200);
    };
    while log_bytes() < LONG_LOG_BYTES - (2 << 20) {
        put(&bulk);
    }
    while log_bytes() < LONG_LOG_BYTES + (1 << 20) {
        put(&small);
    }
    reader
}

#[test]
fn a_stop_does_not_wait_for_whoever_keeps_a_long_log() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let mut client = server.client(&token);
    let reader = hold_a_long_log(&dir, &mut client);
    // What the housekeeper writes of these reads has to wait, too.
    for hash in 0..20 {
        assert_eq!(client.get(&hash.to_string()).status, 200);
    }
    assert!(server.stop().status.success());
    drop(reader);
}

/// Large uploads wait while the log is long. When whoever kept it from being folded is gone, it is folded, also
/// where nothing but a trickle of small uploads makes it longer.
#[test]
fn large_uploads_go_on_soon_after_a_reader_let_go_of_a_long_log() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start_with(&dir, &["--set", "limits.database_wait=5s"]);
    let mut client = server.client(&token);
    let reader = hold_a_long_log(&dir, &mut client);
    let bulk = noise(3, 1 << 20);
    let put = |client: &mut Client, hash: &str| client.put(hash, &bulk).status;
    assert_eq!(put(&mut client, "held"), 403, "the reader is still there");
    reader.execute_batch("COMMIT").expect("its end");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Without these the log would be folded because writes paused.
        let trickle = scope.spawn(|| {
            let mut client = server.client(&token);
            for number in 1_000_000.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                assert_eq!(client.put(&number.to_string(), b"x").status, 200);
                thread::sleep(Duration::from_millis(100));
            }
        });
        let status = put(&mut client, "free");
        stop.store(true, Ordering::Relaxed);
        trickle.join().expect("the trickle");
        assert_eq!(status, 200);
    });
}

#[test]
fn a_clean_stop_leaves_exactly_one_file_with_everything_in_it() {
    let dir = Dir::new();
    let token = dir.token("write");
    for round in 0..3 {
        let server = Server::start(&dir);
        let mut all = Vec::new();
        if round == 0 {
            all = fill(&server, &token);
        }
        let mut client = server.client(&token);
        assert_eq!(client.put(&format!("round-{round}"), b"bytes").status, 200);
        for sent in &all {
            assert!(has(&mut client, sent));
        }
        // One client stays connected, idle.
        let ended = server.stop();
        assert_eq!(
            (ended.code(), ended.signal()),
            (Some(0), None),
            "{}",
            ended.log
        );
        assert_eq!(dir.files(), ["cachesrv.db"]);
    }
}

#[test]
fn a_plain_copy_of_the_one_file_serves_everything_once_writes_paused() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let all = fill(&server, &token);
    let log = dir.join("cachesrv.db-wal");
    eventually("the log is empty", || {
        (std::fs::metadata(&log).expect("a log").len() == 0).then_some(())
    });
    let copy = Dir::new();
    std::fs::copy(dir.db(), copy.db()).expect("a copy");
    // The original goes on, and the copy does not see it.
    assert_eq!(server.client(&token).put("later", b"bytes").status, 200);
    let second = Server::start(&copy);
    let mut client = second.client(&token);
    for sent in &all {
        assert!(has(&mut client, sent), "{} is not in the copy", sent.hash);
    }
    assert_eq!(client.get("later").status, 404);
    assert_eq!(client.put("later", b"other").status, 200);
    assert_eq!(server.client(&token).get("later").body, b"bytes");
    only_whole_artifacts_are_left(&copy);
}
