//! `cachesrv doctor`: each finding provoked for real, its text and its remedy; the round trip, and that nothing of
//! it is left.

mod support;

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use serde_json::Value;
use support::dir::{BINARY, run};
use support::fake::{self, Fake};
use support::{Dir, Outcome, Server, Token, entries, eventually};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// One thing that doctor found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    level: String,
    check: String,
    message: String,
    command: Option<String>,
    advice: Option<String>,
}

/// All that a run of doctor found.
#[derive(Debug)]
struct Report {
    found: Vec<Found>,
}

impl Report {
    fn of(outcome: &Outcome) -> Self {
        assert_eq!(outcome.stderr, "", "{outcome:?}");
        let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        let text = |finding: &Value, key: &str| finding[key].as_str().map(str::to_owned);
        let found: Vec<Found> = report["findings"]
            .as_array()
            .expect("findings")
            .iter()
            .map(|finding| Found {
                level: text(finding, "level").expect("a level"),
                check: text(finding, "check").expect("a check"),
                message: text(finding, "message").expect("a message"),
                command: text(finding, "try"),
                advice: text(finding, "fix"),
            })
            .collect();
        let count = |level: &str| found.iter().filter(|found| found.level == level).count();
        assert_eq!(report["problems"], count("problem"));
        assert_eq!(report["warnings"], count("warning"));
        let code = i32::from(count("problem") > 0);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        Self { found }
    }

    /// What of one check is not ok.
    fn bad(&self, check: &str) -> Vec<&Found> {
        let of = |found: &&Found| found.check == check && found.level != "ok";
        self.found.iter().filter(of).collect()
    }

    /// The one finding of a check that is not ok.
    #[track_caller]
    fn one(&self, check: &str) -> &Found {
        match self.bad(check)[..] {
            [found] => found,
            _ => panic!("not one {check}: {:#?}", self.found),
        }
    }

    #[track_caller]
    fn none(&self, check: &str) {
        assert!(self.bad(check).is_empty(), "{:#?}", self.bad(check));
    }

    fn messages(&self, check: &str) -> Vec<&str> {
        let of = self.found.iter().filter(|found| found.check == check);
        of.map(|found| found.message.as_str()).collect()
    }
}

impl Found {
    /// A finding without advice; `command` as it is typed.
    #[track_caller]
    fn is(&self, level: &str, message: &str, command: &str) {
        let expected = (level, message, Some(command));
        let found = (&self.level[..], &self.message[..], self.command.as_deref());
        assert_eq!(found, expected);
    }

    /// Types the command.
    #[track_caller]
    fn obey(&self, dir: &Dir) {
        let command = self.command.as_ref().expect("a command");
        let line = match command.strip_prefix("cachesrv ") {
            Some(rest) => format!("\"$cachesrv\" {rest}"),
            None => command.clone(),
        };
        dir.shell(&line).done();
    }
}

/// The setting of an address at which nobody listens, unlike at the default one.
const NOBODY: [&str; 2] = ["--set", "listen=127.0.0.1:1"];

/// What doctor finds in this directory, with further arguments; no server need run.
#[track_caller]
fn doctor(dir: &Dir, args: &[&str]) -> Report {
    let says_where = |arg: &str| arg.starts_with("listen=") || arg == "--url";
    let nobody = if args.iter().any(|arg| says_where(arg)) {
        &[][..]
    } else {
        &NOBODY
    };
    let args = [nobody, args].concat();
    Report::of(&dir.cli(&[&["doctor", "--json"][..], &args].concat()))
}

/// The same for the configuration of this server.
#[track_caller]
fn doctor_of(dir: &Dir, server: &Server, args: &[&str]) -> Report {
    let listen = format!("listen={}", server.address());
    doctor(dir, &[&["--set", &listen][..], args].concat())
}

/// A database without a server, with a token that is as it should be.
fn with_token() -> Dir {
    let dir = Dir::new();
    dir.token_with(&["--write", "--expires", "90d"]);
    dir
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

/// Waits until a server has folded its log, as it does when it is quiet.
fn log_is_folded(dir: &Dir) {
    eventually("the log is folded", || {
        let log = dir.join("cachesrv.db-wal").metadata();
        log.is_ok_and(|log| log.len() == 0).then_some(())
    });
}

/// The lines of a text that do not depend on the machine.
fn without_machine(text: &str) -> String {
    let of_machine = ["disk: ", "file system: "];
    let lines = text.split_inclusive('\n');
    let is_ours = |line: &&str| !of_machine.iter().any(|check| line.contains(check));
    lines.filter(is_ours).collect()
}

const ROUND_TRIP: [&str; 12] = [
    "a hash that nobody stored is a miss (404)",
    "an upload is stored (200)",
    "a download is a hit (200)",
    "HEAD tells its length (200)",
    "an entry is not replaced (409)",
    "a read token downloads (200)",
    "a read token may not upload (403)",
    "a token that nobody made is refused (401)",
    "an isolated token downloads what is trusted (200)",
    "an isolated token stores in its own scope (200)",
    "what it stored is a miss for the trusted scope (404)",
    "a revoked token is refused on the next request (401)",
];

/// No row and no token of a round trip is there.
#[track_caller]
fn nothing_is_left(dir: &Dir) {
    let db = dir.sqlite();
    for sql in [
        "SELECT count(*) FROM artifacts WHERE hash LIKE 'doctor-%'",
        "SELECT count(*) FROM tokens WHERE name LIKE 'doctor-%'",
        "SELECT count(*) FROM scopes WHERE name LIKE 'doctor-%'",
        "SELECT count(*) FROM isolated_usage WHERE scope_id NOT IN (SELECT id FROM scopes)",
        "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)",
        "SELECT count(*) FROM pragma_foreign_key_check",
    ] {
        assert_eq!(support::dir::number(&db, sql), 0, "{sql}");
    }
    entries::counters_are_facts(&db);
}

#[test]
fn a_server_that_is_well_is_told_in_lines_and_the_exit_code_is_0() {
    let dir = with_token();
    dir.sqlite()
        .execute(
            "INSERT INTO backups (finished_at_ms, size_bytes, destination)
             VALUES (unixepoch() * 1000, 1, '/backups/b.db')",
            [],
        )
        .expect("a row");
    let at = dir.number("SELECT finished_at_ms FROM backups") / 1000;
    let at = dir
        .shell(&format!("date -u -d @{at} '+%Y-%m-%d %H:%M'"))
        .done();
    let server = Server::start(&dir);
    let url = format!("http://{}", server.address());
    let listen = format!("listen={}", server.address());
    log_is_folded(&dir);
    let outcome = dir.cli(&["doctor", "--set", &listen]);
    let trip = ROUND_TRIP
        .map(|line| {
            format!(
                "ok       round trip: {line}
"
            )
        })
        .concat();
    let expected = format!(
        "ok       configuration: no file, 1 setting by a variable or flag
ok       permissions: the files are private
ok       log: empty, the one file is complete
ok       database: schema 3, its pages are sound
ok       limits: 0 artifacts, 0 B: within all limits
ok       clock: nothing in the database is newer than now
ok       backup: the last one is of {}, '/backups/b.db'
ok       tokens: 1 of 1 live
ok       server: cachesrv 0.1.0 answers at {url}
{trip}
no problem",
        at.trim()
    );
    let stdout = without_machine(&outcome.stdout);
    assert!(stdout.starts_with(&expected), "{stdout}\n{expected}");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

#[test]
fn nothing_of_a_round_trip_is_left_and_nothing_else_is_touched() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "doctor-of-ours", "--expires", "9m"]);
    let server = Server::start(&dir);
    assert_eq!(
        server.client(&token).put("doctor-ours", b"kept").status,
        200
    );
    let before = (
        entries::all(&dir.sqlite()),
        dir.cli(&["token", "list", "--json"]).done(),
    );
    let report = doctor_of(&dir, &server, &[]);
    assert_eq!(report.messages("round trip"), ROUND_TRIP);
    assert_eq!(entries::all(&dir.sqlite()), before.0);
    let tokens: Value =
        serde_json::from_str(&dir.cli(&["token", "list", "--json"]).done()).expect("JSON");
    assert_eq!(tokens.as_array().map(Vec::len), Some(1));
    let db = dir.sqlite();
    assert_eq!(entries::under(&db, "doctor-ours").len(), 1);
    db.execute("UPDATE tokens SET name = 'x'", [])
        .expect("a name");
    let others =
        "SELECT count(*) FROM artifacts WHERE hash LIKE 'doctor-%' AND hash <> 'doctor-ours'";
    assert_eq!(dir.number(others), 0);
    assert_eq!(
        dir.number("SELECT count(*) FROM scopes WHERE name IS NOT NULL"),
        0
    );
    // Another run finds the same, and the ids of before are not used again.
    assert_eq!(
        doctor_of(&dir, &server, &[]).messages("round trip"),
        ROUND_TRIP
    );
    let ended = server.stop();
    assert!(!ended.log.contains("csrv_"), "{}", ended.log);
    assert!(!ended.log.contains(" error "), "{}", ended.log);
}

#[test]
fn a_round_trip_needs_the_workspace_that_the_url_names() {
    let dir = with_token();
    dir.cli(&["workspace", "add", "shop"]).done();
    let server = Server::start(&dir);
    let url = |place: &str| format!("http://{}{place}", server.address());
    let report = doctor(&dir, &["--url", &url("/w/shop/s/pr-1")]);
    assert_eq!(report.messages("round trip"), ROUND_TRIP);
    assert!(server.log().contains("workspace=shop"));
    nothing_is_left(&dir);
    doctor(&dir, &["--url", &url("/w/nowhere")])
        .one("round trip")
        .is(
            "problem",
            "the URL names workspace 'nowhere', which this database does not have",
            "cachesrv workspace list",
        );
}

#[test]
fn a_server_with_another_database_is_told_from_ours() {
    let (dir, other) = (with_token(), with_token());
    let server = Server::start(&other);
    let report = doctor_of(&dir, &server, &[]);
    assert_eq!(
        report.one("round trip").message,
        "no server has 'cachesrv.db' open: the one that answers has another database"
    );
    // It was told no token.
    assert!(!server.log().contains("/v1/cache/"), "{}", server.log());
    let _ours = Server::start(&dir);
    let report = doctor_of(&dir, &server, &[]);
    let found = report.one("round trip");
    assert!(
        found.message.starts_with(
            "not so: a hash that nobody stored is a miss; the answer is 401, 'this cache does not know this token"
        ),
        "{found:?}"
    );
    assert!(
        found
            .advice
            .as_ref()
            .is_some_and(|fix| fix.starts_with("the server has another database"))
    );
    nothing_is_left(&dir);
    nothing_is_left(&other);
}

#[test]
fn a_server_that_does_not_store_says_why() {
    let dir = with_token();
    let server = Server::start_with(&dir, &["--set", "limits.artifact_max_size=100KiB"]);
    let report = doctor_of(&dir, &server, &[]);
    assert_eq!(
        report.one("round trip").message,
        "not so: an upload is stored; the answer is 403, 'the artifact has 300KB, this cache takes 100KiB: raise \
         limits.artifact_max_size'"
    );
    nothing_is_left(&dir);
    // With the same limit in the configuration of doctor, it stores less.
    let report = doctor_of(&dir, &server, &["--set", "limits.artifact_max_size=100KiB"]);
    assert_eq!(report.messages("round trip"), ROUND_TRIP);
}

#[test]
fn an_answer_that_fails_every_nx_is_a_problem() {
    let dir = with_token();
    let server = Server::start_with(&dir, &["--set", "nx.put_status=202"]);
    let report = doctor_of(&dir, &server, &[]);
    let found = report.one("round trip");
    assert_eq!(
        found.message,
        "not so: an upload is stored; the answer is 202"
    );
    assert_eq!(
        found.advice.as_deref(),
        Some("set nx.put_status = 200 in its configuration and restart the server")
    );
    nothing_is_left(&dir);
    let warned = doctor(&dir, &["--set", "nx.put_status=202"]);
    assert_eq!(
        warned.one("configuration").message,
        "nx.put_status is 202, which fails the runs of every published Nx"
    );
}

/// A server that says it is one of ours and hands the rest to `answer`.
fn like_ours(answer: impl Fn(&fake::Asked) -> (String, String) + Send + Sync + 'static) -> Fake {
    Fake::new(move |asked| match asked.path.as_str() {
        "/" => {
            let version = env!("CARGO_PKG_VERSION");
            (
                "200 OK".to_owned(),
                format!("cachesrv {version}: a remote cache for Nx\n"),
            )
        }
        "/readyz" => ("200 OK".to_owned(), "ok\n".to_owned()),
        _ => answer(asked),
    })
}

#[test]
fn what_a_proxy_does_to_answers_is_found() {
    for (status, advice) in [
        (
            "413 Content Too Large",
            "the proxy before it refuses large bodies: in nginx, client_max_body_size 0",
        ),
        (
            "502 Bad Gateway",
            "the proxy before it does not reach the server: see that it is running, and the log of the proxy",
        ),
        (
            "301 Moved\r\nLocation: /x",
            "give Nx the URL that the answer leads to: it follows none",
        ),
    ] {
        let dir = with_token();
        let _server = Server::start(&dir);
        let fake = like_ours(move |asked| match asked.method.as_str() {
            "PUT" => (status.to_owned(), String::new()),
            _ => ("404 Not Found".to_owned(), String::new()),
        });
        let report = doctor(&dir, &["--url", &fake.url()]);
        let found = report.one("round trip");
        let code = &status[..3];
        assert_eq!(
            found.message,
            format!("not so: an upload is stored; the answer is {code}")
        );
        assert_eq!(found.advice.as_deref(), Some(advice));
        nothing_is_left(&dir);
    }
}

#[test]
fn a_server_that_stores_and_serves_for_everybody_is_found_out() {
    let dir = with_token();
    let _server = Server::start(&dir);
    let stored = Mutex::new(HashSet::new());
    let fake = like_ours(move |asked| {
        let mut stored = stored.lock().expect("one at a time");
        if asked.method == "PUT" {
            stored.insert(asked.path.clone());
        }
        if stored.contains(&asked.path) {
            ("200 OK".to_owned(), "other bytes".to_owned())
        } else {
            ("404 Not Found".to_owned(), String::new())
        }
    });
    let report = doctor(&dir, &["--url", &fake.url()]);
    let bad = report.bad("round trip");
    let messages: Vec<&str> = bad.iter().map(|found| found.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "not so: a download has the bytes that were stored; they differ",
            "not so: HEAD tells its length; it does not",
            "not so: an entry is not replaced; the answer is 200, 'other bytes'",
            "not so: a read token may not upload; the answer is 200, 'other bytes'",
            "not so: a token that nobody made is refused; the answer is 200, 'other bytes'",
            "not so: what it stored is a miss for the trusted scope; the answer is 200, 'other bytes'",
            "not so: a revoked token is refused on the next request; the answer is 200, 'other bytes'",
        ]
    );
    assert!(
        bad.iter()
            .all(|found| found.level == "problem" && found.advice.is_some())
    );
    nothing_is_left(&dir);
}

#[test]
fn a_body_that_is_encoded_on_its_way_is_found() {
    let dir = with_token();
    let _server = Server::start(&dir);
    let is_stored = AtomicBool::new(false);
    let fake = like_ours(move |asked| match asked.method.as_str() {
        "PUT" if !is_stored.swap(true, Ordering::Relaxed) => ("200 OK".to_owned(), String::new()),
        "GET" if is_stored.load(Ordering::Relaxed) => (
            "200 OK\r\nContent-Encoding: gzip".to_owned(),
            "?".to_owned(),
        ),
        _ => ("404 Not Found".to_owned(), String::new()),
    });
    let report = doctor(&dir, &["--url", &fake.url()]);
    let first = report.bad("round trip")[0];
    assert_eq!(
        first.message,
        "not so: a download has the bytes that were stored; it was encoded on its way, which Nx does not undo"
    );
}

#[test]
fn a_refusal_that_nx_would_not_show_is_found() {
    let dir = Dir::new();
    let fake = like_ours(|_| {
        let status = "401 Unauthorized\r\nContent-Type: text/html; charset=utf-8";
        (status.to_owned(), "<html>".to_owned())
    });
    let token = elsewhere().1;
    let outcome = piped(
        &dir,
        &token.secret,
        &["doctor", "--json", "--url", &fake.url(), "--token-stdin"],
    );
    let report = Report::of(&outcome);
    assert_eq!(
        report.messages("round trip"),
        [
            "the token is refused: <html>",
            "not so: a refusal says why; its Content-Type is 'text/html; charset=utf-8', not exactly 'text/plain'"
        ]
    );
}

/// A server that takes a request for an artifact and does not answer before `go` does.
fn stalling() -> (Fake, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (reached, is_reached) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let fake = like_ours(move |_| {
        let _ = reached.send(());
        let _ = may_go.lock().expect("one at a time").recv();
        ("404 Not Found".to_owned(), String::new())
    });
    (fake, is_reached, go)
}

#[test]
fn an_interrupted_round_trip_leaves_nothing() {
    for signal in ["TERM", "INT", "HUP"] {
        let dir = with_token();
        let _server = Server::start(&dir);
        let (fake, is_reached, go) = stalling();
        let mut command = dir.command(BINARY);
        command.args(["doctor", "--url", &fake.url()]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cachesrv");
        is_reached
            .recv_timeout(support::PATIENCE)
            .expect("a request");
        assert_eq!(
            dir.number("SELECT count(*) FROM tokens WHERE name LIKE 'doctor-%'"),
            3
        );
        dir.shell(&format!("kill -{signal} {}", child.id())).done();
        // The signal is there before the answer.
        let status = format!("/proc/{}/status", child.id());
        eventually("the signal was taken", || {
            let status = fs::read_to_string(&status).expect("its status");
            let pending = status
                .lines()
                .filter(|line| line.starts_with("SigPnd") || line.starts_with("ShdPnd"));
            pending
                .clone()
                .all(|line| line.ends_with("0000000000000000"))
                .then_some(())
        });
        go.send(()).expect("it waits");
        let output = child.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(1), "{signal}: {output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "error: interrupted; nothing of the round trip is left\n"
        );
        nothing_is_left(&dir);
    }
}

#[test]
fn what_a_killed_round_trip_leaves_dies_by_itself_and_the_next_one_removes_it() {
    let dir = with_token();
    let server = Server::start(&dir);
    let (fake, is_reached, _go) = stalling();
    let mut command = dir.command(BINARY);
    command
        .args(["doctor", "--url", &fake.url()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("cachesrv");
    is_reached
        .recv_timeout(support::PATIENCE)
        .expect("a request");
    child.kill().expect("it runs");
    child.wait().expect("its end");
    let living = "SELECT count(*) FROM tokens WHERE name LIKE 'doctor-%' AND revoked_at_ms IS NULL
                  AND expires_at_ms - created_at_ms <= 300000";
    assert_eq!(dir.number(living), 3);
    // An entry that it stored before it was killed.
    let name: String = dir
        .sqlite()
        .query_row(
            "SELECT name FROM tokens WHERE name LIKE 'doctor-%-write'",
            [],
            |row| row.get(0),
        )
        .expect("a token");
    let hash = name.replace("-write", "-trusted");
    let ours = dir.token("write");
    let stored = server.client(&ours).put(&hash, &vec![7; 600_000]).status;
    assert_eq!(stored, 200);
    // What lives may be another doctor's.
    doctor_of(&dir, &server, &[]);
    assert_eq!(dir.number(living), 3);
    let db = dir.sqlite();
    assert_eq!(entries::under(&db, &hash).len(), 1);
    let back = "UPDATE tokens SET created_at_ms = created_at_ms - 300001, expires_at_ms = expires_at_ms - 300001
                WHERE name LIKE 'doctor-%'";
    assert_eq!(db.execute(back, []).expect("tokens"), 3);
    assert_eq!(
        doctor_of(&dir, &server, &[]).messages("round trip"),
        ROUND_TRIP
    );
    nothing_is_left(&dir);
}

#[test]
fn a_token_that_bears_the_name_of_doctors_own_and_stored_something_stays() {
    let dir = Dir::new();
    let name = "doctor-abcdefghijklmnop-write";
    let why = "doctor names its own tokens like that, and deletes them";
    dir.cli(&["token", "create", "--write", "--name", name])
        .failed(2, &format!("error: '{name}' cannot name a token: {why}\n"));
    // Of an older version, which let people choose such names.
    let [writer, reader] = [["--write", "a"], ["--read", "b"]]
        .map(|[access, name]| dir.token_with(&[access, "--name", name, "--expires", "9m"]));
    let rename = format!(
        "UPDATE tokens SET name = '{name}' WHERE name = 'a';
         UPDATE tokens SET name = 'doctor-abcdefghijklmnop-read' WHERE name = 'b'"
    );
    dir.sqlite().execute_batch(&rename).expect("names");
    let server = Server::start(&dir);
    assert_eq!(server.client(&writer).put("1", b"bytes").status, 200);
    let said = dir.cli(&["token", "rotate", name]);
    let error = format!(
        "error: token '{name}' ({}) cannot be rotated: {why}\ntry: cachesrv token create --write\n",
        writer.id
    );
    said.failed(1, &error);
    let back = "UPDATE tokens SET created_at_ms = created_at_ms - 540001, expires_at_ms = expires_at_ms - 540001";
    assert_eq!(dir.sqlite().execute(back, []).expect("tokens"), 2);
    doctor_of(&dir, &server, &[]);
    let list = dir.cli(&["token", "list", "--json"]).done();
    assert!(
        list.contains(&writer.id) && !list.contains(&reader.id),
        "{list}"
    );
    dir.cli(&["verify"]).done();
    dir.cli(&["backup", "copy.db"]).done();
}

#[test]
fn files_that_others_may_read_or_write_are_found_and_the_remedy_works() {
    let dir = with_token();
    chmod(&dir.db(), 0o644);
    let report = doctor(&dir, &[]);
    report.one("permissions").is(
        "problem",
        "'cachesrv.db' may be read by others (mode 0644): it holds every artifact",
        "chmod 600 cachesrv.db",
    );
    chmod(&dir.db(), 0o666);
    let report = doctor(&dir, &[]);
    let found = report.one("permissions");
    assert_eq!(
        found.message,
        "'cachesrv.db' may be written by others (mode 0666): the server refuses it, for they could store anything"
    );
    // It is said once.
    report.none("database");
    found.obey(&dir);
    doctor(&dir, &[]).none("permissions");
    chmod(dir.path(), 0o777);
    let report = doctor(&dir, &[]);
    report.one("permissions").is(
        "warning",
        "others may write in the directory '.' (mode 0777) and put another database in the place of this one",
        "chmod go-w .",
    );
    report.one("permissions").obey(&dir);
    doctor(&dir, &[]).none("permissions");
}

#[test]
fn a_configuration_file_and_a_key_that_are_not_private_are_found() {
    let dir = with_token();
    let pair = fake::self_signed(90);
    for (name, text) in [
        ("tls cert.pem", pair.certificate.as_str()),
        ("key.pem", &pair.key),
        (
            "cachesrv.toml",
            "[tls]\ncertificate = \"tls cert.pem\"\nkey = \"key.pem\"\n",
        ),
    ] {
        fs::write(dir.join(name), text).expect("a file");
        dir.evidence().exempt_mode(name);
    }
    chmod(&dir.join("key.pem"), 0o644);
    chmod(&dir.join("cachesrv.toml"), 0o662);
    let args = ["--config", "cachesrv.toml"];
    let report = doctor(&dir, &args);
    let [file, key] = report.bad("permissions")[..] else {
        panic!("{report:#?}");
    };
    file.is(
        "problem",
        "others may write 'cachesrv.toml' (mode 0662)",
        "chmod go-w cachesrv.toml",
    );
    key.is(
        "problem",
        "tls.key 'key.pem' is not private (mode 0644)",
        "chmod o-rwx,g-w key.pem",
    );
    file.obey(&dir);
    key.obey(&dir);
    let report = doctor(&dir, &args);
    report.none("permissions");
    report.none("certificate");
    let message = report.messages("certificate")[0];
    assert!(
        message.starts_with("the one in 'tls cert.pem' is valid until 20"),
        "{message}"
    );
    fs::remove_file(dir.join("key.pem")).expect("a file");
    doctor(&dir, &args).one("permissions").is(
        "problem",
        "cannot read tls.key 'key.pem': No such file or directory (os error 2)",
        "ls -l key.pem",
    );
}

#[test]
fn a_certificate_that_ends_soon_or_is_none_is_found() {
    let dir = with_token();
    let tls = ["--set", "tls.certificate=c.pem", "--set", "tls.key=k.pem"];
    dir.evidence().exempt_mode("c.pem");
    for (days, level, word) in [(13, "warning", "expires"), (0, "problem", "expired")] {
        fs::write(dir.join("c.pem"), fake::self_signed(days).certificate).expect("a file");
        let report = doctor(&dir, &tls);
        let found = report.one("certificate");
        assert_eq!(found.level, level);
        assert!(
            found
                .message
                .starts_with(&format!("the one in 'c.pem' {word} 20")),
            "{found:?}"
        );
        assert_eq!(
            found.advice.as_deref(),
            Some("renew it: the server takes the new one without a restart")
        );
    }
    fs::write(dir.join("c.pem"), "nothing").expect("a file");
    doctor(&dir, &tls).one("certificate").is(
        "problem",
        "'c.pem' holds no certificate in PEM that can be read",
        "openssl x509 -in c.pem -noout -dates",
    );
}

#[test]
fn settings_that_hurt_are_found() {
    let dir = with_token();
    for (args, level, message) in [
        (
            &["limits.idle_timeout=30s"][..],
            "warning",
            "limits.idle_timeout is 30s, but Nx keeps idle connections for 90s: a server that closes first fails \
             builds now and then, so give it 95s or more",
        ),
        (
            &["listen=0.0.0.0:1"],
            "warning",
            "listens on 0.0.0.0:1 in plain HTTP: everybody on the way reads the tokens",
        ),
        (
            &["tls.key=k.pem"],
            "problem",
            "tls.key is set and tls.certificate is not: TLS needs both",
        ),
        (
            &["metrics.listen=127.0.0.1:1"],
            "problem",
            "metrics.listen and listen are both 127.0.0.1:1",
        ),
        (
            &["limits.isolated_max_size=6GiB"],
            "warning",
            "limits.isolated_max_size is 6GiB, but isolated scopes have 5GiB of eviction.max_size: they are evicted \
             first",
        ),
        (
            &["limits.artifact_max_size=16GiB"],
            "warning",
            "limits.artifact_max_size is 16GiB, but eviction.max_size leaves room for 13.5 GiB: larger artifacts are refused",
        ),
        (
            &["backup.dir=nowhere"],
            "problem",
            "backup.dir 'nowhere' is not a directory",
        ),
    ] {
        let args: Vec<&str> = args.iter().flat_map(|set| ["--set", set]).collect();
        let report = doctor(&dir, &args);
        let found = report.one("configuration");
        assert_eq!(
            (found.level.as_str(), found.message.as_str()),
            (level, message)
        );
        assert!(
            found.command.is_some() || found.advice.is_some(),
            "{found:?}"
        );
    }
    let behind_proxy = ["--set", "listen=0.0.0.0:1", "--set", "behind_proxy=true"];
    doctor(&dir, &behind_proxy).none("configuration");
}

#[test]
fn too_few_open_files_are_found() {
    let dir = with_token();
    let outcome =
        dir.shell("ulimit -n 1000 && \"$cachesrv\" doctor --json --set listen=127.0.0.1:1");
    assert_eq!(
        Report::of(&outcome).one("configuration").message,
        "limits.connections_max is 4096, which needs 4352 open files, and a server started here may have 1000"
    );
}

#[test]
fn a_disk_without_room_is_found() {
    let dir = with_token();
    let report = doctor(&dir, &["--set", "eviction.min_free_disk=1024TiB"]);
    let found = report.one("disk");
    assert_eq!(
        (found.level.as_str(), found.command.as_deref()),
        ("problem", Some("df -h ."))
    );
    assert!(
        found
            .message
            .contains("less than eviction.min_free_disk (1024TiB)"),
        "{found:?}"
    );
    found.obey(&dir);
    let report = doctor(&dir, &["--set", "eviction.max_size=1024TiB"]);
    let found = report.one("disk");
    assert_eq!(found.level, "warning");
    assert!(
        found
            .message
            .starts_with("eviction.max_size is 1024TiB, but the disk has room for "),
        "{found:?}"
    );
}

#[test]
fn a_file_system_in_memory_is_found() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        println!("no /dev/shm here: nothing was tried");
        return;
    }
    let dir = Dir::new();
    let place = tempfile::tempdir_in(memory).expect("a directory in memory");
    let db = place.path().join("x.db");
    let db = db.to_str().expect("a path");
    dir.cli(&["token", "create", "--write", "--db", db]).done();
    let report = doctor(&dir, &["--db", db]);
    assert_eq!(
        report.one("file system").message,
        "tmpfs: in memory, gone when the machine restarts"
    );
    // The file on which locks were tried is gone.
    let files = fs::read_dir(place.path()).expect("a directory");
    assert!(
        files
            .flatten()
            .all(|file| file.file_name().to_string_lossy().starts_with("x.db"))
    );
}

#[test]
fn limits_below_what_is_stored_are_found() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    let isolated = dir.token_with(&["--isolated", "pr-1"]);
    let server = Server::start(&dir);
    for hash in ["1", "2", "3"] {
        assert_eq!(
            server.client(&token).put(hash, &vec![1; 600_000]).status,
            200
        );
    }
    assert_eq!(
        server.client(&isolated).put("4", &vec![1; 600_000]).status,
        200
    );
    server.stop();
    assert_eq!(
        doctor(&dir, &[]).messages("limits"),
        ["4 artifacts, 2.3 MiB: within all limits"]
    );
    let report = doctor(&dir, &["--set", "limits.artifact_max_size=500KiB"]);
    let found = report.one("limits");
    assert_eq!(
        found.message,
        "the largest artifact has 585.9 KiB, and limits.artifact_max_size is 500KiB: when it is evicted, it cannot be \
         stored again"
    );
    assert_eq!(
        found.advice.as_deref(),
        Some("set limits.artifact_max_size = \"1MiB\" in its configuration and restart the server")
    );
    let report = doctor(
        &dir,
        &[
            "--set",
            "eviction.max_size=1MiB",
            "--set",
            "limits.artifact_max_size=1",
        ],
    );
    let messages = report.messages("limits");
    assert!(
        messages.contains(&"trusted scopes hold 1.7 MiB, and have 768KiB of eviction.max_size: what was read least recently will go"),
        "{messages:?}"
    );
    assert!(
        messages.contains(&"isolated scopes hold 586.4 KiB, and have 256KiB of eviction.max_size: what was read least recently will go"),
        "{messages:?}"
    );
    let tight = [
        "--set",
        "limits.isolated_max_size=1KiB",
        "--set",
        "limits.isolated_scope_max_size=1KiB",
    ];
    let report = doctor(&dir, &tight);
    let [all, one] = report.bad("limits")[..] else {
        panic!("{report:#?}");
    };
    all.is(
        "warning",
        "the isolated scopes of workspace 'default' hold 585.9 KiB, above limits.isolated_max_size (1KiB): they store \
         nothing more",
        "cachesrv scope list --workspace default",
    );
    one.is(
        "warning",
        "isolated scope 'pr-1' of workspace 'default' holds 585.9 KiB, above limits.isolated_scope_max_size (1KiB): it \
         stores nothing more",
        "cachesrv purge --scope pr-1 --workspace default --dry-run",
    );
    all.obey(&dir);
    one.obey(&dir);
}

#[test]
fn a_cache_without_the_tokens_it_needs_is_found() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    dir.cli(&["token", "revoke", &token.id]).done();
    let report = doctor(&dir, &[]);
    report.one("tokens").is(
        "problem",
        "there is none that lives, so nobody can use this cache",
        "cachesrv token create --write",
    );
    dir.token("read");
    let report = doctor(&dir, &[]);
    report.one("tokens").is(
        "warning",
        "none may write, so nothing fills the trusted scope",
        "cachesrv token create --write",
    );
}

#[test]
fn tokens_that_want_care_are_found_and_the_remedy_works() {
    let dir = Dir::new();
    let (eternal, soon) = (
        dir.token_with(&["--write", "--name", "ci"]),
        dir.token_with(&["--read", "--expires", "13d"]),
    );
    let unused = dir.token_with(&["--isolated", "--name", "prs", "--expires", "400d"]);
    let long_ago = format!(
        "UPDATE tokens SET created_at_ms = created_at_ms - {} WHERE name = 'prs'",
        91 * DAY_MS
    );
    dir.sqlite().execute(&long_ago, []).expect("a token");
    let report = doctor(&dir, &[]);
    let [first, second, third] = report.bad("tokens")[..] else {
        panic!("{report:#?}");
    };
    let rotate = |token: &Token| format!("cachesrv token rotate {} --expires 90d", token.id);
    first.is(
        "warning",
        &format!("may write and never expire: token 'ci' ({})", eternal.id),
        &rotate(&eternal),
    );
    assert!(
        second
            .message
            .starts_with(&format!("expire within 14 days: token {} (20", soon.id)),
        "{second:?}"
    );
    assert_eq!(second.command, Some(rotate(&soon)));
    assert!(third.message.starts_with(&format!(
        "not used for 90 days: token 'prs' ({}) (20",
        unused.id
    )));
    assert_eq!(
        third.command,
        Some(format!("cachesrv token revoke {}", unused.id))
    );
    for found in [first, second, third] {
        let rest = found
            .command
            .as_ref()
            .and_then(|command| command.strip_prefix("cachesrv "));
        let args: Vec<&str> = rest.expect("a command").split(' ').collect();
        dir.cli(&args).done();
    }
    // Replaced ones expire within a day, as they should.
    doctor(&dir, &[]).none("tokens");
}

#[test]
fn a_clock_that_is_behind_the_database_is_found() {
    let dir = with_token();
    let later = format!("UPDATE tokens SET last_used_at_ms = unixepoch() * 1000 + {DAY_MS}");
    dir.sqlite().execute(&later, []).expect("a token");
    let report = doctor(&dir, &[]);
    let found = report.one("clock");
    assert_eq!(
        (found.level.as_str(), found.command.as_deref()),
        ("problem", Some("timedatectl set-ntp true"))
    );
    assert!(
        found.message.contains(" here, and the last use of token "),
        "{found:?}"
    );
    assert!(
        found
            .message
            .ends_with(": the clock is behind, or was ahead then"),
        "{found:?}"
    );
}

#[test]
fn a_server_whose_clock_differs_is_found() {
    let dir = with_token();
    for (date, word) in [
        ("Sun, 01 Jan 2040 00:00:00 GMT", "ahead of"),
        ("Wed, 01 Jan 2020 00:00:00 GMT", "behind"),
    ] {
        let fake = Fake::new(move |_| {
            let text = format!(
                "cachesrv {}: a remote cache for Nx\n",
                env!("CARGO_PKG_VERSION")
            );
            (format!("200 OK\r\nDate: {date}"), text)
        });
        let report = doctor(&dir, &["--url", &fake.url()]);
        let found = report.one("clock");
        assert!(
            found
                .message
                .contains(&format!(" seconds {word} the one here")),
            "{found:?}"
        );
    }
}

#[test]
fn a_directory_and_an_empty_file_are_called_what_they_are() {
    let dir = Dir::new();
    fs::create_dir(dir.join("store")).expect("a directory");
    chmod(&dir.join("store"), 0o755);
    let report = doctor(&dir, &["--db", "store"]);
    report.one("database").is(
        "problem",
        "'store' is not a regular file, so it cannot be the database",
        "ls -ld store",
    );
    report.none("permissions");
    fs::write(dir.db(), "").expect("a file");
    chmod(&dir.db(), 0o600);
    let found = doctor(&dir, &[]);
    let found = found.one("database");
    found.is(
        "warning",
        "'cachesrv.db' is empty: a server makes a database of it when it starts",
        "cachesrv token create --write",
    );
    found.obey(&dir);
    doctor(&dir, &[]).none("database");
}

#[test]
fn a_missing_or_foreign_database_is_found() {
    let dir = Dir::new();
    doctor(&dir, &[]).one("database").is(
        "problem",
        "there is no database 'cachesrv.db'",
        "cachesrv token create --write",
    );
    fs::write(dir.db(), "SQLite format 3\0 but no more than that").expect("a file");
    chmod(&dir.db(), 0o600);
    let report = doctor(&dir, &[]);
    let found = report.one("database");
    assert_eq!(
        found.message,
        "'cachesrv.db' is not a cachesrv database; it was left untouched"
    );
    assert!(found.advice.is_some());
    found.obey(&dir);
}

#[test]
fn a_damaged_database_is_found() {
    let page = 16 * 1024;
    // The header.
    let dir = with_token();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.db())
        .expect("the database");
    file.write_all_at(&[0xff; 100], 0).expect("a header");
    assert_eq!(doctor(&dir, &[]).one("database").level, "problem");
    // The end.
    let dir = with_token();
    let length = dir.db().metadata().expect("the database").len();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.db())
        .expect("the database");
    file.set_len(length - page).expect("a length");
    let report = doctor(&dir, &[]);
    let found = report.bad("database")[0].clone();
    found.is(
        "problem",
        "'cachesrv.db' was cut: 16.0 KiB are missing at its end",
        "cachesrv verify",
    );
    // The page of a table.
    let dir = with_token();
    let root = dir.number("SELECT rootpage FROM sqlite_schema WHERE name = 'tokens'") as u64;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.db())
        .expect("the database");
    file.write_all_at(&vec![0xa5; page as usize], (root - 1) * page)
        .expect("a page");
    let report = doctor(&dir, &[]);
    let found = report.bad("database");
    assert!(
        found
            .iter()
            .any(|found| found.message.starts_with("damaged: ")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .all(|found| found.command.as_deref() == Some("cachesrv verify")),
        "{found:?}"
    );
}

#[test]
fn nothing_is_written_into_a_damaged_database() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    let server = Server::start(&dir);
    let stored = server.client(&token).put("1", b"something").status;
    assert_eq!(stored, 200);
    dir.sqlite()
        .execute("UPDATE chunks SET checksum = checksum + 1", [])
        .expect("a chunk");
    let tokens = "SELECT seq FROM sqlite_sequence WHERE name = 'tokens'";
    let made = dir.number(tokens);
    doctor_of(&dir, &server, &[]).one("round trip").is(
        "warning",
        "left out: tokens are made in sound databases only",
        "cachesrv verify",
    );
    assert_eq!(dir.number(tokens), made);
}

#[test]
fn a_damaged_artifact_is_found() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("1", b"something").status, 200);
    server.stop();
    dir.sqlite()
        .execute("UPDATE chunks SET checksum = checksum + 1", [])
        .expect("a chunk");
    let id = dir.number("SELECT id FROM artifacts");
    assert_eq!(
        doctor(&dir, &[]).one("database").message,
        format!("damaged: chunk 0 of artifact {id} is damaged or missing")
    );
}

/// A database as the version before the last made it.
fn of_version_2() -> Dir {
    let dir = Dir::new();
    let connection = rusqlite::Connection::open(dir.db()).expect("a database");
    let begin = "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL;";
    let marks = "PRAGMA application_id = 0x63737276; PRAGMA user_version = 2;";
    for sql in [
        begin,
        include_str!("../migrations/0001_initial.sql"),
        include_str!("../migrations/0002_isolation.sql"),
        marks,
    ] {
        connection.execute_batch(sql).expect("a migration");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.db(), mode).expect("a mode");
    dir
}

#[test]
fn another_schema_is_found_and_left_as_it_is() {
    for (version, level, message) in [
        (
            2,
            "warning",
            "'cachesrv.db' has schema version 2, this cachesrv has 3: its server brings it forward when it starts, and \
             no older cachesrv can use it then",
        ),
        (
            99,
            "problem",
            "the database 'cachesrv.db' has schema version 99, this cachesrv knows versions up to 3; it was left \
             untouched",
        ),
    ] {
        let dir = if version == 2 {
            of_version_2()
        } else {
            with_token()
        };
        dir.sqlite()
            .pragma_update(None, "user_version", version)
            .expect("a version");
        let report = doctor(&dir, &[]);
        let found = report.one("database");
        assert_eq!(
            (found.level.as_str(), found.message.as_str()),
            (level, message)
        );
        assert!(found.advice.is_some());
        assert_eq!(dir.number("PRAGMA user_version"), version);
    }
}

#[test]
fn a_log_that_a_reader_keeps_from_shrinking_is_found() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    let server = Server::start(&dir);
    let reader = dir.sqlite();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM tokens;")
        .expect("a snapshot");
    for hash in ["1", "2", "3"] {
        assert_eq!(
            server.client(&token).put(hash, &vec![1; 2_000_000]).status,
            200
        );
    }
    let report = doctor_of(&dir, &server, &[]);
    let found = report.one("log");
    assert_eq!(
        (found.level.as_str(), found.command.as_deref()),
        ("problem", Some("fuser -v cachesrv.db"))
    );
    assert!(
        found
            .message
            .contains(" and does not shrink though nobody writes"),
        "{found:?}"
    );
    reader.execute_batch("COMMIT").expect("its end");
    eventually("the log is folded", || {
        let log = dir.join("cachesrv.db-wal").metadata().expect("a log");
        (log.len() == 0).then_some(())
    });
    doctor_of(&dir, &server, &[]).none("log");
    // What a killed server leaves is no problem.
    let reader = dir.sqlite();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM tokens;")
        .expect("a snapshot");
    for hash in ["4", "5", "6"] {
        assert_eq!(
            server.client(&token).put(hash, &vec![1; 2_000_000]).status,
            200
        );
    }
    server.kill();
    let report = doctor(&dir, &[]);
    report.none("log");
    assert!(
        report.messages("log")[0].ends_with("a server was killed, and the next start folds it")
    );
}

#[test]
fn missing_and_old_backups_are_found() {
    let dir = with_token();
    doctor(&dir, &[]).one("backup").is(
        "warning",
        "there was never one",
        "cachesrv backup cachesrv-backup.db",
    );
    let days = |days: i64| {
        let at = format!("unixepoch() * 1000 - {}", days * DAY_MS);
        let sql = format!(
            "INSERT INTO backups (finished_at_ms, size_bytes, destination) VALUES ({at}, 1, '/b.db')"
        );
        dir.sqlite().execute(&sql, []).expect("a row");
    };
    days(8);
    let report = doctor(&dir, &[]);
    assert_eq!(report.one("backup").level, "warning");
    assert!(report.one("backup").message.ends_with(", '/b.db'"));
    days(3);
    doctor(&dir, &[]).none("backup");
    // One that the server should make each day.
    let report = doctor(&dir, &["--set", "backup.dir=."]);
    assert_eq!(
        report.one("backup").advice.as_deref(),
        Some("the log of the server says why it makes none")
    );
}

#[test]
fn a_server_that_does_not_answer_is_found() {
    let dir = with_token();
    let server = Server::start(&dir);
    let address = server.address();
    // Not where the configuration says.
    let report = doctor(&dir, &["--set", "listen=127.0.0.1:1"]);
    let found = report.one("server");
    found.is(
        "problem",
        "http://127.0.0.1:1 does not answer: the connection is refused",
        "cachesrv config show --sources",
    );
    assert!(found.advice.as_ref().is_some_and(|fix| {
        fix.starts_with("a server has the database open, but does not listen there")
    }));
    server.stop();
    let listen = format!("listen={address}");
    let report = doctor(&dir, &["--set", &listen]);
    report.one("server").is(
        "problem",
        &format!("http://{address} does not answer: the connection is refused"),
        &format!("cachesrv serve --listen {address}"),
    );
    let report = doctor(&dir, &["--set", "listen=127.0.0.1:0"]);
    assert_eq!(report.one("server").level, "warning");
    let report = doctor(&dir, &["--url", "http://no-such-host.invalid"]);
    assert_eq!(
        report.one("server").message,
        "http://no-such-host.invalid does not answer: the host name is not known"
    );
}

#[test]
fn what_is_no_server_of_ours_is_found_and_gets_no_token() {
    let dir = with_token();
    // It has the database, and listens elsewhere.
    let _server = Server::start(&dir);
    let (heard, all) = mpsc::channel();
    let fake = Fake::new(move |asked| {
        let _ = heard.send(asked.head.clone());
        ("200 OK".to_owned(), "<html>It works!</html>".to_owned())
    });
    let listen = format!("listen={}", fake.address());
    let report = doctor(&dir, &["--set", &listen]);
    report.one("server").is(
        "problem",
        &format!(
            "{} answers 200: this is something else than cachesrv, or a proxy that changes paths",
            fake.url()
        ),
        &format!("ss -ltnp sport = :{}", fake.address().port()),
    );
    for head in all.try_iter() {
        assert!(!head.to_lowercase().contains("authorization"), "{head}");
    }
    nothing_is_left(&dir);
    let fake = Fake::new(|_| ("302 Found\r\nLocation: /login".to_owned(), String::new()));
    doctor(&dir, &["--url", &fake.url()]).one("server").is(
        "problem",
        &format!(
            "{} answers 302: this is a redirect, which Nx does not follow",
            fake.url()
        ),
        &format!("curl -i {}/", fake.url()),
    );
}

#[test]
fn a_server_that_is_not_ready_or_of_another_version_is_found() {
    let dir = with_token();
    let fake = Fake::new(|asked| match asked.path.as_str() {
        "/" => (
            "200 OK".to_owned(),
            "cachesrv 0.0.9: a remote cache for Nx\n".to_owned(),
        ),
        "/readyz" => (
            "503 Service Unavailable".to_owned(),
            "the database does not answer\n".to_owned(),
        ),
        _ => ("404 Not Found".to_owned(), String::new()),
    });
    let report = doctor(&dir, &["--url", &fake.url()]);
    let messages: Vec<_> = report
        .bad("server")
        .iter()
        .map(|found| found.message.clone())
        .collect();
    assert_eq!(
        messages,
        [
            format!(
                "{} is cachesrv 0.0.9, and this is {}",
                fake.url(),
                env!("CARGO_PKG_VERSION")
            ),
            "it is not ready: the database does not answer".to_owned()
        ]
    );
}

#[test]
fn http_and_https_taken_for_each_other_are_found_and_the_remedy_works() {
    let dir = with_token();
    let server = Server::start(&dir);
    let report = doctor(&dir, &["--url", &format!("https://{}", server.address())]);
    let found = report.one("server");
    found.is(
        "problem",
        &format!(
            "https://{} speaks plain HTTP: its URL begins with http://",
            server.address()
        ),
        &format!("cachesrv doctor --url http://{}", server.address()),
    );
    found.obey(&dir);
    let pair = fake::self_signed(90);
    let fake = Fake::tls(&pair, |_| ("200 OK".to_owned(), "ok".to_owned()));
    doctor(&dir, &["--url", &fake.url()]).one("server").is(
        "problem",
        &format!("{} speaks TLS: its URL begins with https://", fake.url()),
        &format!("cachesrv doctor --url https://{}", fake.address()),
    );
}

#[test]
fn a_certificate_that_does_not_count_is_found_and_a_private_authority_can_be_trusted() {
    let dir = with_token();
    let pair = fake::self_signed(90);
    let fake = Fake::tls(&pair, |_| ("502 Bad Gateway".to_owned(), String::new()));
    let url = format!("https://{}", fake.address());
    let report = doctor(&dir, &["--url", &url]);
    let found = report.one("server");
    assert!(
        found.message.starts_with(&format!(
            "{url} does not answer: its certificate does not count: "
        )),
        "{found:?}"
    );
    assert_eq!(
        found.command,
        Some(format!("cachesrv doctor --url {url} --ca ca.pem"))
    );
    fs::write(dir.join("ca.pem"), &pair.certificate).expect("a file");
    dir.evidence().exempt_mode("ca.pem");
    let report = doctor(&dir, &["--url", &url, "--ca", "ca.pem"]);
    assert_eq!(
        report.one("server").message,
        format!("{url} answers 502: this is a proxy without a server behind it")
    );
    // Its end is told, too.
    let fake = Fake::tls(&fake::self_signed(10), |_| {
        ("200 OK".to_owned(), String::new())
    });
    let report = doctor(&dir, &["--url", &format!("https://{}", fake.address())]);
    assert_eq!(report.one("certificate").level, "warning");
}

#[test]
fn another_process_at_the_port_of_a_tls_server_gets_no_token() {
    let dir = with_token();
    let (ours, theirs) = (fake::self_signed(90), fake::self_signed(90));
    let fake = Fake::tls(&theirs, |_| panic!("nothing may be asked"));
    for (name, text) in [("c.pem", &ours.certificate), ("k.pem", &ours.key)] {
        fs::write(dir.join(name), text).expect("a file");
        chmod(&dir.join(name), 0o600);
    }
    let listen = format!("listen={}", fake.address());
    let tls = [
        "--set",
        &listen,
        "--set",
        "tls.certificate=c.pem",
        "--set",
        "tls.key=k.pem",
    ];
    assert_eq!(
        doctor(&dir, &tls).one("certificate").message,
        "the server shows another certificate than the one in tls.certificate"
    );
}

/// A directory with a database and a token, and another one without, as on a laptop.
fn elsewhere() -> (Dir, Token) {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    (dir, token)
}

/// Runs the binary with this on stdin.
fn piped(dir: &Dir, input: &str, args: &[&str]) -> Outcome {
    let path = dir.join("input");
    fs::write(&path, input).expect("a file");
    chmod(&path, 0o600);
    let stdin = fs::File::open(&path).expect("a file");
    let outcome = run(dir.command(BINARY).args(args).stdin(stdin));
    fs::remove_file(path).expect("a file");
    outcome
}

#[test]
fn a_typed_token_is_tried_for_what_it_may_do() {
    let (home, write) = elsewhere();
    let server = Server::start(&home);
    let laptop = Dir::new();
    let url = format!("http://{}", server.address());
    let tried = |token: &Token, url: &str| {
        let secret = format!("Bearer {}\n", token.secret);
        let report = Report::of(&piped(
            &laptop,
            &secret,
            &["doctor", "--json", "--url", url, "--token-stdin"],
        ));
        let found = report
            .found
            .into_iter()
            .filter(|found| found.check == "round trip");
        found
            .map(|found| (found.level, found.message))
            .collect::<Vec<_>>()
    };
    let stored = tried(&write, &url);
    assert_eq!(stored.len(), 5, "{stored:?}");
    assert!(stored.iter().all(|(level, _)| level == "ok"), "{stored:?}");
    // It says what is left, and that can be removed.
    let hash = stored[4].1.split(' ').nth(1).expect("a hash");
    home.cli(&["artifact", "delete", hash]).done();
    let read = tried(&home.token("read"), &url);
    assert_eq!(read[1].0, "ok");
    assert!(
        read[1].1.starts_with("it stores nothing: token '"),
        "{read:?}"
    );
    let write_only = tried(&home.token("write-only"), &url);
    assert_eq!(
        write_only[2].1,
        "the token may not download: it is a write-only one"
    );
    let isolated = home.token("isolated");
    assert_eq!(tried(&isolated, &format!("{url}/s/pr-1")).len(), 5);
    let refused = tried(&isolated, &url);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, "problem");
    assert!(
        refused[0]
            .1
            .starts_with("the token is refused: this token needs an isolated scope"),
        "{refused:?}"
    );
    home.cli(&["token", "revoke", &write.id]).done();
    assert!(
        tried(&write, &url)[0]
            .1
            .starts_with("the token is refused: this token was revoked")
    );
}

#[test]
fn without_a_database_and_a_token_the_round_trip_is_left_out() {
    let home = with_token();
    let server = Server::start(&home);
    let laptop = Dir::new();
    let url = format!("http://{}", server.address());
    let report = doctor(&laptop, &["--url", &url]);
    assert_eq!(
        report.messages("database"),
        ["'cachesrv.db' is not here: only the server is looked at"]
    );
    report.one("round trip").is(
        "warning",
        "left out: there is no database here to make tokens in, and no token was given",
        &format!("printf %s \"$TOKEN\" | cachesrv doctor --url {url} --token-stdin"),
    );
    assert_eq!(laptop.files(), Vec::<String>::new());
}

#[test]
fn what_is_typed_wrong_is_a_usage_error_or_says_what_is_wrong() {
    let dir = Dir::new();
    dir.cli(&["doctor", "--url", "cache.example"]).failed(
        2,
        "error: --url: 'cache.example' does not begin with http:// or https://\n\
         try: cachesrv doctor --url http://127.0.0.1:8787\n",
    );
    assert_eq!(dir.cli(&["doctor", "--ca", "x.pem"]).code, Some(2));
    dir.cli(&["doctor", "--url", "https://c", "--ca", "x.pem"])
        .failed(
            1,
            "error: --ca: cannot read 'x.pem': No such file or directory (os error 2)\n",
        );
    fs::write(dir.join("x.pem"), "nothing").expect("a file");
    dir.evidence().exempt_mode("x.pem");
    dir.cli(&["doctor", "--url", "https://c", "--ca", "x.pem"])
        .failed(
            2,
            "error: --ca: there is no certificate in PEM in 'x.pem'\n",
        );
    piped(&dir, "csrv_nonsense", &["doctor", "--url", "http://c", "--token-stdin"]).failed(
        1,
        "error: this is not a token: one is the whole line that `cachesrv token create` printed, and begins with csrv_\n",
    );
    // A configuration that is wrong is told as by every command.
    let outcome = dir.cli(&["doctor", "--set", "limits.nonsense=1"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn the_environment_leads_it_to_no_proxy() {
    let dir = with_token();
    let server = Server::start(&dir);
    let url = format!("http://{}", server.address());
    let mut command = dir.command(BINARY);
    command.args(["doctor", "--json", "--url", &url]);
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    assert_eq!(
        Report::of(&run(&mut command)).messages("round trip"),
        ROUND_TRIP
    );
}

#[test]
fn problems_are_told_on_stdout_and_by_the_exit_code_alone() {
    let dir = Dir::new();
    let outcome = dir.cli(&["doctor", "--set", "listen=127.0.0.1:1"]);
    assert_eq!(
        without_machine(&outcome.stdout),
        "ok       configuration: no file, 1 setting by a variable or flag
ok       permissions: the files are private
problem  database: there is no database 'cachesrv.db'
         try: cachesrv token create --write
problem  server: http://127.0.0.1:1 does not answer: the connection is refused
         try: cachesrv serve --listen 127.0.0.1:1

2 problems
"
    );
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""));
}

#[test]
fn the_readme_shows_what_doctor_says() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "ci-main"]);
    chmod(&dir.db(), 0o644);
    dir.evidence().exempt_mode("cachesrv.db");
    dir.evidence().exempt_mode("cachesrv.db-wal");
    dir.evidence().exempt_mode("cachesrv.db-shm");
    let server = Server::start(&dir);
    log_is_folded(&dir);
    let listen = format!("listen={}", server.address());
    let stdout = dir.cli(&["doctor", "--set", &listen]).stdout;
    // SQLite gives the files beside the database its mode.
    let beside = [
        "-wal' may",
        "chmod 600 cachesrv.db-wal",
        "-shm' may",
        "chmod 600 cachesrv.db-shm",
    ];
    let mut said = String::new();
    for line in stdout.split_inclusive('\n') {
        if !beside.iter().any(|other| line.contains(other)) {
            said.push_str(line);
        }
    }
    let said = without_machine(&said)
        .replace(&token.id, "KwXM2ag3eYfd")
        .replace(&server.address().to_string(), "127.0.0.1:8787")
        .replace(", 1 setting by a variable or flag", "");
    let (said, _) = said.rsplit_once("\n\n").expect("a verdict");
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(readme).expect("README.md");
    assert!(
        without_machine(&readme).contains(said),
        "README.md lacks these lines, as they stand:\n\n{said}"
    );
}

#[test]
fn the_json_is_a_contract() {
    let dir = Dir::new();
    let outcome = dir.cli(&["doctor", "--json", "--set", "listen=127.0.0.1:1"]);
    let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let keys: Vec<&String> = report.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["findings", "problems", "warnings"]);
    let last = report["findings"]
        .as_array()
        .expect("findings")
        .last()
        .expect("one");
    assert_eq!(
        *last,
        serde_json::json!({
            "level": "problem",
            "check": "server",
            "message": "http://127.0.0.1:1 does not answer: the connection is refused",
            "try": "cachesrv serve --listen 127.0.0.1:1",
            "fix": null,
        })
    );
}
