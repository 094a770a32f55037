//! Tokens through the real command and a running server: what is printed, what is kept, and that
//! revocation and expiry count on the very next request, whoever decides them.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::Value;
use support::{Client, Dir, Outcome, Server, eventually, noise};

const MIB: usize = 1024 * 1024;

const REVOKED: &str = "this token was revoked: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one \
                       made by `cachesrv token create`\n";
const EXPIRED: &str = "this token has expired: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one \
                       made by `cachesrv token create`\n";

/// Whether `text` is `csrv_{id}_{secret}{check}`, and nothing around it.
fn is_token(text: &str) -> bool {
    let base62 = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let parts: Vec<&str> = text.split('_').collect();
    matches!(parts[..], ["csrv", id, rest] if base62(id, 12) && base62(rest, 49))
}

/// What is said about a token that never expires.
fn created(access: &str, name: &str, id: &str) -> String {
    let says = "never expires. The line above is its secret: it is not shown again";
    format!("created {access} token{name}, id {id}, {says}\n")
}

fn list(dir: &Dir) -> Vec<Value> {
    let stdout = dir.cli(&["token", "list", "--json"]).done();
    serde_json::from_str(&stdout).expect("a JSON array")
}

fn mode(path: &Path) -> u32 {
    let metadata = std::fs::metadata(path).expect("a file");
    metadata.permissions().mode() & 0o7777
}

// What is printed.

#[test]
fn a_shell_captures_the_secret_and_nothing_else() {
    let dir = Dir::new();
    let line = "TOKEN=$(\"$cachesrv\" token create --write); printf '[%s]' \"$TOKEN\"";
    let outcome = dir.shell(line);
    let token = outcome.stdout.trim_start_matches('[').trim_end_matches(']');
    assert!(
        is_token(token) && outcome.stdout == format!("[{token}]"),
        "{outcome:?}"
    );
    assert_eq!(outcome.stderr, created("write", "", &token[5..17]));
    assert_eq!(outcome.code, Some(0));
    let server = Server::start(&dir);
    let mut client = Client::new(server.address(), Some(token));
    assert_eq!(client.put("1", b"bytes").status, 200);
}

#[test]
fn a_new_token_is_explained_on_stderr() {
    let dir = Dir::new();
    for (options, access, name) in [
        (&[][..], "read", ""),
        (&["--read", "--name", "laptops"], "read", " 'laptops'"),
        (&["--write", "--name", "ci"], "write", " 'ci'"),
    ] {
        let outcome = dir.cli(&[&["token", "create"], options].concat());
        let secret = outcome.stdout.strip_suffix('\n').expect("one line");
        assert!(is_token(secret), "{outcome:?}");
        assert_eq!(outcome.stderr, created(access, name, &secret[5..17]));
    }
    let outcome = dir.cli(&["token", "create", "--expires", "90d"]);
    assert!(outcome.stderr.contains(", expires 20"), "{outcome:?}");
    assert!(!outcome.stderr.contains(outcome.stdout.trim_end()));
}

#[test]
fn the_list_fits_a_terminal_and_shows_no_secret() {
    let dir = Dir::new();
    let nobody = dir.cli(&["token", "list"]);
    nobody.failed(
        1,
        "error: there is no database 'cachesrv.db'\ntry: cachesrv config show --sources\n",
    );
    let longest = "n".repeat(64);
    let mut tokens = vec![
        dir.token("read"),
        dir.token_with(&["--write", "--name", "ci"]),
        dir.token_with(&[
            "--write",
            "--name",
            "a-release-pipeline",
            "--expires",
            "30d",
        ]),
    ];
    dir.cli(&["token", "revoke", &tokens[1].id]).done();
    let text = dir.cli(&["token", "list"]).done();
    assert_eq!(text.lines().count(), 4, "{text}");
    let header: Vec<&str> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let columns = [
        "ID", "NAME", "ACCESS", "STATE", "CREATED", "LAST", "USED", "EXPIRES",
    ];
    assert_eq!(header, columns);
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert_eq!(line, line.trim_end());
    }
    for (line, token) in text.lines().skip(1).zip(&tokens) {
        assert!(line.contains(&token.id), "{line}");
    }
    assert!(
        text.lines()
            .nth(2)
            .is_some_and(|line| line.contains(" revoked ")),
        "{text}"
    );
    tokens.push(dir.token_with(&["--name", &longest]));
    let text = dir.cli(&["token", "list"]).done() + &format!("{:?}", list(&dir));
    assert!(text.contains(&longest));
    for token in &tokens {
        assert!(!text.contains(&token.secret[18..]));
    }
}

#[test]
fn the_list_for_scripts_has_exactly_the_documented_keys() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "ci", "--expires", "30d"]);
    let nameless = dir.token("read");
    let server = Server::start(&dir);
    server.client(&token).get("1");
    let used = eventually("the use is noted", || {
        let listed = list(&dir);
        (!listed[0]["last_used_at"].is_null()).then_some(listed)
    });
    dir.cli(&["token", "revoke", &nameless.id]).done();
    let listed = list(&dir);
    assert_eq!(used[0], listed[0]);
    assert_eq!(listed.len(), 2);
    let documented = [
        "access",
        "created_at",
        "expires_at",
        "id",
        "last_used_at",
        "name",
        "replaced_by",
        "revoked_at",
        "scope",
        "state",
        "workspace",
    ];
    for token in &listed {
        let mut keys: Vec<&String> = token.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, documented);
    }
    let text = |token: &Value, key: &str| token[key].as_str().map(str::to_owned);
    let plain = ["id", "name", "workspace", "access", "state"];
    let values = |token: &Value| plain.map(|key| text(token, key).unwrap_or_default());
    assert_eq!(
        values(&listed[0]),
        [&token.id, "ci", "default", "write", "live"]
    );
    assert_eq!(
        values(&listed[1]),
        [&nameless.id, "", "default", "read", "revoked"]
    );
    for (number, key, is_set) in [
        (0, "created_at", true),
        (0, "expires_at", true),
        (0, "last_used_at", true),
        (0, "revoked_at", false),
        (1, "expires_at", false),
        (1, "last_used_at", false),
        (1, "revoked_at", true),
    ] {
        let time = text(&listed[number], key);
        assert_eq!(time.is_some(), is_set, "{key}");
        let is_rfc3339 =
            |time: &String| time.len() >= 20 && &time[10..11] == "T" && time.ends_with('Z');
        assert!(time.as_ref().is_none_or(is_rfc3339), "{time:?}");
    }
}

// Revocation and expiry.

#[test]
fn a_revoked_token_is_refused_on_the_very_next_request() {
    let dir = Dir::new();
    let server_token = dir.token_with(&["--write", "--name", "ci"]);
    let server = Server::start(&dir);
    for round in 0..10 {
        let name = format!("round-{round}");
        let token = dir.token_with(&["--write", "--name", &name]);
        let mut client = server.client(&token);
        assert_eq!(client.put(&name, b"bytes").status, 200);
        assert_eq!(client.get(&name).status, 200);
        let by_name = round % 2 == 0;
        let handle = if by_name { &name } else { &token.id };
        let outcome = dir.cli(&["token", "revoke", handle]);
        let expected = Outcome {
            code: Some(0),
            stdout: String::new(),
            stderr: format!(
                "revoked token '{name}' ({}): it is refused from the next request on\n",
                token.id
            ),
        };
        assert_eq!(outcome, expected);
        let answer = client.get(&name);
        assert_eq!((answer.status, answer.text()), (401, REVOKED));
        let answer = server.client(&token).put("after", b"bytes");
        assert_eq!((answer.status, answer.text()), (401, REVOKED));
        let again = dir.cli(&["token", "revoke", &token.id]);
        assert_eq!((again.code, &*again.stdout), (Some(0), ""));
        assert!(
            again.stderr.contains(" was revoked already on 20"),
            "{again:?}"
        );
    }
    assert_eq!(server.client(&server_token).get("after").status, 404);
    assert_eq!(server.client(&server_token).get("round-0").status, 200);
}

#[test]
fn an_upload_in_flight_by_a_token_that_dies_is_not_stored() {
    let dir = Dir::new();
    let observer = dir.token("read");
    let server = Server::start(&dir);
    for size in [1000, MIB, 5 * MIB] {
        for expires in [false, true] {
            let token = dir.token("write");
            let bytes = noise(1, size);
            let (first, rest) = bytes.split_at(size - size / 4);
            let mut client = server.client(&token);
            assert_eq!(client.get("slow").status, 404);
            // The token was good when the upload began.
            assert_eq!(client.ask_to_put("slow", size), 100);
            client.raw.send(first);
            if expires {
                let sql = "UPDATE tokens SET expires_at_ms = 1 WHERE public_id = ?1";
                dir.sqlite()
                    .execute(sql, [&token.id])
                    .expect("a token changed");
            } else {
                dir.cli(&["token", "revoke", &token.id]).done();
            }
            client.raw.send(rest);
            let answer = client.raw.answer();
            let sentence = if expires { EXPIRED } else { REVOKED };
            assert_eq!((answer.status, answer.text()), (401, sentence));
            assert_eq!(client.get("slow").status, 401);
            assert_eq!(server.client(&observer).get("slow").status, 404);
        }
    }
    eventually("nothing of them is left", || {
        let rows =
            dir.number("SELECT (SELECT count(*) FROM artifacts) + (SELECT count(*) FROM chunks)");
        (rows == 0).then_some(())
    });
    let token = dir.token("write");
    assert_eq!(server.client(&token).put("slow", b"bytes").status, 200);
}

#[test]
fn a_token_that_expires_is_refused_from_then_on() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let token = dir.token_with(&["--write", "--name", "trial", "--expires", "2s"]);
    let mut client = server.client(&token);
    client.begin_put("slow", 10);
    client.raw.send(b"bytes");
    let mut other = server.client(&token);
    let sentence = eventually("the token expires", || {
        let answer = other.get("1");
        assert!(
            answer.status == 404 || answer.status == 401,
            "{}",
            answer.status
        );
        (answer.status == 401).then(|| answer.text().to_owned())
    });
    assert_eq!(sentence, EXPIRED);
    client.raw.send(b"bytes");
    let answer = client.raw.answer();
    assert_eq!((answer.status, answer.text()), (401, EXPIRED));
    assert_eq!(dir.number("SELECT count(*) FROM artifacts"), 0);
    assert_eq!(list(&dir)[0]["state"], "expired");
    // Its name is free again.
    let next = dir.token_with(&["--write", "--name", "trial"]);
    assert_eq!(server.client(&next).put("slow", b"bytes").status, 200);
    // The name is that of the living one.
    let outcome = dir.cli(&["token", "revoke", "trial"]);
    assert!(outcome.stderr.contains(&next.id), "{outcome:?}");
    assert_eq!(server.client(&next).get("slow").status, 401);
}

// Names and mistakes.

#[test]
fn two_living_tokens_never_have_one_name() {
    let dir = Dir::new();
    let first = dir.token_with(&["--write", "--name", "ci"]);
    let taken = "error: a token named 'ci' exists already: choose another name, or replace its secret\ntry: cachesrv token rotate ci\n";
    dir.cli(&["token", "create", "--read", "--name", "ci"])
        .failed(1, taken);
    assert_eq!(list(&dir).len(), 1);
    dir.cli(&["token", "revoke", "ci"]).done();
    let second = dir.token_with(&["--write", "--name", "ci"]);
    dir.cli(&["token", "create", "--name", "ci"])
        .failed(1, taken);
    let server = Server::start(&dir);
    assert_eq!(server.client(&first).get("1").status, 401);
    assert_eq!(server.client(&second).get("1").status, 404);
}

#[test]
fn of_many_processes_that_want_one_name_one_gets_it() {
    const PROCESSES: usize = 8;
    let dir = Arc::new(Dir::new());
    let start = Arc::new(Barrier::new(PROCESSES));
    let create = |_| {
        let (dir, start) = (Arc::clone(&dir), Arc::clone(&start));
        thread::spawn(move || {
            start.wait();
            dir.cli(&["token", "create", "--name", "ci"])
        })
    };
    let running: Vec<_> = (0..PROCESSES).map(create).collect();
    let outcomes: Vec<Outcome> = running.into_iter().map(|run| run.join().unwrap()).collect();
    let won = outcomes
        .iter()
        .filter(|outcome| outcome.code == Some(0))
        .count();
    assert_eq!(won, 1, "{outcomes:?}");
    let taken = "error: a token named 'ci' exists already: choose another name, or replace its secret\ntry: cachesrv token rotate ci\n";
    for outcome in outcomes.iter().filter(|outcome| outcome.code != Some(0)) {
        outcome.failed(1, taken);
    }
}

#[test]
fn mistakes_are_explained_and_change_nothing() {
    let dir = Dir::new();
    dir.token_with(&["--name", "ci"]);
    let before = list(&dir);
    let unknown =
        |handle: &str| format!("error: there is no token '{handle}'\ntry: cachesrv token list\n");
    let secret = dir.cli(&["token", "list", "--json"]).done();
    for handle in ["nope", "AbCdEfGhIjKl", "", "CI", "ci ", "%"] {
        dir.cli(&["token", "revoke", handle])
            .failed(1, &unknown(handle));
    }
    assert_eq!(secret, dir.cli(&["token", "list", "--json"]).done());
    let rule =
        "cannot name a token: use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', a dash not first";
    let long = "n".repeat(65);
    for name in ["", "a b", "a/b", "ä", "ci\n", "a'b", "*", &long] {
        let shown = name.replace('\n', "\\n");
        let text = format!("error: '{shown}' {rule}\n");
        dir.cli(&["token", "create", "--name", name])
            .failed(2, &text);
    }
    let text = format!("error: '-x' {rule}\n");
    dir.cli(&["token", "create", "--name=-x"]).failed(2, &text);
    let dead = "error: --expires 0 would make a token that is dead\n";
    let far = "error: --expires is too far in the future: leave it out for never\n";
    for (time, text) in [
        ("0s", dead),
        ("0d", dead),
        ("99999999d", far),
        ("200000000000d", far),
    ] {
        dir.cli(&["token", "create", "--expires", time])
            .failed(2, text);
    }
    for time in ["-1d", "soon", "1", "1y", "99999999999999999999d", ""] {
        let outcome = dir.cli(&["token", "create", &format!("--expires={time}")]);
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (Some(2), ""),
            "{outcome:?}"
        );
        assert!(
            outcome.stderr.starts_with("error: invalid value "),
            "{outcome:?}"
        );
    }
    assert_eq!(list(&dir), before);
    let conflict = dir.cli(&["token", "create", "--read", "--write"]);
    assert_eq!(conflict.code, Some(2), "{conflict:?}");
}

// Beside a server, and before one.

#[test]
fn a_token_made_beside_a_running_server_works_at_once() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let try_this =
        "no token yet, so nobody can use this cache try=\"cachesrv token create --write\"";
    server.wait_for_line(try_this);
    for round in 0..5 {
        let token = dir.token("write");
        let hash = round.to_string();
        assert_eq!(server.client(&token).put(&hash, b"bytes").status, 200);
    }
}

#[test]
fn tokens_can_be_made_while_a_server_creates_the_database() {
    for round in 0..12 {
        let dir = Arc::new(Dir::new());
        let beside = Arc::clone(&dir);
        let create = thread::spawn(move || beside.token("write"));
        let server = Server::start(&dir);
        let token = create.join().expect("a token was made");
        assert_eq!(
            server.client(&token).put("1", b"bytes").status,
            200,
            "round {round}"
        );
    }
}

// Files.

#[test]
fn nobody_but_the_owner_may_read_the_files_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        for server_first in [false, true] {
            let dir = Dir::new();
            let create = format!("umask {umask}; \"$cachesrv\" token create --write 2>/dev/null");
            let made = (!server_first).then(|| dir.shell(&create).done());
            let mut serve = dir.command("/bin/sh");
            let binary = support::dir::BINARY;
            let line = format!("umask {umask}; exec '{binary}' serve --listen 127.0.0.1:0");
            let server = Server::start_command(serve.args(["-c", &line]));
            let secret = made.unwrap_or_else(|| dir.shell(&create).done());
            let mut client = Client::new(server.address(), Some(secret.trim_end()));
            assert_eq!(client.put("1", b"bytes").status, 200);
            assert_eq!(
                dir.files(),
                ["cachesrv.db", "cachesrv.db-shm", "cachesrv.db-wal"]
            );
            for file in dir.files() {
                assert_eq!(mode(&dir.join(&file)), 0o600, "{file}, umask {umask}");
            }
        }
    }
}
