//! The start and the stop of a server.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use crate::stopped::Stopped;
use crate::support::dir::BINARY;
use crate::support::fault::{Trap, usual};
use crate::support::{Client, Random, eventually, noise};
use crate::watched::serve;

/// Places of each fault in CI.
const USUAL: u64 = 1;

/// A server that may not come up; killed when dropped.
struct Starting(Child);

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_starts_or_says_why_not() {
    let stopped = Stopped::new();
    let token = stopped.dir.token("write");
    let series = stopped.series("start", USUAL);
    series.run(&mut Random::seeded(), &usual(), |trap| {
        starts_in(&stopped, trap, &token.secret);
    });
    stopped.is_whole("at the end");
    stopped.dir.cli(&["verify"]).done();
}

fn starts_in(stopped: &Stopped, trap: &Trap, secret: &str) {
    let mut command = stopped.dir.command(BINARY);
    command.args(["serve", "--listen", "127.0.0.1:0", "--set"]);
    command.args(["limits.database_wait=3s", "--set", "log.requests=false"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    stopped.control.load("fail", &mut command);
    let (mut server, mut log, line) = trap.during(|| {
        let mut server = Starting(command.spawn().expect("the program starts"));
        let mut log = BufReader::new(server.0.stderr.take().expect("a pipe"));
        let line = last_line(&mut log);
        (server, log, line)
    });
    let place = format!("{}: {line}", trap.place());
    let Some((_, rest)) = line.split_once(" listening address=") else {
        let code = server.0.wait().expect("a child").code();
        assert!(!trap.is_harmless(), "{place}");
        assert!(
            code == Some(1) && line.starts_with("error: "),
            "{code:?} {place}"
        );
        stopped.is_whole(&place);
        return;
    };
    // One that listens does all that it should, once nothing fails any more.
    let address = rest.trim_end().parse().expect("an address");
    let mut client = Client::new(address, Some(secret));
    let answer = client.get("1");
    assert!(
        answer.status == 200 && answer.body == noise(1, 900_000),
        "{place}"
    );
    assert_ne!(client.put("1", b"other").status, 200, "{place}");
    assert!(server.0.try_wait().expect("a child").is_none(), "{place}");
    let kill = format!("kill -TERM {}", server.0.id());
    stopped.dir.shell(&kill).done();
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("a log");
    let code = server.0.wait().expect("a child").code();
    assert_eq!(code, Some(0), "{place} {rest}");
    assert!(!rest.contains("panicked"), "{place} {rest}");
}

/// The line that says where the server listens, or the last one but hints.
fn last_line(log: &mut impl BufRead) -> String {
    let mut last = String::new();
    loop {
        let mut line = String::new();
        let count = log.read_line(&mut line).expect("a log");
        if line.contains(" listening address=") {
            return line;
        }
        assert!(!line.contains("panicked"), "{line}");
        if count == 0 {
            return last;
        }
        if !line.starts_with("try: ") {
            last = line;
        }
    }
}

#[test]
fn a_server_stops_and_leaves_what_was_acknowledged() {
    let stopped = Stopped::new();
    let token = stopped.dir.token("write");
    let series = stopped.series("stop", USUAL);
    let mut number = 100;
    series.run(&mut Random::seeded(), &usual(), |trap| {
        let server = serve(&stopped.dir, &stopped.control, &["log.requests=false"]);
        number += 1;
        let hash = number.to_string();
        let put = server.client(&token).put(&hash, &noise(number, 300_000));
        assert_eq!(put.status, 200);
        // Its use and that of the token are still to be written.
        assert_eq!(server.client(&token).get(&hash).status, 200);
        let ended = trap.during(|| server.stop());
        let place = format!("{}: {}", trap.place(), ended.log);
        assert_eq!(ended.code(), Some(0), "{place}");
        assert!(!ended.log.contains("panicked"), "{place}");
        let left = stopped.dir.files();
        let has_log = left.iter().any(|name| name.starts_with("cachesrv.db-"));
        assert!(!has_log || !trap.is_harmless(), "{place} {left:?}");
        let server = serve(&stopped.dir, &stopped.control, &[]);
        let answer = server.client(&token).get(&hash);
        let is_there = answer.status == 200 && answer.body == noise(number, 300_000);
        assert!(is_there, "{place}");
        assert_eq!(server.stop().code(), Some(0), "{place}");
    });
    stopped.dir.cli(&["verify"]).done();
    eventually("one file is left", || {
        let left = stopped.dir.files();
        (!left.iter().any(|name| name.starts_with("cachesrv.db-"))).then_some(())
    });
}
