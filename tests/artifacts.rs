//! What is stored, as an operator sees it beside a running server: scopes and what they hold, artifacts and
//! who stored them, and single artifacts deleted.

mod support;

use serde_json::{Value, json};
use support::{Client, Dir, Outcome, Server, Token, noise};

const HASH_RULE: &str = "use 1 to 128 of A-Z, a-z, 0-9, '_' and '-'";

/// A PUT below any prefix; the status.
fn put(client: &mut Client, path: &str, bytes: &[u8]) -> u16 {
    put_from(client, path, bytes, None)
}

fn put_from(client: &mut Client, path: &str, bytes: &[u8], address: Option<&str>) -> u16 {
    let length = format!("Content-Length: {}", bytes.len());
    let forwarded = address.map(|address| format!("X-Forwarded-For: {address}"));
    let fields: Vec<&str> = [Some(length.as_str()), forwarded.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    client.begin("PUT", path, &fields);
    client.raw.send(bytes);
    client.raw.answer().status
}

fn isolated(scope: &str, hash: &str) -> String {
    format!("/s/{scope}/v1/cache/{hash}")
}

fn trusted(hash: &str) -> String {
    format!("/v1/cache/{hash}")
}

/// What a command prints as JSON.
#[track_caller]
fn read_json(dir: &Dir, args: &[&str]) -> Value {
    let stdout = dir.cli(&[args, &["--json"]].concat()).done();
    serde_json::from_str(&stdout).expect("JSON")
}

/// A time in JSON, in milliseconds since 1970.
#[track_caller]
fn moment(value: &Value) -> i64 {
    let time: jiff::Timestamp = value.as_str().expect("a time").parse().expect("RFC 3339");
    time.as_millisecond()
}

/// The hashes of a list, in its order.
#[track_caller]
fn hashes(dir: &Dir, options: &[&str]) -> Vec<String> {
    let listed = read_json(dir, &[&["artifact", "list"], options].concat());
    let listed = listed.as_array().expect("an array");
    let hash = |entry: &Value| entry["hash"].as_str().expect("a hash").to_owned();
    listed.iter().map(hash).collect()
}

/// The text with every date, and every time of day, made the same.
fn undated(text: &str) -> String {
    let mut plain: Vec<u8> = text.into();
    let is_digit = |at: usize, bytes: &[u8]| bytes.get(at).is_some_and(u8::is_ascii_digit);
    for at in 0..plain.len() {
        let pattern = b"0000-00-00 00:00";
        let matches = |(offset, expected): (usize, &u8)| {
            if expected.is_ascii_digit() {
                is_digit(at + offset, &plain)
            } else {
                plain.get(at + offset) == Some(expected)
            }
        };
        if pattern.iter().enumerate().all(matches) {
            plain[at..at + pattern.len()].copy_from_slice(pattern);
        }
    }
    String::from_utf8(plain).expect("only digits were changed")
}

/// The time of day moves on, so that what follows is stored later.
fn next_millisecond() {
    let now = || {
        std::time::UNIX_EPOCH
            .elapsed()
            .expect("after 1970")
            .as_millis()
    };
    let before = now();
    while now() == before {
        std::hint::spin_loop();
    }
}

/// Stores what all tests look at: hash `1` and `2` in the trusted scope, `2` and `3` in two isolated ones, one
/// of them called "trusted".
fn fill(server: &Server, write: &Token, isolating: &Token) {
    let mut main = server.client(write);
    let mut pull = server.client(isolating);
    for (path, size) in [(trusted("1"), 100), (trusted("2"), 5000)] {
        assert_eq!(put(&mut main, &path, &noise(1, size)), 200);
        next_millisecond();
    }
    for (path, size) in [
        (isolated("pr-1", "3"), 12_900_000),
        (isolated("trusted", "3"), 0),
        (isolated("trusted", "4"), 1),
    ] {
        assert_eq!(put(&mut pull, &path, &noise(2, size)), 200);
        next_millisecond();
    }
}

fn filled() -> (Dir, Server, Token, Token) {
    let dir = Dir::new();
    let write = dir.token_with(&["--write", "--name", "ci-main"]);
    let isolating = dir.token_with(&["--isolated", "--name", "ci-prs"]);
    let server = Server::start(&dir);
    fill(&server, &write, &isolating);
    (dir, server, write, isolating)
}

// Scopes.

#[test]
fn scopes_are_listed_with_what_they_hold() {
    let (dir, _server, ..) = filled();
    let outcome = dir.cli(&["scope", "list"]);
    let expected = "\
KIND      NAME     ENTRIES      SIZE  CREATED           LAST WRITE
trusted   -              2   5.0 KiB  0000-00-00 00:00  0000-00-00 00:00
isolated  pr-1           1  12.3 MiB  0000-00-00 00:00  0000-00-00 00:00
isolated  trusted        2       1 B  0000-00-00 00:00  0000-00-00 00:00
";
    assert_eq!(
        (undated(&outcome.stdout), &*outcome.stderr),
        (expected.to_owned(), "")
    );
    dir.cli(&["workspace", "add", "shop"]).done();
    let all = undated(&dir.cli(&["scope", "list"]).done());
    assert!(all.starts_with("WORKSPACE  KIND "), "{all}");
    let shop = "shop       trusted   -              0       0 B  0000-00-00 00:00  never\n";
    assert!(all.ends_with(shop), "{all}");
    let one = dir.cli(&["scope", "list", "--workspace", "default"]).done();
    assert_eq!(undated(&one), expected);
    let unknown = "error: there is no workspace 'x'\ntry: cachesrv workspace add x\n";
    dir.cli(&["scope", "list", "--workspace", "x"])
        .failed(1, unknown);
}

#[test]
fn a_scope_without_entries_is_listed_only_if_it_is_trusted() {
    let (dir, server, write, isolating) = filled();
    dir.cli(&["purge", "--since", "1h"]).done();
    let kinds = |dir: &Dir| {
        let listed = read_json(dir, &["scope", "list"]);
        let listed = listed.as_array().expect("an array").clone();
        let line =
            |scope: &Value| format!("{} {} {}", scope["kind"], scope["name"], scope["entries"]);
        listed.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&dir), ["\"trusted\" null 0"]);
    let status = put(&mut server.client(&isolating), &isolated("pr-9", "1"), b"x");
    assert_eq!(status, 200);
    assert_eq!(
        kinds(&dir),
        ["\"trusted\" null 0", "\"isolated\" \"pr-9\" 1"]
    );
    assert_eq!(put(&mut server.client(&write), &trusted("1"), b"x"), 200);
    assert_eq!(
        kinds(&dir),
        ["\"trusted\" null 1", "\"isolated\" \"pr-9\" 1"]
    );
}

#[test]
fn the_json_of_scopes_has_these_keys() {
    let (dir, ..) = filled();
    let listed = read_json(&dir, &["scope", "list"]);
    let times = |at: usize| {
        (
            listed[at]["created_at"].clone(),
            listed[at]["last_write_at"].clone(),
        )
    };
    let scope = |at: usize, kind: &str, name: Value, entries: u64, bytes: u64| {
        let (created_at, last_write_at) = times(at);
        json!({
            "workspace": "default", "kind": kind, "name": name, "entries": entries, "bytes": bytes,
            "created_at": created_at, "last_write_at": last_write_at,
        })
    };
    let expected = json!([
        scope(0, "trusted", Value::Null, 2, 5100),
        scope(1, "isolated", "pr-1".into(), 1, 12_900_000),
        scope(2, "isolated", "trusted".into(), 2, 1),
    ]);
    assert_eq!(listed, expected);
    for at in 0..3 {
        let (created_at, last_write_at) = times(at);
        assert!(moment(&created_at) <= moment(&last_write_at), "{listed}");
    }
}

// Lists.

#[test]
fn artifacts_are_listed_newest_first() {
    let (dir, _server, ..) = filled();
    let outcome = dir.cli(&["artifact", "list"]);
    let expected = "\
HASH      SIZE  KIND      SCOPE    STORED            TOKEN    FROM
4          1 B  isolated  trusted  0000-00-00 00:00  ci-prs   127.0.0.1
3          0 B  isolated  trusted  0000-00-00 00:00  ci-prs   127.0.0.1
3     12.3 MiB  isolated  pr-1     0000-00-00 00:00  ci-prs   127.0.0.1
2      4.9 KiB  trusted   -        0000-00-00 00:00  ci-main  127.0.0.1
1        100 B  trusted   -        0000-00-00 00:00  ci-main  127.0.0.1
";
    assert_eq!(
        (undated(&outcome.stdout), &*outcome.stderr, outcome.code),
        (expected.to_owned(), "", Some(0))
    );
    let outcome = dir.cli(&["artifact", "list", "--trusted", "--limit", "1"]);
    let expected = "\
HASH     SIZE  STORED            TOKEN    FROM
2     4.9 KiB  0000-00-00 00:00  ci-main  127.0.0.1
";
    assert_eq!(undated(&outcome.stdout), expected);
    let more = "only the newest 1 are listed; there are more: --limit, --since, --scope and --token choose others\n";
    assert_eq!((&*outcome.stderr, outcome.code), (more, Some(0)));
    let all = dir.cli(&["artifact", "list", "--limit", "5"]);
    assert_eq!(all.stderr, "", "exactly as many as there are");
}

#[test]
fn a_list_is_narrowed_by_scope_token_and_time() {
    let (dir, _server, write, isolating) = filled();
    let stored_at = |hash: &str| {
        let shown = read_json(&dir, &["artifact", "show", hash]);
        shown[0]["stored_at"].as_str().expect("a time").to_owned()
    };
    let (second, fourth) = (stored_at("2"), stored_at("4"));
    for (options, expected) in [
        (&["--trusted"][..], &["2", "1"][..]),
        (&["--scope", "trusted"], &["4", "3"]),
        (&["--scope", "pr-1"], &["3"]),
        (&["--scope", "pr-2"], &[]),
        (&["--token", "ci-main"], &["2", "1"]),
        (&["--token", &write.id], &["2", "1"]),
        (&["--token", &isolating.id, "--scope", "pr-1"], &["3"]),
        (&["--token", "ci-main", "--scope", "pr-1"], &[]),
        (&["--since", &second], &["4", "3", "3", "2"]),
        (&["--since", &second, "--trusted"], &["2"]),
        (&["--since", &fourth, "--token", "ci-prs"], &["4"]),
        (&["--since", "1h"], &["4", "3", "3", "2", "1"]),
        (&["--since", "0s"], &[]),
    ] {
        assert_eq!(hashes(&dir, options), expected, "{options:?}");
    }
    let none = dir.cli(&["artifact", "list", "--since", "0s"]);
    let expected = Outcome {
        code: Some(0),
        stdout: String::new(),
        stderr: "no artifacts\n".to_owned(),
    };
    assert_eq!(none, expected);
}

#[test]
fn workspaces_do_not_show_in_each_others_lists() {
    let (dir, server, ..) = filled();
    dir.cli(&["workspace", "add", "shop"]).done();
    let shop = dir.token_with(&["--write", "--name", "shop-main", "--workspace", "shop"]);
    assert_eq!(put(&mut server.client(&shop), &trusted("1"), b"shop"), 200);
    assert_eq!(hashes(&dir, &["--workspace", "shop"]), ["1"]);
    assert_eq!(hashes(&dir, &["--trusted"]), ["2", "1"]);
    let shown = read_json(&dir, &["artifact", "show", "1", "--workspace", "shop"]);
    assert_eq!(shown.as_array().expect("an array").len(), 1);
    assert_eq!(
        (&shown[0]["workspace"], &shown[0]["bytes"]),
        (&json!("shop"), &json!(4))
    );
    // A token of another workspace is unknown here, by id as well.
    for handle in ["shop-main", &shop.id] {
        let unknown = format!(
            "error: there never was a token '{handle}' in workspace 'default'\ntry: cachesrv token list\n"
        );
        dir.cli(&["artifact", "list", "--token", handle])
            .failed(1, &unknown);
    }
}

// Provenance.

#[test]
fn show_tells_who_stored_a_hash_when_and_from_where_in_each_scope() {
    let dir = Dir::new();
    let write = dir.token_with(&["--write", "--name", "ci-main"]);
    let isolating = dir.token_with(&["--isolated"]);
    let server = Server::start_with(&dir, &["--set", "behind_proxy=true"]);
    let before = std::time::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_millis() as i64;
    let (ours, theirs) = (noise(1, 5000), noise(2, 77));
    let mut pull = server.client(&isolating);
    let path = isolated("pr-1", "7");
    assert_eq!(
        put_from(&mut pull, &path, &theirs, Some("2001:db8::7")),
        200
    );
    let mut main = server.client(&write);
    assert_eq!(
        put_from(&mut main, &trusted("7"), &ours, Some("192.0.2.1")),
        200
    );
    let after = std::time::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_millis() as i64;

    let shown = read_json(&dir, &["artifact", "show", "7"]);
    let digest = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let expected = json!([
        {
            "workspace": "default", "kind": "trusted", "scope": null, "hash": "7", "bytes": 5000,
            "blake3": digest(&ours), "stored_at": shown[0]["stored_at"], "last_read_at": null,
            "token": {"id": write.id, "name": "ci-main", "access": "write", "state": "live"},
            "address": "192.0.2.1",
        },
        {
            "workspace": "default", "kind": "isolated", "scope": "pr-1", "hash": "7", "bytes": 77,
            "blake3": digest(&theirs), "stored_at": shown[1]["stored_at"], "last_read_at": null,
            "token": {"id": isolating.id, "name": null, "access": "isolated", "state": "live"},
            "address": "2001:db8::7",
        },
    ]);
    assert_eq!(shown, expected);
    for entry in shown.as_array().expect("an array") {
        assert!(
            (before..=after).contains(&moment(&entry["stored_at"])),
            "{entry}"
        );
    }

    let time = |at: usize| shown[at]["stored_at"].as_str().expect("a time");
    let text = format!(
        "\
artifact 7 in workspace 'default'

trusted
  size       4.9 KiB (5000 bytes)
  blake3     {}
  stored     {}
  last read  never
  by         token 'ci-main' ({}), write, live
  from       192.0.2.1

isolated 'pr-1'
  size       77 B
  blake3     {}
  stored     {}
  last read  never
  by         token {}, isolated, live
  from       2001:db8::7
",
        digest(&ours),
        time(0),
        write.id,
        digest(&theirs),
        time(1),
        isolating.id
    );
    assert_eq!(dir.cli(&["artifact", "show", "7"]).done(), text);
}

#[test]
fn what_a_token_stored_stays_its_own_when_it_is_revoked_expired_or_followed() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let states = |hash: &str| {
        let shown = read_json(&dir, &["artifact", "show", hash]);
        let token = &shown[0]["token"];
        let word = |key: &str| token[key].as_str().expect(key).to_owned();
        (word("id"), word("name"), word("state"))
    };
    let of = |token: &Token, state: &str| (token.id.clone(), "ci".to_owned(), state.to_owned());
    let first = dir.token_with(&["--write", "--name", "ci"]);
    assert_eq!(put(&mut server.client(&first), &trusted("1"), b"1"), 200);
    assert_eq!(states("1"), of(&first, "live"));
    dir.cli(&["token", "revoke", "ci"]).done();
    assert_eq!(states("1"), of(&first, "revoked"));
    let second = dir.token_with(&["--write", "--name", "ci"]);
    assert_eq!(put(&mut server.client(&second), &trusted("2"), b"2"), 200);
    assert_eq!(states("1"), of(&first, "revoked"));
    assert_eq!(states("2"), of(&second, "live"));
    let expire = "UPDATE tokens SET expires_at_ms = 1 WHERE public_id = ?1";
    dir.sqlite()
        .execute(expire, [&second.id])
        .expect("a token changed");
    assert_eq!(states("2"), of(&second, "expired"));
    // The name stands for both, an id for one.
    assert_eq!(hashes(&dir, &["--token", "ci"]), ["2", "1"]);
    assert_eq!(hashes(&dir, &["--token", &first.id]), ["1"]);
    // A name that is the id of another token is that token.
    let twin = dir.token_with(&["--write", "--name", &first.id]);
    assert_eq!(put(&mut server.client(&twin), &trusted("3"), b"3"), 200);
    assert_eq!(hashes(&dir, &["--token", &first.id]), ["1"]);
    assert_eq!(hashes(&dir, &["--token", &twin.id]), ["3"]);
}

#[test]
fn a_read_that_was_noted_is_shown() {
    let (dir, ..) = filled();
    let note = "UPDATE artifacts SET read_at_ms = created_at_ms + 60000 WHERE hash = '1'";
    dir.sqlite().execute(note, []).expect("a row changed");
    let shown = read_json(&dir, &["artifact", "show", "1"]);
    assert!(
        moment(&shown[0]["last_read_at"]) > moment(&shown[0]["stored_at"]),
        "{shown}"
    );
    let listed = dir.cli(&["artifact", "list", "--trusted"]).done();
    assert!(listed.contains(" LAST READ "), "{listed}");
}

// Deleting.

#[test]
fn a_deleted_hash_is_missed_at_once_and_stored_anew() {
    let (dir, server, write, isolating) = filled();
    let (mut main, mut pull) = (server.client(&write), server.client(&isolating));
    assert_eq!(put(&mut main, &trusted("3"), b"main"), 200);
    let total =
        |dir: &Dir| dir.number("SELECT size_bytes FROM isolated_totals WHERE workspace_id = 1");
    assert_eq!(total(&dir), 12_900_001);

    let outcome = dir.cli(&["artifact", "delete", "3", "--scope", "pr-1"]);
    let text = "deleted 1 artifact, 12.3 MiB, from workspace 'default'\n  isolated 'pr-1': 1 artifact, 12.3 MiB\n";
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (text, ""));
    assert_eq!(total(&dir), 1);
    assert_eq!(pull.ask("GET", &isolated("pr-1", "3")).body, b"main");
    let outcome = dir.cli(&["artifact", "delete", "3", "--trusted", "--dry-run"]);
    let text =
        "would delete 1 artifact, 4 B, from workspace 'default'\n  trusted: 1 artifact, 4 B\n";
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (text, ""));
    assert_eq!(main.get("3").body, b"main");
    let outcome = dir.cli(&["artifact", "delete", "3"]);
    let text = "\
deleted 2 artifacts, 4 B, from workspace 'default'
  trusted: 1 artifact, 4 B
  isolated 'trusted': 1 artifact, 0 B
";
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (text, ""));
    assert_eq!(hashes(&dir, &[]), ["4", "2", "1"]);
    let gone =
        "error: there is no artifact '3' in workspace 'default'\ntry: cachesrv artifact list\n";
    dir.cli(&["artifact", "show", "3"]).failed(1, gone);
    assert_eq!(main.get("3").status, 404);
    assert_eq!(pull.ask("GET", &isolated("pr-1", "3")).status, 404);
    // The others are as they were, and the hash is free.
    assert_eq!(main.get("1").body, noise(1, 100));
    assert_eq!(put(&mut main, &trusted("3"), b"anew"), 200);
    assert_eq!(pull.ask("GET", &isolated("pr-1", "3")).body, b"anew");
}

#[test]
fn a_hash_that_is_not_there_cannot_be_shown_or_deleted() {
    let (dir, ..) = filled();
    let list = "try: cachesrv artifact list\n";
    let nowhere = format!("error: there is no artifact '9' in workspace 'default'\n{list}");
    dir.cli(&["artifact", "show", "9"]).failed(1, &nowhere);
    dir.cli(&["artifact", "delete", "9"]).failed(1, &nowhere);
    dir.cli(&["artifact", "delete", "9", "--dry-run"])
        .failed(1, &nowhere);
    let text = format!(
        "error: there is no artifact '1' in isolated scope 'pr-1' of workspace 'default'\n{list}"
    );
    dir.cli(&["artifact", "delete", "1", "--scope", "pr-1"])
        .failed(1, &text);
    let text = format!(
        "error: there is no artifact '4' in the trusted scope of workspace 'default'\n{list}"
    );
    dir.cli(&["artifact", "delete", "4", "--trusted"])
        .failed(1, &text);
    dir.cli(&["workspace", "add", "shop"]).done();
    let text = "error: there is no artifact '1' in workspace 'shop'\n\
                try: cachesrv artifact list --workspace shop\n";
    dir.cli(&["artifact", "show", "1", "--workspace", "shop"])
        .failed(1, text);
    let text = "error: there is no workspace 'x'\ntry: cachesrv workspace add x\n";
    for command in [&["list"][..], &["show", "1"], &["delete", "1"]] {
        dir.cli(&[&["artifact"], command, &["--workspace", "x"]].concat())
            .failed(1, text);
    }
    assert_eq!(hashes(&dir, &[]), ["4", "3", "3", "2", "1"]);
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let dir = Dir::new();
    dir.token("write");
    let long = "1".repeat(129);
    for hash in ["", "a b", "a/b", "..", "ä", "%31", &long] {
        let text = format!("error: '{hash}' is no hash: {HASH_RULE}\n");
        dir.cli(&["artifact", "show", hash]).failed(2, &text);
        dir.cli(&["artifact", "delete", hash]).failed(2, &text);
    }
    let scope = "use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', but not '.' or '..'";
    for command in [&["list"][..], &["delete", "1"]] {
        let args = [&["artifact"], command, &["--scope", ".."]].concat();
        let text = format!("error: '..' cannot name a scope: {scope}\n");
        dir.cli(&args).failed(2, &text);
        let args = [&["artifact"], command, &["--scope", "a", "--trusted"]].concat();
        let outcome = dir.cli(&args);
        let beginning = "error: the argument '--scope <NAME>' cannot be used with '--trusted'\n";
        assert!(outcome.stderr.starts_with(beginning), "{outcome:?}");
        assert_eq!((outcome.code, &*outcome.stdout), (Some(2), ""));
    }
    for limit in ["0", "10001", "-1", "all"] {
        let outcome = dir.cli(&["artifact", "list", &format!("--limit={limit}")]);
        let beginning = format!("error: invalid value '{limit}' for '--limit <N>': ");
        assert!(outcome.stderr.starts_with(&beginning), "{outcome:?}");
        assert_eq!((outcome.code, &*outcome.stdout), (Some(2), ""));
    }
    let text = "error: --since: '2099-01-01' is in the future\n";
    dir.cli(&["artifact", "list", "--since", "2099-01-01"])
        .failed(2, text);
    // The longest hash is one.
    let text = format!(
        "error: there is no artifact '{}' in workspace 'default'\ntry: cachesrv artifact list\n",
        &long[1..]
    );
    dir.cli(&["artifact", "show", &long[1..]]).failed(1, &text);
}
