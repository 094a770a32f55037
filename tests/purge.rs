//! `cachesrv purge` beside a running server: what goes and what stays, byte by byte; and that neither the
//! server's clients nor the operator notice that the other one is at work.

mod support;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rusqlite::types::Value as Cell;
use serde_json::{Value, json};
use support::{Client, Dir, Outcome, Server, Token, eventually, noise};

const MIB: usize = 1024 * 1024;

/// The path of a hash: in the trusted scope, or in an isolated one.
fn path(scope: Option<&str>, hash: &str) -> String {
    let prefix = scope.map_or_else(String::new, |scope| format!("/s/{scope}"));
    format!("{prefix}/v1/cache/{hash}")
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

/// Everything that a test knows of one cache.
struct World {
    dir: Dir,
    server: Server,
    /// Each entry that was stored: where, by which token it is read, and its bytes.
    stored: Vec<Stored>,
}

struct Stored {
    reader: Token,
    path: String,
    bytes: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let dir = Dir::new();
        dir.token("read");
        let server = Server::start(&dir);
        let stored = Vec::new();
        Self {
            dir,
            server,
            stored,
        }
    }

    fn token(&self, options: &[&str]) -> Token {
        self.dir.token_with(options)
    }

    /// Stores an entry in a millisecond of its own; its number.
    fn put(&mut self, token: &Token, scope: Option<&str>, hash: &str) -> usize {
        let number = self.stored.len();
        let bytes = noise(number as u64, 1000 + number);
        let path = path(scope, hash);
        next_millisecond();
        assert_eq!(
            put(&mut self.server.client(token), &path, &bytes),
            200,
            "{path}"
        );
        next_millisecond();
        let reader = token.clone();
        self.stored.push(Stored {
            reader,
            path,
            bytes,
        });
        number
    }

    /// The numbers of the entries that are there, with the bytes that were stored; any other answer than
    /// those or a miss fails.
    fn left(&self) -> Vec<usize> {
        let is_left = |number: &usize| {
            let Stored {
                reader,
                path,
                bytes,
            } = &self.stored[*number];
            let answer = self.server.client(reader).ask("GET", path);
            match answer.status {
                200 => assert!(answer.body == *bytes, "{path} has other bytes"),
                status => assert_eq!(status, 404, "{path}"),
            }
            answer.status == 200
        };
        (0..self.stored.len()).filter(is_left).collect()
    }

    /// Everything but these.
    fn all_but(&self, gone: &[usize]) -> Vec<usize> {
        let stays = |number: &usize| !gone.contains(number);
        (0..self.stored.len()).filter(stays).collect()
    }

    fn bytes_of(&self, numbers: &[usize]) -> u64 {
        let lengths = numbers
            .iter()
            .map(|number| self.stored[*number].bytes.len());
        lengths.sum::<usize>() as u64
    }

    fn stored_at(&self, number: usize) -> String {
        let hash = self.stored[number].path.rsplit('/').next().expect("a hash");
        let stdout = self.dir.cli(&["artifact", "show", hash, "--json"]).done();
        let shown: Value = serde_json::from_str(&stdout).expect("JSON");
        shown[0]["stored_at"].as_str().expect("a time").to_owned()
    }

    /// Purges with these options, first for a try and then for good, and holds that both say the same, that
    /// the first changes nothing and that the second removes exactly `gone`.
    #[track_caller]
    fn purges(&self, options: &[&str], gone: &[usize]) {
        let before = self.left();
        let state = rows(&self.dir);
        let would = report(&self.dir, &[options, &["--dry-run"]].concat());
        assert!(
            rows(&self.dir) == state,
            "{options:?}: a dry run changes nothing"
        );
        assert_eq!(
            self.left(),
            before,
            "{options:?}: a dry run removes nothing"
        );
        let mut did = report(&self.dir, options);
        assert_eq!(
            (&would["dry_run"], &did["dry_run"]),
            (&json!(true), &json!(false))
        );
        did["dry_run"] = json!(true);
        assert_eq!(would, did, "{options:?}");
        let expected: Vec<usize> = before
            .into_iter()
            .filter(|number| !gone.contains(number))
            .collect();
        assert_eq!(self.left(), expected, "{options:?}");
        assert_eq!(did["artifacts"], json!(gone.len()), "{options:?}");
        assert_eq!(did["bytes"], json!(self.bytes_of(gone)), "{options:?}");
    }
}

fn put(client: &mut Client, path: &str, bytes: &[u8]) -> u16 {
    let length = format!("Content-Length: {}", bytes.len());
    client.begin("PUT", path, &[&length]);
    client.raw.send(bytes);
    client.raw.answer().status
}

#[track_caller]
fn report(dir: &Dir, options: &[&str]) -> Value {
    let outcome = dir.cli(&[&["purge", "--json"], options].concat());
    serde_json::from_str(&outcome.done()).expect("JSON")
}

/// All rows that a purge could change.
fn rows(dir: &Dir) -> Vec<Vec<Cell>> {
    let connection = dir.sqlite();
    let mut all = Vec::new();
    for sql in [
        "SELECT * FROM artifacts ORDER BY id",
        "SELECT id, checksum FROM chunks ORDER BY id",
        "SELECT * FROM scopes ORDER BY id",
        "SELECT id, revoked_at_ms, expires_at_ms, first_artifact_id FROM tokens ORDER BY id",
        "SELECT * FROM isolated_usage ORDER BY 1",
        "SELECT * FROM isolated_totals ORDER BY 1",
    ] {
        let mut statement = connection.prepare(sql).expect(sql);
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect();
        let read = statement.query_map([], row).expect(sql);
        all.extend(read.map(|row| row.expect(sql)));
    }
    all
}

/// Four tokens that have stored something in turn: two that write, called `ci` and `release`, one for pull
/// requests, and one bound to the scope `pr-2`.
fn busy() -> (World, [Token; 4]) {
    let mut world = World::new();
    let ci = world.token(&["--write", "--name", "ci"]);
    let release = world.token(&["--write", "--name", "release"]);
    let pulls = world.token(&["--isolated", "--name", "pulls"]);
    let bound = world.token(&["--isolated", "pr-2", "--name", "bound"]);
    world.put(&ci, None, "1"); // 0
    world.put(&pulls, Some("pr-1"), "2"); // 1
    world.put(&release, None, "3"); // 2
    world.put(&bound, Some("pr-2"), "2"); // 3
    world.put(&pulls, Some("pr-2"), "4"); // 4
    world.put(&ci, None, "5"); // 5
    world.put(&pulls, Some("trusted"), "6"); // 6
    (world, [ci, release, pulls, bound])
}

fn in_shop<'o>(options: &[&'o str]) -> Vec<&'o str> {
    [options, &["--workspace", "shop"]].concat()
}

// Selectors.

#[test]
fn each_selector_removes_what_it_says_and_nothing_else() {
    let selections: [(&[&str], &[usize]); 12] = [
        (&["--token", "ci"], &[0, 5]),
        (&["--token", "pulls"], &[1, 4, 6]),
        (&["--token", "bound"], &[3]),
        (&["--scope", "pr-2"], &[3, 4]),
        (&["--scope", "trusted"], &[6]),
        (&["--scope", "pr-77"], &[]),
        (&["--hash", "2"], &[1, 3]),
        (&["--hash", "5"], &[5]),
        (&["--hash", "77"], &[]),
        (&["--since", "1h"], &[0, 1, 2, 3, 4, 5, 6]),
        (&["--since", "0s"], &[]),
        (&["--since", "2026-01-01"], &[0, 1, 2, 3, 4, 5, 6]),
    ];
    for (options, gone) in selections {
        let (world, _) = busy();
        assert_eq!(world.left().len(), 7);
        world.purges(options, gone);
        assert_eq!(world.left(), world.all_but(gone));
    }
}

#[test]
fn several_selectors_narrow_each_other() {
    let (world, [ci, _, pulls, _]) = busy();
    let third = world.stored_at(2);
    world.purges(&["--token", "pulls", "--scope", "pr-2", "--hash", "2"], &[]);
    world.purges(&["--token", &ci.id, "--scope", "pr-1"], &[]);
    world.purges(&["--token", "ci", "--since", &third], &[5]);
    world.purges(&["--token", &pulls.id, "--scope", "pr-2"], &[4]);
    world.purges(&["--hash", "2", "--scope", "pr-1"], &[1]);
    world.purges(
        &["--hash", "2", "--since", &third, "--token", "bound"],
        &[3],
    );
    world.purges(&["--scope", "trusted", "--since", &third], &[6]);
    world.purges(&["--since", &third], &[2]);
    assert_eq!(world.left(), [0]);
}

#[test]
fn since_includes_the_moment_itself() {
    let (world, _) = busy();
    let moment = world.stored_at(5);
    world.purges(&["--since", &moment], &[5, 6]);
}

#[test]
fn a_name_means_every_token_that_ever_had_it_and_an_id_only_one() {
    let mut world = World::new();
    let first = world.token(&["--write", "--name", "ci"]);
    world.put(&first, None, "1");
    world.dir.cli(&["token", "revoke", "ci"]).done();
    let second = world.token(&["--write", "--name", "ci"]);
    world.put(&second, None, "2");
    // Rotated: its successor has its name, it itself is alive for a while.
    let third = {
        let hidden = "UPDATE tokens SET name = 'x' WHERE public_id = ?1";
        let shown = "UPDATE tokens SET name = 'ci' WHERE public_id = ?1";
        let sqlite = world.dir.sqlite();
        sqlite
            .execute(hidden, [&second.id])
            .expect("a token changed");
        let third = world.token(&["--write", "--name", "ci"]);
        let replace =
            "UPDATE tokens SET replaced_by = (SELECT max(id) FROM tokens) WHERE public_id = ?1";
        sqlite
            .execute(replace, [&second.id])
            .expect("a token changed");
        sqlite
            .execute(shown, [&second.id])
            .expect("a token changed");
        third
    };
    world.put(&third, None, "3");
    let namesake = world.token(&["--write", "--name", &second.id]);
    world.put(&namesake, None, "4");
    // Of the first one nothing can be read with its own token any more.
    world.stored[0].reader = third.clone();
    assert_eq!(world.left(), [0, 1, 2, 3]);
    world.purges(&["--token", &second.id], &[1]);
    world.purges(&["--token", "ci"], &[0, 2]);
    assert_eq!(world.left(), [3]);
}

#[test]
fn a_purge_stays_in_its_workspace() {
    let (mut world, _) = busy();
    world.dir.cli(&["workspace", "add", "shop"]).done();
    let main = world.token(&in_shop(&["--write", "--name", "ci"]));
    let pulls = world.token(&in_shop(&["--isolated", "--name", "pulls"]));
    world.put(&main, None, "1"); // 7
    world.put(&pulls, Some("pr-1"), "2"); // 8
    world.put(&pulls, Some("pr-2"), "2"); // 9
    world.purges(&["--token", "ci"], &[0, 5]);
    world.purges(&in_shop(&["--scope", "pr-2"]), &[9]);
    world.purges(&["--hash", "2"], &[1, 3]);
    world.purges(&in_shop(&["--token", "pulls", "--transitive"]), &[8]);
    world.purges(&["--since", "1h"], &[2, 4, 6]);
    assert_eq!(world.left(), [7]);
    world.purges(&in_shop(&["--hash", "1", "--transitive"]), &[7]);
}

// Transitive.

#[test]
fn a_leaked_write_token_takes_everything_with_it_since_its_first_write() {
    let mut world = World::new();
    let ci = world.token(&["--write", "--name", "ci"]);
    let leaked = world.token(&["--write", "--name", "leaked"]);
    let release = world.token(&["--write-only", "--name", "release"]);
    let pulls = world.token(&["--isolated", "--name", "pulls"]);
    world.dir.cli(&["workspace", "add", "shop"]).done();
    let shop = world.token(&["--write", "--workspace", "shop"]);
    world.put(&ci, None, "1"); // 0
    world.put(&pulls, Some("pr-1"), "2"); // 1
    world.put(&shop, None, "1"); // 2
    world.put(&leaked, None, "3"); // 3
    world.put(&ci, None, "4"); // 4
    world.put(&pulls, Some("pr-1"), "5"); // 5
    world.put(&release, None, "6"); // 6
    world.stored[6].reader = ci.clone();
    world.put(&shop, None, "3"); // 7
    world.dir.cli(&["token", "revoke", "leaked"]).done();
    world.stored[3].reader = ci.clone();
    world.purges(&["--token", "leaked", "--transitive"], &[3, 4, 5, 6]);
    assert_eq!(world.left(), [0, 1, 2, 7]);
    let nothing = report(&world.dir, &["--token", "leaked", "--transitive"]);
    let expected = json!({"dry_run": false, "artifacts": 0, "bytes": 0, "scopes": []});
    assert_eq!(nothing, expected);
}

#[test]
fn what_a_token_stored_first_is_remembered_when_it_is_gone() {
    let mut world = World::new();
    let ci = world.token(&["--write", "--name", "ci"]);
    let leaked = world.token(&["--write", "--name", "leaked"]);
    world.put(&ci, None, "1"); // 0
    world.put(&leaked, None, "2"); // 1
    world.put(&ci, None, "3"); // 2
    world.purges(&["--hash", "2"], &[1]);
    // The cleaner frees it, as if its grace were over.
    let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
    world.dir.sqlite().execute(age, []).expect("rows changed");
    eventually("the row is gone", || {
        let rows = world
            .dir
            .number("SELECT count(*) FROM artifacts WHERE hash = '2'");
        (rows == 0).then_some(())
    });
    world.purges(&["--token", "leaked", "--transitive"], &[2]);
    assert_eq!(world.left(), [0]);
    // Nothing is remembered of a hash.
    let outcome = world.dir.cli(&["purge", "--hash", "2", "--transitive"]);
    let expected = Outcome {
        code: Some(0),
        stdout: "purged 0 artifacts, 0 B, from workspace 'default'\n".to_owned(),
        stderr: "nothing of hash '2' is left, so since when is not known: give --since instead\n"
            .to_owned(),
    };
    assert_eq!(outcome, expected);
}

#[test]
fn a_leaked_isolated_token_takes_isolated_artifacts_only() {
    let mut world = World::new();
    let ci = world.token(&["--write", "--name", "ci"]);
    let pulls = world.token(&["--isolated", "--name", "pulls"]);
    let leaked = world.token(&["--isolated", "pr-2", "--name", "leaked"]);
    world.put(&pulls, Some("pr-1"), "1"); // 0
    world.put(&leaked, Some("pr-2"), "2"); // 1
    world.put(&ci, None, "3"); // 2
    world.put(&pulls, Some("pr-1"), "4"); // 3
    world.put(&ci, None, "2"); // 4
    // It reads the trusted scope first, where somebody stored the same hash since.
    assert_eq!(
        world
            .server
            .client(&leaked)
            .ask("GET", &path(Some("pr-2"), "2"))
            .body,
        world.stored[4].bytes
    );
    let told = report(&world.dir, &["--token", "leaked", "--transitive"]);
    assert_eq!(told["artifacts"], json!(2));
    let kinds: Vec<&Value> = told["scopes"]
        .as_array()
        .expect("scopes")
        .iter()
        .map(|scope| &scope["kind"])
        .collect();
    assert_eq!(kinds, ["isolated", "isolated"]);
    world.stored.remove(1);
    assert_eq!(world.left(), [0, 1, 3]);
}

#[test]
fn a_name_that_was_isolated_first_and_trusted_later_is_suspect_from_each_on() {
    let mut world = World::new();
    let ci = world.token(&["--write", "--name", "ci"]);
    let pulls = world.token(&["--isolated", "--name", "pulls"]);
    let isolating = world.token(&["--isolated", "--name", "both"]);
    world.put(&pulls, Some("pr-1"), "1"); // 0
    world.put(&isolating, Some("pr-2"), "2"); // 1
    world.put(&ci, None, "3"); // 2: before anything trusted was written by that name
    world.put(&pulls, Some("pr-1"), "4"); // 3
    world.dir.cli(&["token", "revoke", "both"]).done();
    let writing = world.token(&["--write", "--name", "both"]);
    world.put(&writing, None, "5"); // 4
    world.put(&ci, None, "6"); // 5
    world.stored[1].reader = pulls.clone();
    world.purges(&["--token", "both", "--transitive"], &[1, 3, 4, 5]);
    assert_eq!(world.left(), [0, 2]);
}

#[test]
fn a_hash_takes_everything_with_it_since_it_was_stored() {
    let (world, _) = busy();
    // In isolated scopes only: trusted artifacts stay.
    world.purges(&["--hash", "2", "--transitive"], &[1, 3, 4, 6]);
    let (world, _) = busy();
    world.purges(&["--hash", "3", "--transitive"], &[2, 3, 4, 5, 6]);
    assert_eq!(world.left(), [0, 1]);
    // By one token of two that stored it.
    let (world, _) = busy();
    world.purges(
        &["--hash", "2", "--token", "bound", "--transitive"],
        &[3, 4, 6],
    );
    // It was deleted a moment ago.
    let (world, _) = busy();
    world.purges(&["--hash", "3"], &[2]);
    world.purges(&["--hash", "3", "--transitive"], &[3, 4, 5, 6]);
}

#[test]
fn a_token_takes_its_own_artifacts_with_it_whatever_it_remembers() {
    let (world, _) = busy();
    let later = "UPDATE tokens SET first_artifact_id = first_artifact_id + 1000 WHERE name = 'ci'";
    world
        .dir
        .sqlite()
        .execute(later, [])
        .expect("a token changed");
    world.purges(&["--token", "ci", "--transitive"], &[0, 5]);
}

#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    for (options, gone) in [
        (["--token", "release"], [2, 3, 4, 5, 6]),
        (["--hash", "3"], [2, 3, 4, 5, 6]),
    ] {
        let (world, _) = busy();
        // As if the clock had been set back by an hour after the first of these.
        let sqlite = world.dir.sqlite();
        let guard = "SELECT sql FROM sqlite_schema WHERE name = 'stored_entries_never_change'";
        let guard: String = sqlite
            .query_row(guard, [], |row| row.get(0))
            .expect("the trigger that keeps entries what they are");
        let back = "DROP TRIGGER stored_entries_never_change;
                    UPDATE artifacts SET created_at_ms = created_at_ms - 3600000
                    WHERE id > (SELECT id FROM artifacts WHERE hash = '3')";
        sqlite.execute_batch(back).expect("the past changed");
        sqlite.execute_batch(&guard).expect("the trigger again");
        world.purges(&[&options[..], &["--transitive"]].concat(), &gone);
        assert_eq!(world.left(), [0, 1]);
    }
}

// What is said.

#[test]
fn a_purge_says_what_it_removed_by_scope() {
    let (world, [ci, ..]) = busy();
    let alive = format!(
        "token 'ci' ({}) is alive and can store artifacts again\ntry: cachesrv token revoke ci\n",
        ci.id
    );
    let says = |verb: &str| {
        format!(
            "{verb} 2 artifacts, 2.0 KiB, from workspace 'default'\n  trusted: 2 artifacts, 2.0 KiB\n"
        )
    };
    let outcome = |stdout: String, stderr: &str| Outcome {
        code: Some(0),
        stdout,
        stderr: stderr.to_owned(),
    };
    let tried = world.dir.cli(&["purge", "--token", "ci", "--dry-run"]);
    assert_eq!(tried, outcome(says("would purge"), &alive));
    let did = world.dir.cli(&["purge", "--token", "ci"]);
    assert_eq!(did, outcome(says("purged"), &alive));
    world.dir.cli(&["token", "revoke", "ci"]).done();
    let none = "purged 0 artifacts, 0 B, from workspace 'default'\n".to_owned();
    let again = world.dir.cli(&["purge", "--token", "ci"]);
    assert_eq!(again, outcome(none, ""));
    let rest = "\
purged 5 artifacts, 4.9 KiB, from workspace 'default'
  trusted: 1 artifact, 1002 B
  isolated 'pr-1': 1 artifact, 1001 B
  isolated 'pr-2': 2 artifacts, 2.0 KiB
  isolated 'trusted': 1 artifact, 1006 B
";
    let did = world.dir.cli(&["purge", "--since", "1d"]);
    assert_eq!(did, outcome(rest.to_owned(), ""));
}

#[test]
fn the_json_of_a_purge_has_these_keys() {
    let (world, _) = busy();
    let scope = |kind: &str, name: Value, artifacts: u64, bytes: u64| json!({"workspace": "default", "kind": kind, "name": name, "artifacts": artifacts, "bytes": bytes});
    let expected = json!({
        "dry_run": true,
        "artifacts": 7,
        "bytes": 7021,
        "scopes": [
            scope("trusted", Value::Null, 3, 3007),
            scope("isolated", "pr-1".into(), 1, 1001),
            scope("isolated", "pr-2".into(), 2, 2007),
            scope("isolated", "trusted".into(), 1, 1006),
        ],
    });
    assert_eq!(
        report(&world.dir, &["--since", "1d", "--dry-run"]),
        expected
    );
}

#[test]
fn the_living_are_named_so_that_they_can_be_revoked() {
    let world = World::new();
    world.dir.cli(&["workspace", "add", "shop"]).done();
    let writing = world.token(&["--write", "--workspace", "shop", "--name", "ci"]);
    world.token(&["--read", "--workspace", "shop", "--name", "reader"]);
    let none = "purged 0 artifacts, 0 B, from workspace 'shop'\n";
    let purge = |options: &[&str]| {
        let outcome = world
            .dir
            .cli(&[&["purge", "--workspace", "shop"], options].concat());
        assert_eq!((&*outcome.stdout, outcome.code), (none, Some(0)));
        outcome.stderr
    };
    let revoke = format!("cachesrv token revoke {} --workspace shop", writing.id);
    let alive = format!(
        "token 'ci' ({}) is alive and can store artifacts again\ntry: {revoke}\n",
        writing.id
    );
    assert_eq!(purge(&["--token", &writing.id]), alive);
    // Who may only read stores nothing.
    assert_eq!(purge(&["--token", "reader"]), "");
    let never = "token 'reader' never stored an artifact\n";
    assert_eq!(purge(&["--token", "reader", "--transitive"]), never);
    let words: Vec<&str> = revoke.split(' ').skip(1).collect();
    world.dir.cli(&words).done();
    assert_eq!(purge(&["--token", "ci"]), "");
}

#[test]
fn mistakes_are_explained_and_change_nothing() {
    let (world, _) = busy();
    let before = rows(&world.dir);
    for handle in ["nope", "AbCdEfGhIjKl", "", "CI", "%"] {
        let text = format!(
            "error: there never was a token '{handle}' in workspace 'default'\ntry: cachesrv token list\n"
        );
        world
            .dir
            .cli(&["purge", "--token", handle])
            .failed(1, &text);
    }
    let text = "error: there is no workspace 'x'\ntry: cachesrv workspace add x\n";
    world
        .dir
        .cli(&["purge", "--since", "1h", "--workspace", "x"])
        .failed(1, text);
    let text = "error: 'a/b' is no hash: use 1 to 128 of A-Z, a-z, 0-9, '_' and '-'\n";
    world.dir.cli(&["purge", "--hash", "a/b"]).failed(2, text);
    let text = "error: 'a/b' cannot name a scope: use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', but not '.' or '..'\n";
    world.dir.cli(&["purge", "--scope", "a/b"]).failed(2, text);
    let text = "error: --since: '2099-01-01' is in the future\n";
    world
        .dir
        .cli(&["purge", "--since", "2099-01-01"])
        .failed(2, text);
    let text = "error: --since: 'soon' is no time: write '2h' or '7d' (that long ago), '2026-11-20' (UTC) or \
                '2026-11-20T08:30:00Z'\n";
    world.dir.cli(&["purge", "--since", "soon"]).failed(2, text);
    for (options, beginning) in [
        (
            &[][..],
            "error: the following required arguments were not provided:\n  <--token <NAME|ID>|--scope <NAME>|--since <TIME>|--hash <HASH>>\n",
        ),
        (
            &["--dry-run"],
            "error: the following required arguments were not provided:\n",
        ),
        (
            &["--transitive"],
            "error: the following required arguments were not provided:\n",
        ),
        (
            &["--transitive", "--scope", "pr-1"],
            "error: the argument '--transitive' cannot be used with '--scope <NAME>'\n",
        ),
        (
            &["--transitive", "--since", "1h"],
            "error: the argument '--transitive' cannot be used with '--since <TIME>'\n",
        ),
        (
            &["--transitive", "--token", "ci", "--since", "1h"],
            "error: the argument '--transitive' cannot be used with '--since <TIME>'\n",
        ),
    ] {
        let outcome = world.dir.cli(&[&["purge"], options].concat());
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (Some(2), ""),
            "{outcome:?}"
        );
        assert!(outcome.stderr.starts_with(beginning), "{outcome:?}");
    }
    assert!(rows(&world.dir) == before);
    assert_eq!(world.left().len(), 7);
}

#[test]
fn a_dry_run_leaves_the_file_as_it_is_to_the_bit() {
    let (world, _) = busy();
    let World { dir, server, .. } = world;
    assert_eq!(server.stop().code(), Some(0));
    let before = std::fs::read(dir.db()).expect("the database");
    for options in [
        &["--since", "1h"][..],
        &["--token", "ci", "--transitive"],
        &["--hash", "2"],
        &["--scope", "pr-1", "--json"],
    ] {
        dir.cli(&[&["purge", "--dry-run"], options].concat()).done();
        let after = std::fs::read(dir.db()).expect("the database");
        assert!(after == before, "{options:?}");
    }
    assert_eq!(dir.files(), ["cachesrv.db"]);
    // Without a server it works as well.
    assert_eq!(report(&dir, &["--since", "1h"])["artifacts"], json!(7));
    assert_eq!(
        dir.number("SELECT count(*) FROM artifacts WHERE condemned_reason = 'purged'"),
        7
    );
    assert_eq!(
        dir.number("SELECT count(*) FROM artifacts WHERE state = 'stored'"),
        0
    );
}

// Beside a server.

#[test]
fn a_purged_hash_is_stored_anew_with_other_bytes() {
    let mut world = World::new();
    let ci = world.token(&["--write", "--name", "ci"]);
    let pulls = world.token(&["--isolated", "--name", "pulls"]);
    world.put(&ci, None, "1"); // 0
    world.put(&pulls, Some("pr-1"), "2"); // 1
    let mut main = world.server.client(&ci);
    let mut pull = world.server.client(&pulls);
    assert_eq!(put(&mut main, &path(None, "1"), b"other"), 409);
    assert_eq!(put(&mut pull, &path(Some("pr-1"), "2"), b"other"), 409);
    world.purges(&["--since", "1h"], &[0, 1]);
    let (ours, theirs) = (noise(7, 3 * MIB), noise(8, 100));
    assert_eq!(put(&mut main, &path(None, "1"), &ours), 200);
    assert_eq!(put(&mut pull, &path(Some("pr-1"), "2"), &theirs), 200);
    let usage = "SELECT size_bytes FROM isolated_totals WHERE workspace_id = 1";
    assert_eq!(world.dir.number(usage), 100);
    for _ in 0..2 {
        assert!(main.get("1").body == ours);
        assert!(pull.ask("GET", &path(Some("pr-1"), "2")).body == theirs);
        // Also when what was there before is freed.
        let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
        world.dir.sqlite().execute(age, []).expect("rows changed");
        eventually("what was purged is freed", || {
            let left = world
                .dir
                .number("SELECT count(*) FROM artifacts WHERE state = 'condemned'");
            (left == 0).then_some(())
        });
    }
}

#[test]
fn a_download_that_began_before_a_purge_gets_all_of_its_bytes() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "ci"]);
    let server = Server::start(&dir);
    let bytes = noise(1, 40 * MIB);
    let mut client = server.client(&token);
    assert_eq!(client.put("1", &bytes).status, 200);
    // The server is stuck in the middle of it: nobody reads more than the sockets hold.
    client.begin("GET", &path(None, "1"), &[]);
    let mut first = [0; 16];
    client
        .raw
        .socket()
        .peek(&mut first)
        .expect("an answer begins");
    assert!(first.starts_with(b"HTTP/1.1 200"));
    assert_eq!(report(&dir, &["--token", "ci"])["artifacts"], json!(1));
    let mut other = server.client(&token);
    assert_eq!(other.get("1").status, 404);
    assert_eq!(other.put("1", b"anew").status, 200);
    // The cleaner has been at work meanwhile, as if both had been hidden long ago: the other one is gone.
    assert_eq!(other.put("2", b"old").status, 200);
    dir.cli(&["artifact", "delete", "2"]).done();
    let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
    dir.sqlite().execute(age, []).expect("a row changed");
    eventually("the cleaner has been there", || {
        let rows = dir.number("SELECT count(*) FROM artifacts WHERE hash = '2'");
        (rows == 0).then_some(())
    });
    let answer = client.raw.answer();
    assert!(answer.body == bytes, "the bytes of before, all of them");
    assert_eq!(client.get("1").body, b"anew");
    assert!(
        !server.log().contains(" reason=damaged"),
        "{}",
        server.log()
    );
}

#[test]
fn an_upload_in_flight_is_not_stored_once_its_token_is_revoked() {
    let dir = Dir::new();
    let leaked = dir.token_with(&["--write", "--name", "leaked"]);
    let reader = dir.token("read");
    let server = Server::start(&dir);
    let bytes = noise(1, 3 * MIB);
    let mut client = server.client(&leaked);
    assert_eq!(client.get("1").status, 404);
    client.begin_put("1", bytes.len());
    client.raw.send(&bytes[..2 * MIB]);
    dir.cli(&["token", "revoke", "leaked"]).done();
    assert_eq!(
        report(&dir, &["--token", "leaked", "--transitive"])["artifacts"],
        json!(0)
    );
    client.raw.send(&bytes[2 * MIB..]);
    assert_eq!(client.raw.answer().status, 401);
    assert_eq!(server.client(&reader).get("1").status, 404);
}

/// Entries of one byte in the trusted scope that a test need not upload one by one, and nobody reads. Stored
/// long ago, but not read so long ago that eviction takes them.
fn seed(dir: &Dir, token: &Token, count: usize) {
    let sql = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
               INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                                      writer_token_id, writer_address)
               SELECT 1, 'seed-' || (n + ?3), 'stored', 1, randomblob(32), 1, unixepoch() * 1000,
                      (SELECT id FROM tokens WHERE public_id = ?1), '192.0.2.1' FROM number";
    let before = dir.number("SELECT count(*) FROM artifacts");
    let values = rusqlite::params![token.id, count as i64, before];
    assert_eq!(dir.sqlite().execute(sql, values), Ok(count));
}

#[test]
fn more_than_one_page_is_walked_to_its_end() {
    let dir = Dir::new();
    let (ci, other) = (
        dir.token_with(&["--write", "--name", "ci"]),
        dir.token("write"),
    );
    // Pages of which none, all and some rows are meant; the last one is full to its last row.
    for (token, count) in [
        (&ci, 1),
        (&other, 5000),
        (&ci, 7500),
        (&other, 1),
        (&ci, 7498),
    ] {
        seed(&dir, token, count);
    }
    assert_eq!(dir.number("SELECT count(*) FROM artifacts"), 20_000);
    let did = report(&dir, &["--token", "ci"]);
    assert_eq!(
        (&did["artifacts"], &did["bytes"]),
        (&json!(14_999), &json!(14_999))
    );
    assert_eq!(
        dir.number("SELECT count(*) FROM artifacts WHERE state = 'stored'"),
        5001
    );
    let scopes = dir.cli(&["scope", "list", "--json"]).done();
    let scopes: Value = serde_json::from_str(&scopes).expect("JSON");
    assert_eq!(scopes[0]["entries"], json!(5001));
    assert_eq!(
        report(&dir, &["--since", "30000d"])["artifacts"],
        json!(5001)
    );
}

#[test]
fn a_purge_and_a_busy_server_do_not_notice_each_other() {
    const WRITERS: u64 = 8;
    let dir = Dir::new();
    let leaked = dir.token_with(&["--write", "--name", "leaked"]);
    let ci = dir.token_with(&["--write", "--name", "ci"]);
    dir.cli(&["token", "revoke", "leaked"]).done();
    seed(&dir, &leaked, 20_000);
    let server = Server::start(&dir);
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let write = |writer: u64| {
        let (stop, failed) = (Arc::clone(&stop), Arc::clone(&failed));
        let mut client = server.client(&ci);
        thread::spawn(move || {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                // A large one now and then.
                let size = if count % 16 == writer { 2 * MIB } else { 2000 };
                let (hash, bytes) = (format!("{writer}-{count}"), noise(count, size));
                let statuses = (client.put(&hash, &bytes).status, client.get(&hash).status);
                if statuses != (200, 200) {
                    failed.lock().unwrap().push((hash, statuses));
                }
                count += 1;
            }
            count
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    let did = dir.cli(&["purge", "--token", "leaked"]);
    stop.store(true, Ordering::Relaxed);
    let counts: Vec<u64> = writers
        .into_iter()
        .map(|writer| writer.join().expect("a writer"))
        .collect();
    let expected = Outcome {
        code: Some(0),
        stdout: "purged 20000 artifacts, 19.5 KiB, from workspace 'default'\n  trusted: 20000 artifacts, 19.5 KiB\n".to_owned(),
        stderr: String::new(),
    };
    assert_eq!(did, expected);
    assert!(failed.lock().unwrap().is_empty(), "{failed:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let left = dir.number("SELECT count(*) FROM artifacts WHERE state = 'stored'");
    assert_eq!(left as u64, counts.iter().sum::<u64>());
}

/// Ctrl-C while it runs: what was done so far is said, and is all that was done.
#[track_caller]
fn interrupted(args: &[&str], verb: &str) {
    const COUNT: usize = 60_000;
    let dir = Dir::new();
    let leaked = dir.token_with(&["--write", "--name", "leaked"]);
    dir.cli(&["token", "revoke", "leaked"]).done();
    seed(&dir, &leaked, COUNT);
    let mut command = dir.command(support::dir::BINARY);
    command.args(args);
    let running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cachesrv starts");
    let hidden = "SELECT count(*) FROM artifacts WHERE state = 'condemned'";
    eventually("it has begun", || (dir.number(hidden) > 0).then_some(()));
    let kill = format!("kill -INT {}", running.id());
    let killed = Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.expect("sh").success());
    let said = running.wait_with_output().expect("it ends");
    let [stdout, stderr] = [said.stdout, said.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(said.status.code(), Some(1), "{stdout}{stderr}");
    assert_eq!(stderr, "error: interrupted: repeat it for the rest\n");
    let left = dir.number("SELECT count(*) FROM artifacts WHERE state = 'stored'") as usize;
    // More than the limits of the gc keep.
    assert!(left > 2000, "{left} are left: {stdout}");
    let gone = format!("{verb} {} artifacts, ", COUNT - left);
    assert!(stdout.starts_with(&gone), "{gone}: {stdout}");
    assert_eq!(dir.files(), ["cachesrv.db"]);
}

#[test]
fn a_purge_that_is_interrupted_says_what_it_did_and_closes_the_database() {
    interrupted(&["purge", "--token", "leaked"], "purged");
}

#[test]
fn a_gc_that_is_interrupted_says_what_it_did_and_closes_the_database() {
    interrupted(&["gc", "--set", "eviction.max_size=1MiB"], "evicted");
}

#[test]
fn two_purges_at_once_count_each_artifact_once() {
    let dir = Arc::new(Dir::new());
    let leaked = dir.token_with(&["--write", "--name", "leaked"]);
    dir.cli(&["token", "revoke", "leaked"]).done();
    seed(&dir, &leaked, 10_000);
    let _server = Server::start(&dir);
    let run = |_| {
        let dir = Arc::clone(&dir);
        thread::spawn(move || report(&dir, &["--token", "leaked"])["artifacts"].as_u64())
    };
    let running: Vec<_> = (0..2).map(run).collect();
    let counts = running.into_iter().map(|run| run.join().expect("a report"));
    assert_eq!(counts.map(Option::unwrap_or_default).sum::<u64>(), 10_000);
}

#[test]
fn a_pipe_gets_no_progress_bar() {
    let dir = Dir::new();
    let leaked = dir.token_with(&["--write", "--name", "leaked"]);
    dir.cli(&["token", "revoke", "leaked"]).done();
    seed(&dir, &leaked, 20_000);
    let outcome = dir.cli(&["purge", "--token", "leaked"]);
    assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""));
}
