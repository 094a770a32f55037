//! Several processes on one file, against the real executable: a second server, every command beside a server at
//! work, and strangers that hold SQLite's locks for longer than anybody should.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use support::dir::{BINARY, run, sqlite};
use support::disk::namespace;
use support::{Dir, Load, Outcome, Server, Token, eventually, noise, rounds};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The bound of the write-ahead log (ARCHITECTURE.md), and what one batch may add.
const LOG_MAX: u64 = (252 + 4) * MIB as u64;

const BUSY: &str = "this cache is too busy at the moment; the artifact was not moved\n";

/// What a second server says about this file.
fn in_use(name: &str, server: &Server) -> String {
    format!(
        "error: the database '{name}' is in use by another cachesrv server: process {}\n\
         try: cachesrv serve --db another.db --listen 127.0.0.1:0\n",
        server.pid()
    )
}

fn serve_at(db: &str) -> [&str; 5] {
    ["serve", "--listen", "127.0.0.1:0", "--db", db]
}

fn log_bytes(dir: &Dir) -> u64 {
    fs::metadata(dir.join("cachesrv.db-wal")).map_or(0, |log| log.len())
}

// Two servers.

#[test]
fn a_second_server_is_refused_by_whatever_name_it_calls_the_file() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    fs::create_dir(dir.join("sub")).expect("a directory");
    symlink("cachesrv.db", dir.join("link.db")).expect("a link");
    symlink(dir.path(), dir.join("sub/up")).expect("a link");
    let absolute = dir.db().display().to_string();
    for name in [
        "cachesrv.db",
        "./cachesrv.db",
        "sub/../cachesrv.db",
        "sub/up/cachesrv.db",
        &absolute,
    ] {
        dir.cli(&serve_at(name)).failed(1, &in_use(name, &server));
    }
    // Of a link it says what it leads to.
    let real = fs::canonicalize(dir.db()).expect("a path");
    let real = real.to_str().expect("a name");
    dir.cli(&serve_at("link.db"))
        .failed(1, &in_use(real, &server));
    let mut client = server.client(&token);
    assert_eq!(client.put("1", b"bytes").status, 200);
    assert_eq!(client.get("1").body, b"bytes");
    assert_eq!(server.stop().code(), Some(0));
    // The lock is gone with it, and nothing else was left.
    assert_eq!(Server::start(&dir).stop().code(), Some(0));
}

#[test]
fn a_file_with_two_names_is_refused_by_both_because_each_would_have_a_log() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("1", b"bytes").status, 200);
    fs::hard_link(dir.db(), dir.join("other.db")).expect("a link");
    let refusal = |name: &str| {
        format!(
            "error: the database '{name}' is one file with several names (hard links): used by two of them it \
             would be damaged\ntry: find \"$(stat -c %m {name})\" -xdev -samefile {name}\n"
        )
    };
    for name in ["other.db", "cachesrv.db"] {
        let said = dir.cli(&serve_at(name));
        said.failed(1, &refusal(name));
        for command in [
            &["token", "list"][..],
            &["token", "create"],
            &["gc"],
            &["stats"],
        ] {
            dir.cli(&[command, &["--db", name]].concat())
                .failed(1, &refusal(name));
        }
    }
    assert!(!dir.join("other.db-wal").exists());
    // Who has it open goes on; without the other name all is as before.
    assert_eq!(server.client(&token).get("1").body, b"bytes");
    fs::remove_file(dir.join("other.db")).expect("removed");
    dir.cli(&["token", "list"]).done();
    assert_eq!(server.stop().code(), Some(0));
    // A backup may have several: its log is nowhere.
    dir.cli(&["backup", "copy.db"]).done();
    fs::hard_link(dir.join("copy.db"), dir.join("kept.db")).expect("a link");
    dir.cli(&["verify", "--db", "kept.db"]).done();
}

#[test]
fn a_file_that_is_mounted_alone_is_refused_and_one_in_a_mounted_directory_is_not() {
    let dir = Dir::new();
    dir.token("write");
    let server = Server::start(&dir);
    fs::create_dir(dir.join("all")).expect("a directory");
    fs::write(dir.join("alone.db"), "").expect("a file");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(dir.join("alone.db"), private).expect("a mode");
    let shell = |line: &str| {
        let mut command = namespace(&dir, line);
        run(&mut command)
    };
    let alone = "mount --bind cachesrv.db alone.db; exec \"$cachesrv\" ";
    let text = "error: the database 'alone.db' is mounted alone: its log, which must go with it, would not be\n\
                try: mount the directory of the database instead of the file\n";
    for command in [
        "serve --listen 127.0.0.1:0 --db alone.db",
        "token create --db alone.db",
    ] {
        shell(&[alone, command].concat()).failed(1, text);
    }
    let all = "mount --bind . all; exec \"$cachesrv\" ";
    let second = shell(&[all, "serve --listen 127.0.0.1:0 --db all/cachesrv.db"].concat());
    second.failed(1, &in_use("all/cachesrv.db", &server));
    shell(&[all, "token list --db all/cachesrv.db"].concat()).done();
}

#[test]
fn of_two_servers_that_start_in_the_same_instant_exactly_one_serves() {
    for round in 0..rounds(20) {
        let dir = Dir::new();
        // Every other time the file is there already.
        if round % 2 == 1 {
            dir.token("write");
        }
        let start = || {
            let mut command = dir.command(BINARY);
            command
                .args(serve_at("cachesrv.db"))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn().expect("the program starts")
        };
        let mut children = [start(), start()];
        let loser = eventually("one of them ends", || {
            (0..2).find(|&number| children[number].try_wait().expect("a child").is_some())
        });
        let [first, second] = children;
        let (lost, mut winner) = if loser == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let lost = lost.wait_with_output().expect("its output");
        let said = String::from_utf8(lost.stderr).expect("a text");
        assert_eq!(lost.status.code(), Some(1), "{said}");
        let text = format!(
            "error: the database 'cachesrv.db' is in use by another cachesrv server: process {}\n",
            winner.id()
        );
        assert!(said.contains(&text), "{said}");
        assert_eq!(
            winner.try_wait().expect("a child"),
            None,
            "the winner serves"
        );
        winner.kill().expect("it runs");
        winner.wait().expect("a child");
    }
}

#[test]
fn a_server_that_was_given_a_link_folds_its_log_and_leaves_one_file() {
    let dir = Dir::new();
    let token = dir.token("write");
    fs::create_dir(dir.join("real")).expect("a directory");
    fs::rename(dir.db(), dir.join("real/data.db")).expect("moved");
    symlink("real/data.db", dir.db()).expect("a link");
    let server = Server::start(&dir);
    assert_eq!(
        server.client(&token).put("1", &noise(1, 3 * MIB)).status,
        200
    );
    let log = dir.join("real/data.db-wal");
    eventually("the log is folded", || {
        (fs::metadata(&log).ok()?.len() == 0).then_some(())
    });
    assert_eq!(server.stop().code(), Some(0));
    assert!(!log.exists() && !dir.join("cachesrv.db-wal").exists());
}

// Commands beside a server at work.

/// Every command that uses the database; each can be repeated. `{n}` is a number of its own.
const COMMANDS: [&[&str]; 18] = [
    &["token", "create", "--read", "--name", "read-{n}"],
    &["token", "list"],
    &["token", "list", "--json"],
    &["token", "create", "--isolated", "pr-{n}"],
    &["workspace", "add", "shop-{n}"],
    &["workspace", "list"],
    &["scope", "list"],
    &["artifact", "list"],
    &["artifact", "show", "1000000"],
    &["artifact", "delete", "1000000"],
    &["purge", "--hash", "{n}"],
    &["purge", "--scope", "pr-{n}"],
    &["gc"],
    &["gc", "--dry-run"],
    &["stats"],
    &["backup", "backup-{n}.db"],
    &["verify"],
    &["config", "show"],
];

#[test]
fn every_command_works_beside_a_busy_server_and_nobody_hears_of_locks() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let load = Load::start(&server, &token, 4);
    let number = AtomicUsize::new(0);
    let each = COMMANDS.len() * rounds(3) as usize;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    if number >= each {
                        return;
                    }
                    let args: Vec<String> = COMMANDS[number % COMMANDS.len()]
                        .iter()
                        .map(|arg| arg.replace("{n}", &number.to_string()))
                        .collect();
                    let args: Vec<&str> = args.iter().map(String::as_str).collect();
                    let outcome = dir.cli(&args);
                    // What there is none of is said, and no failure of the database.
                    let is_missing = outcome.stderr.starts_with("error: there is no artifact ");
                    assert!(
                        outcome.code == Some(0) || is_missing,
                        "{args:?}: {outcome:?}"
                    );
                    assert!(!says_locked(&outcome), "{args:?}: {outcome:?}");
                    if args.first() == Some(&"backup") {
                        fs::remove_file(dir.join(args[1])).expect("a backup");
                    }
                }
            });
        }
    });
    let listen = format!("listen={}", server.address());
    dir.cli(&["doctor", "--set", &listen]);
    the_server_sees_at_once(&dir, &server);
    let stored = load.stop();
    assert!(!stored.is_empty());
    assert_eq!(server.stop().code(), Some(0));
    dir.cli(&["verify"]).done();
}

fn says_locked(outcome: &Outcome) -> bool {
    [&outcome.stdout, &outcome.stderr]
        .iter()
        .any(|text| text.contains("locked") || text.contains("busy"))
}

/// Tokens, their end and purges count from the next request on.
fn the_server_sees_at_once(dir: &Dir, server: &Server) {
    for round in 0..5 {
        let token = dir.token_with(&["--write", "--name", &format!("seen-{round}")]);
        let hash = format!("seen-{round}");
        let mut client = server.client(&token);
        assert_eq!(client.put(&hash, b"bytes").status, 200);
        assert_eq!(client.get(&hash).status, 200);
        dir.cli(&["purge", "--hash", &hash]).done();
        assert_eq!(client.get(&hash).status, 404);
        let secret = dir
            .cli(&["token", "rotate", &token.id, "--overlap", "0s"])
            .done();
        assert_eq!(client.get(&hash).status, 401);
        let secret = secret.trim_end().to_owned();
        let id = secret[5..17].to_owned();
        let new = Token { secret, id };
        assert_eq!(server.client(&new).get(&hash).status, 404);
        dir.cli(&["token", "revoke", &new.id]).done();
        assert_eq!(server.client(&new).get(&hash).status, 401);
    }
}

// Strangers that hold a lock.

#[test]
fn whoever_keeps_the_write_lock_costs_uploads_but_no_download_and_commands_name_him() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start_with(&dir, &["--set", "limits.database_wait=1s"]);
    let mut client = server.client(&token);
    assert_eq!(client.put("there", &noise(1, MIB)).status, 200);
    let other = dir.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let revoke = ["token", "revoke", &token.id];
    thread::scope(|scope| {
        // Commands that write wait for ten seconds, then say who it is.
        let writers = [
            &["token", "create", "--read"][..],
            &["workspace", "add", "shop"],
            &revoke,
            &["purge", "--hash", "there"],
        ];
        let waiting = writers.map(|args| {
            let dir = &dir;
            scope.spawn(move || dir.cli(args))
        });
        for size in [10, 300 * KIB, 5 * MIB] {
            let answer = client.put("new", &noise(2, size));
            assert_eq!((answer.status, answer.text()), (403, BUSY));
            assert!(client.get("there").body == noise(1, MIB));
        }
        // Commands that read do not wait.
        for args in [
            &["token", "list"][..],
            &["artifact", "list"],
            &["stats"],
            &["verify"],
            &["gc", "--dry-run"],
        ] {
            dir.cli(args).done();
        }
        for (args, command) in writers.iter().zip(waiting) {
            let outcome = command.join().expect("an outcome");
            let me = std::process::id();
            assert_eq!(
                (outcome.code, &outcome.stdout[..]),
                (Some(1), ""),
                "{args:?}: {outcome:?}"
            );
            let who = format!("error: 'cachesrv.db' is locked by process {me} (");
            let ends =
                "the database stayed busy for longer than the wait\ntry: fuser -v cachesrv.db\n";
            assert!(
                outcome.stderr.starts_with(&who) && outcome.stderr.ends_with(ends),
                "{args:?}: {outcome:?}"
            );
            assert!(
                !outcome.stderr.contains("database is locked"),
                "{outcome:?}"
            );
        }
    });
    other.execute_batch("ROLLBACK").expect("its end");
    assert_eq!(client.put("new", b"bytes").status, 200);
    dir.cli(&["purge", "--hash", "there"]).done();
    assert_eq!(client.get("there").status, 404);
}

#[test]
fn a_command_waits_for_a_lock_that_is_given_back_in_time() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let other = dir.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    thread::scope(|scope| {
        let command = scope.spawn(|| dir.cli(&["token", "create", "--read"]));
        let upload = scope.spawn(|| server.client(&token).put("1", b"bytes").status);
        thread::sleep(Duration::from_secs(2));
        assert!(!command.is_finished() && !upload.is_finished());
        other.execute_batch("ROLLBACK").expect("its end");
        command.join().expect("an outcome").done();
        assert_eq!(upload.join().expect("a status"), 200);
    });
}

/// The value of a metric.
fn metric(server: &Server, token: &Token, name: &str) -> f64 {
    let answer = server.client(token).ask("GET", "/metrics");
    assert_eq!(answer.status, 200);
    let prefix = format!("{name} ");
    let value = answer
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(&prefix)?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}"))
}

/// A snapshot that is held until this is dropped.
fn stuck_reader(dir: &Dir) -> Connection {
    let reader = sqlite(&dir.db());
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM tokens;")
        .expect("a snapshot");
    reader
}

#[test]
fn a_reader_that_is_stuck_bounds_uploads_and_not_downloads_and_is_named() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    let server = Server::start_with(&dir, &["--set", "limits.database_wait=1s"]);
    let mut client = server.client(&token);
    assert_eq!(client.put("before", &noise(7, MIB)).status, 200);
    let reader = stuck_reader(&dir);
    let large = noise(1, 12 * MIB);
    let mut told = Vec::new();
    let mut longest = 0;
    // Enough to be far beyond the bound, if nothing held it back.
    for number in 0..40 {
        let answer = client.put(&format!("large-{number}"), &large);
        told.push(answer.status);
        assert!(answer.status == 200 || (answer.status, answer.text()) == (403, BUSY));
        longest = longest.max(log_bytes(&dir));
        if told.iter().filter(|status| **status == 403).count() == 3 {
            break;
        }
    }
    assert!(
        told.starts_with(&[200]) && told.ends_with(&[403]),
        "{told:?}"
    );
    // Small ones go on for a while, into the room that large ones leave.
    assert_eq!(client.put("small", b"bytes").status, 200);
    assert!(longest <= LOG_MAX, "the log grew to {longest} bytes");
    assert!(client.get("before").body == noise(7, MIB));
    assert!(client.get("large-0").body == large);
    assert_eq!(client.get("small").body, b"bytes");
    assert!(metric(&server, &token, "cachesrv_wal_size_bytes") > 150e6);
    assert!(metric(&server, &token, "cachesrv_wal_blocked_seconds") >= 1.0);
    is_named(&dir, &server);
    drop(reader);
    eventually("the log is folded", || (log_bytes(&dir) == 0).then_some(()));
    assert_eq!(client.put("after", &large).status, 200);
    eventually("the metric says so", || {
        (metric(&server, &token, "cachesrv_wal_blocked_seconds") < 1.0).then_some(())
    });
}

/// Doctor says who keeps the log from being folded.
fn is_named(dir: &Dir, server: &Server) {
    let listen = format!("listen={}", server.address());
    let outcome = dir.cli(&["doctor", "--set", &listen]);
    let me = format!("process {} (", std::process::id());
    let line = outcome
        .stdout
        .lines()
        .find(|line| line.contains("-wal' has "));
    let line = line.unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(
        line.contains(&me) && line.contains("reads the database and does not end"),
        "{line}"
    );
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_reader_that_is_stuck_is_named_while_others_write() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--expires", "90d"]);
    let server = Server::start(&dir);
    let reader = stuck_reader(&dir);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.client(&token);
            for number in 0_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                assert_eq!(
                    client
                        .put(&number.to_string(), &noise(number, 100 * KIB))
                        .status,
                    200
                );
                thread::sleep(Duration::from_millis(20));
            }
        });
        eventually("the log is long", || {
            (log_bytes(&dir) > 5 * MIB as u64).then_some(())
        });
        is_named(&dir, &server);
        is_over.store(true, Ordering::Relaxed);
    });
    drop(reader);
    eventually("the log is folded", || (log_bytes(&dir) == 0).then_some(()));
}
