//! Rotation through the real command and a running server: the new token takes over what the old one may
//! do, the old one goes when it was said, and of two who rotate one token only the first does.

mod support;

use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::Value;
use support::{Dir, Outcome, Server, Token};

const DAY_MS: i64 = 86_400_000;

const REVOKED: &str = "this token was revoked: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one \
                       made by `cachesrv token create`\n";
const EXPIRED: &str = "this token has expired: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one \
                       made by `cachesrv token create`\n";

fn list(dir: &Dir) -> Vec<Value> {
    let stdout = dir.cli(&["token", "list", "--json"]).done();
    serde_json::from_str(&stdout).expect("a JSON array")
}

/// The token with this id, as the list has it.
fn listed(dir: &Dir, id: &str) -> Value {
    let found = list(dir).into_iter().find(|token| token["id"] == id);
    found.expect("a token with this id")
}

/// A time of the list as sentences have it: to the minute.
fn minute(time: &Value) -> String {
    let time = time.as_str().expect("a time");
    format!("{} {}", &time[..10], &time[11..16])
}

fn token_of(outcome: &Outcome) -> Token {
    let secret = outcome.stdout.strip_suffix('\n').expect("one line");
    assert_eq!(
        (secret.len(), secret.lines().count()),
        (67, 1),
        "{outcome:?}"
    );
    Token {
        secret: secret.to_owned(),
        id: secret[5..17].to_owned(),
    }
}

/// A token that was made with these options, as sentences name it.
fn title(options: &[&str], token: &Token) -> String {
    match options {
        ["--name", name] => format!("token '{name}' ({})", token.id),
        _ => format!("token {}", token.id),
    }
}

/// Rotates a token with these arguments.
#[track_caller]
fn rotate(dir: &Dir, args: &[&str]) -> Token {
    let outcome = dir.cli(&[&["token", "rotate"], args].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    token_of(&outcome)
}

fn number(dir: &Dir, column: &str, id: &str) -> i64 {
    dir.number(&format!(
        "SELECT {column} FROM tokens WHERE public_id = '{id}'"
    ))
}

fn set(dir: &Dir, assignment: &str, id: &str) {
    let sql = format!("UPDATE tokens SET {assignment} WHERE public_id = ?1");
    dir.sqlite().execute(&sql, [id]).expect("a token changed");
}

// What is said.

#[test]
fn the_new_secret_is_alone_on_stdout_and_stderr_says_who_replaces_whom() {
    let dir = Dir::new();
    let old = dir.token_with(&["--write", "--name", "ci"]);
    let outcome = dir.cli(&["token", "rotate", "ci"]);
    let new = token_of(&outcome);
    let until = minute(&listed(&dir, &old.id)["expires_at"]);
    let text = format!(
        "token {} replaces token 'ci' ({}): write, never expires. The line above is its secret: it is not shown again\n\
         the old one works until {until}: put the new secret in its place by then\n",
        new.id, old.id
    );
    assert_eq!((outcome.code, outcome.stderr), (Some(0), text));
    // A day is the default; the list was made a moment later than the token was rotated.
    let left_ms = number(&dir, "expires_at_ms", &old.id) - number(&dir, "created_at_ms", &new.id);
    assert!((DAY_MS - 60_000..=DAY_MS).contains(&left_ms), "{left_ms}");

    let nameless = dir.token_with(&["--isolated", "pr-1", "--expires", "1h"]);
    let outcome = dir.cli(&["token", "rotate", &nameless.id]);
    let new = token_of(&outcome);
    let until = minute(&listed(&dir, &nameless.id)["expires_at"]);
    let expires = minute(&listed(&dir, &new.id)["expires_at"]);
    let text = format!(
        "token {} replaces token {}: isolated for scope 'pr-1', expires {expires}. The line above is its secret: it is not shown again\n\
         the old one works until {until}, when it expires anyway: put the new secret in its place by then\n",
        new.id, nameless.id
    );
    assert_eq!((outcome.code, outcome.stderr), (Some(0), text));

    let old = dir.token_with(&["--write", "--name", "leaked"]);
    let outcome = dir.cli(&["token", "rotate", "leaked", "--overlap", "0s"]);
    let text = format!(
        "token {} replaces token 'leaked' ({}): write, never expires. The line above is its secret: it is not shown again\n\
         the old one is refused from the next request on: put the new secret in its place now\n",
        token_of(&outcome).id,
        old.id
    );
    assert_eq!((outcome.code, outcome.stderr), (Some(0), text));
}

#[test]
fn a_shell_captures_the_new_secret_and_nothing_else() {
    let dir = Dir::new();
    dir.token_with(&["--write", "--name", "ci"]);
    let outcome =
        dir.shell("TOKEN=$(\"$cachesrv\" token rotate ci 2>/dev/null); printf '%s' \"$TOKEN\"");
    let new = Token {
        id: outcome.stdout[5..17].to_owned(),
        secret: outcome.stdout,
    };
    let server = Server::start(&dir);
    assert_eq!(server.client(&new).put("1", b"bytes").status, 200);
}

#[test]
fn a_secret_that_nobody_could_read_is_a_failure_with_a_way_out() {
    let dir = Dir::new();
    let old = dir.token_with(&["--name", "ci"]);
    let outcome = dir.shell("\"$cachesrv\" token rotate ci > /dev/full");
    let by = listed(&dir, &old.id)["replaced_by"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let text = format!(
        "error: token {by} replaces token 'ci' ({}), but its secret could not be printed: cannot write to stdout: \
         No space left on device (os error 28)\ntry: cachesrv token rotate {by}\n",
        old.id
    );
    outcome.failed(1, &text);
    let outcome = dir.shell("\"$cachesrv\" token create > /dev/full");
    let id = list(&dir)[2]["id"].as_str().unwrap_or_default().to_owned();
    let text = format!(
        "error: token {id} was made, but its secret could not be printed: cannot write to stdout: \
         No space left on device (os error 28)\ntry: cachesrv token revoke {id}\n"
    );
    outcome.failed(1, &text);
}

// Both tokens, and then one.

#[test]
fn during_the_overlap_both_tokens_work_and_after_it_only_the_new_one() {
    let dir = Dir::new();
    let old = dir.token_with(&["--write", "--name", "ci"]);
    let server = Server::start(&dir);
    let mut before = server.client(&old);
    assert_eq!(before.put("old", b"bytes").status, 200);
    let new = rotate(&dir, &["ci", "--overlap", "1h"]);
    let mut after = server.client(&new);
    assert_eq!(after.put("new", b"bytes").status, 200);
    for hash in ["old", "new"] {
        assert_eq!(before.get(hash).status, 200);
        assert_eq!(after.get(hash).status, 200);
    }
    assert_eq!(before.put("old-again", b"bytes").status, 200);
    assert_eq!(listed(&dir, &old.id)["state"], "replaced");
    assert_eq!(listed(&dir, &old.id)["replaced_by"], new.id);
    assert_eq!(listed(&dir, &new.id)["state"], "live");
    assert_eq!(listed(&dir, &new.id)["replaced_by"], Value::Null);

    set(&dir, "expires_at_ms = 1", &old.id);
    let answer = before.get("old");
    assert_eq!((answer.status, answer.text()), (401, EXPIRED));
    assert_eq!(after.get("old").status, 200);
    assert_eq!(listed(&dir, &old.id)["state"], "expired");
}

#[test]
fn without_an_overlap_the_old_token_is_refused_on_the_very_next_request() {
    for expires in [&[][..], &["--expires", "30d"]] {
        let dir = Dir::new();
        let old = dir.token_with(&[&["--write", "--name", "ci"], expires].concat());
        let server = Server::start(&dir);
        let mut before = server.client(&old);
        assert_eq!(before.put("1", b"bytes").status, 200);
        let mut slow = server.client(&old);
        slow.begin_put("slow", 10);
        slow.raw.send(b"bytes");
        let new = rotate(&dir, &["ci", "--overlap", "0s"]);
        let answer = before.get("1");
        assert_eq!((answer.status, answer.text()), (401, REVOKED));
        slow.raw.send(b"bytes");
        let answer = slow.raw.answer();
        assert_eq!((answer.status, answer.text()), (401, REVOKED));
        let mut after = server.client(&new);
        assert_eq!(after.get("slow").status, 404);
        assert_eq!(after.get("1").status, 200);
        let old = listed(&dir, &old.id);
        assert_eq!(
            (&old["state"], &old["replaced_by"]),
            (&"revoked".into(), &new.id.into())
        );
    }
}

#[test]
fn without_an_overlap_every_token_of_the_chain_is_refused_on_the_very_next_request() {
    for name in [&["--name", "ci-main"][..], &[]] {
        let dir = Dir::new();
        let first = dir.token_with(&[&["--write"], name].concat());
        let other = dir.token_with(&["--write", "--name", "other"]);
        let server = Server::start(&dir);
        let second = rotate(&dir, &[&first.id]);
        let mut clients = [&first, &second, &other].map(|token| server.client(token));
        for (client, hash) in clients.iter_mut().zip(["1", "2", "3"]) {
            assert_eq!(client.put(hash, b"bytes").status, 200);
        }
        let handle = name.get(1).copied().unwrap_or(&second.id);
        let outcome = dir.cli(&["token", "rotate", handle, "--overlap", "0s"]);
        let third = token_of(&outcome);
        let [first_title, second_title] = [&first, &second].map(|token| title(name, token));
        let text = format!(
            "token {} replaces {second_title}: write, never expires. The line above is its secret: it is not shown again\n\
             the old one is refused from the next request on: put the new secret in its place now\n\
             revoked {first_title}: it is refused from the next request on\n",
            third.id
        );
        assert_eq!((outcome.code, outcome.stderr), (Some(0), text));
        for client in &mut clients[..2] {
            let answer = client.get("1");
            assert_eq!((answer.status, answer.text()), (401, REVOKED));
        }
        assert_eq!(clients[2].get("1").status, 200);
        assert_eq!(server.client(&third).get("1").status, 200);
        let states =
            [&first, &second, &third].map(|token| listed(&dir, &token.id)["state"].clone());
        assert_eq!(states, ["revoked", "revoked", "live"]);
    }
}

#[test]
fn a_dead_token_in_the_chain_does_not_hide_a_living_one() {
    for death in ["revoked_at_ms = 1", "expires_at_ms = 1"] {
        let dir = Dir::new();
        let first = dir.token_with(&["--write", "--name", "ci"]);
        let server = Server::start(&dir);
        let mut leaked = server.client(&first);
        assert_eq!(leaked.put("1", b"bytes").status, 200);
        let second = rotate(&dir, &["ci"]);
        let third = rotate(&dir, &["ci"]);
        set(&dir, death, &second.id);
        let before = listed(&dir, &second.id);
        let outcome = dir.cli(&["token", "rotate", "ci", "--overlap", "0s"]);
        let text = format!(
            "token {} replaces token 'ci' ({}): write, never expires. The line above is its secret: it is not shown again\n\
             the old one is refused from the next request on: put the new secret in its place now\n\
             revoked token 'ci' ({}): it is refused from the next request on\n",
            token_of(&outcome).id,
            third.id,
            first.id
        );
        assert_eq!((outcome.code, outcome.stderr), (Some(0), text));
        assert_eq!(leaked.get("1").status, 401);
        assert_eq!(listed(&dir, &second.id), before);
    }
}

#[test]
fn an_overlap_holds_for_every_token_of_the_chain_and_lengthens_no_life() {
    let dir = Dir::new();
    let first = dir.token_with(&["--write", "--name", "ci"]);
    let second = rotate(&dir, &["ci", "--overlap", "2h"]);
    let third = rotate(&dir, &["ci", "--overlap", "7d"]);
    let server = Server::start(&dir);
    let mut clients = [&first, &second, &third].map(|token| server.client(token));
    let earlier_end = listed(&dir, &first.id)["expires_at"].clone();
    let outcome = dir.cli(&["token", "rotate", "ci", "--overlap", "3h"]);
    let fourth = token_of(&outcome);
    let end = listed(&dir, &third.id)["expires_at"].clone();
    assert_eq!(listed(&dir, &second.id)["expires_at"], end);
    assert_eq!(listed(&dir, &first.id)["expires_at"], earlier_end);
    assert_eq!(listed(&dir, &fourth.id)["expires_at"], Value::Null);
    let left_ms =
        number(&dir, "expires_at_ms", &second.id) - number(&dir, "created_at_ms", &fourth.id);
    assert!((10_740_000..=10_800_000).contains(&left_ms), "{left_ms}");
    let text = format!(
        "token {} replaces token 'ci' ({}): write, never expires. The line above is its secret: it is not shown again\n\
         the old one works until {end}: put the new secret in its place by then\n\
         token 'ci' ({}), replaced before, works until {end}\n\
         token 'ci' ({}), replaced before, works until {}, when it expires anyway\n",
        fourth.id,
        third.id,
        second.id,
        first.id,
        minute(&earlier_end),
        end = minute(&end)
    );
    assert_eq!((outcome.code, outcome.stderr), (Some(0), text));
    for client in &mut clients {
        assert_eq!(client.get("1").status, 404);
    }
    set(&dir, "expires_at_ms = 1", &second.id);
    let statuses = clients.each_mut().map(|client| client.get("1").status);
    assert_eq!(statuses, [404, 401, 404]);
}

#[test]
fn a_new_token_may_do_what_the_old_one_may_where_it_may() {
    let dir = Dir::new();
    dir.token("write");
    dir.cli(&["workspace", "add", "shop"]).done();
    let server = Server::start(&dir);
    for (number, access) in [
        &["--read"][..],
        &["--write"],
        &["--write-only"],
        &["--isolated"],
        &["--isolated", "pr-1"],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("token-{number}");
        let old = dir.token_with(&[access, &["--workspace", "shop", "--name", &name]].concat());
        let new = rotate(&dir, &[&name, "--workspace", "shop"]);
        let (before, after) = (listed(&dir, &old.id), listed(&dir, &new.id));
        for key in ["name", "workspace", "access", "scope"] {
            assert_eq!(before[key], after[key], "{access:?}: {key}");
        }
        assert_eq!(after["workspace"], "shop");
        let place = if access == ["--isolated"] {
            "/s/pr-2"
        } else {
            ""
        };
        let hash = format!("{place}/v1/cache/{number}");
        let answers = [&old, &new].map(|token| {
            let mut client = server.client(token);
            client.begin("PUT", &hash, &["Content-Length: 0"]);
            let put = client.raw.answer().status;
            (put, client.ask("GET", &hash).status)
        });
        // What the old one has stored is there for the new one.
        let expected = match access[0] {
            "--read" => [(403, 404), (403, 404)],
            "--write-only" => [(200, 404), (409, 404)],
            _ => [(200, 200), (409, 200)],
        };
        assert_eq!(answers, expected, "{access:?}");
        let mut elsewhere = server.client(&new);
        let answer = elsewhere.ask("GET", &format!("/w/default{hash}"));
        assert_eq!(answer.status, 401);
    }
    let bound = list(&dir)
        .into_iter()
        .filter(|token| token["scope"] == "pr-1");
    assert_eq!(bound.count(), 2);
}

#[test]
fn only_the_old_token_was_used_until_the_new_one_is() {
    let dir = Dir::new();
    let old = dir.token_with(&["--write", "--name", "ci"]);
    set(&dir, "last_used_at_ms = 1000", &old.id);
    let new = rotate(&dir, &["ci"]);
    assert_eq!(
        listed(&dir, &old.id)["last_used_at"],
        "1970-01-01T00:00:01.000Z"
    );
    assert_eq!(listed(&dir, &new.id)["last_used_at"], Value::Null);
    let server = Server::start(&dir);
    server.client(&new).get("1");
    support::eventually("the use is noted", || {
        (!listed(&dir, &new.id)["last_used_at"].is_null()).then_some(())
    });
    assert_eq!(
        listed(&dir, &old.id)["last_used_at"],
        "1970-01-01T00:00:01.000Z"
    );
}

// How long.

#[test]
fn the_new_token_lives_as_long_as_the_old_one_was_to_live_from_its_creation() {
    let dir = Dir::new();
    let life_ms = |id: &str| number(&dir, "expires_at_ms - created_at_ms", id);
    let is_about = |ms: i64, days: i64| (days * DAY_MS - 60_000..=days * DAY_MS).contains(&ms);
    let mut token = dir.token_with(&["--name", "ci", "--expires", "30d"]);
    for _ in 0..3 {
        // Twenty of its thirty days ago.
        set(
            &dir,
            &format!(
                "created_at_ms = created_at_ms - {0}, expires_at_ms = expires_at_ms - {0}",
                20 * DAY_MS
            ),
            &token.id,
        );
        token = rotate(&dir, &["ci"]);
        assert!(is_about(life_ms(&token.id), 30), "{}", life_ms(&token.id));
    }
    let token = rotate(&dir, &["ci", "--expires", "5d"]);
    assert!(is_about(life_ms(&token.id), 5), "{}", life_ms(&token.id));
    let for_ever = dir.token_with(&["--name", "for-ever"]);
    let new = rotate(&dir, &[&for_ever.id]);
    assert_eq!(listed(&dir, &new.id)["expires_at"], Value::Null);
    let new = rotate(&dir, &[&new.id, "--expires", "5d"]);
    assert!(is_about(life_ms(&new.id), 5));
    // A life that would end after the last date ends with it.
    let longest = dir.token_with(&["--name", "longest", "--expires", "1000d"]);
    set(&dir, "created_at_ms = -253400000000000", &longest.id);
    let new = rotate(&dir, &["longest"]);
    assert_eq!(number(&dir, "expires_at_ms", &new.id), 253_402_207_200_000);
    assert_eq!(
        listed(&dir, &new.id)["expires_at"],
        "9999-12-30T22:00:00.000Z"
    );
}

#[test]
fn the_overlap_never_lengthens_the_life_of_the_old_token() {
    let dir = Dir::new();
    let old = dir.token_with(&["--name", "ci", "--expires", "1h"]);
    let expires = listed(&dir, &old.id)["expires_at"].clone();
    rotate(&dir, &["ci", "--overlap", "2h"]);
    assert_eq!(listed(&dir, &old.id)["expires_at"], expires);
    let old = dir.token_with(&["--name", "long", "--expires", "30d"]);
    rotate(&dir, &["long", "--overlap", "2h"]);
    let left_ms = number(&dir, "expires_at_ms - created_at_ms", &old.id);
    assert!((7_200_000..7_260_000).contains(&left_ms), "{left_ms}");
}

// Who may be rotated.

#[test]
fn a_replaced_token_is_not_rotated_again_and_what_can_be_done_is_said() {
    let dir = Dir::new();
    let first = dir.token_with(&["--write", "--name", "ci"]);
    let second = rotate(&dir, &[&first.id]);
    let refused = |next: &str, last: &str| {
        format!(
            "error: token 'ci' ({}) was replaced by token {} already\ntry: cachesrv token {next} {last}\n",
            first.id, second.id
        )
    };
    let before = list(&dir);
    // It lives: what can be wanted yet is its end.
    for overlap in ["0s", "24h"] {
        dir.cli(&["token", "rotate", &first.id, "--overlap", overlap])
            .failed(1, &refused("revoke", &first.id));
    }
    assert_eq!(list(&dir), before);
    // The name is the new one's.
    let third = rotate(&dir, &["ci", "--overlap", "0s"]);
    assert_eq!(listed(&dir, &second.id)["replaced_by"], third.id);
    dir.cli(&["token", "rotate", &first.id])
        .failed(1, &refused("rotate", &third.id));
    let by = format!(
        "error: token 'ci' ({}) was replaced by token {} already\ntry: cachesrv token rotate {}\n",
        second.id, third.id, third.id
    );
    dir.cli(&["token", "rotate", &second.id]).failed(1, &by);
    dir.cli(&["token", "revoke", &third.id]).done();
    let text = format!(
        "error: token 'ci' ({}) was replaced by token {} already\ntry: cachesrv token create --write --name ci\n",
        first.id, second.id
    );
    dir.cli(&["token", "rotate", &first.id]).failed(1, &text);
    let text = format!(
        "error: token 'ci' ({}) was revoked on {} and cannot be rotated\n\
         try: cachesrv token create --write --name ci\n",
        third.id,
        minute(&listed(&dir, &third.id)["revoked_at"])
    );
    dir.cli(&["token", "rotate", "ci"]).failed(1, &text);
    let made = dir.token_with(&["--write", "--name", "ci"]);
    // Nobody but a replaced one has the name.
    let new = rotate(&dir, &["ci"]);
    dir.cli(&["token", "revoke", &new.id]).done();
    let text = format!(
        "error: token 'ci' ({0}) was replaced by token {1} already\ntry: cachesrv token revoke {0}\n",
        made.id, new.id
    );
    dir.cli(&["token", "rotate", "ci"]).failed(1, &text);
}

#[test]
fn a_dead_token_is_not_rotated_and_a_command_that_works_is_offered() {
    let dir = Dir::new();
    dir.cli(&["workspace", "add", "shop"]).done();
    let shop = ["--workspace", "shop"];
    for (options, create) in [
        (
            &["--isolated", "pr-1", "--name", "prs"][..],
            "--isolated=pr-1 --name prs",
        ),
        (&["--write-only"], "--write-only"),
        (&["--read", "--name", "laptops"], "--read --name laptops"),
    ] {
        for expired in [false, true] {
            let token = dir.token_with(&[options, &shop].concat());
            if expired {
                set(&dir, "expires_at_ms = 1000", &token.id);
            } else {
                dir.cli(&["token", "revoke", &token.id]).done();
            }
            let before = listed(&dir, &token.id);
            let name = before["name"].as_str();
            let title = name.map_or_else(
                || token.id.clone(),
                |name| format!("'{name}' ({})", token.id),
            );
            let how = if expired {
                "expired on 1970-01-01 00:00".to_owned()
            } else {
                format!("was revoked on {}", minute(&before["revoked_at"]))
            };
            let next = format!("cachesrv token create {create} --workspace shop");
            let text = format!("error: token {title} {how} and cannot be rotated\ntry: {next}\n");
            let count = list(&dir).len();
            let outcome = dir.cli(&["token", "rotate", &token.id]);
            outcome.failed(1, &text);
            assert_eq!(
                (list(&dir).len(), &listed(&dir, &token.id)),
                (count, &before)
            );
            let words: Vec<&str> = next.split(' ').skip(1).collect();
            let made = token_of(&dir.cli(&words));
            if name.is_some() {
                // Somebody has the name again.
                let text = text.replace(&next, &format!("cachesrv token rotate {}", made.id));
                dir.cli(&["token", "rotate", &token.id]).failed(1, &text);
                dir.cli(&["token", "revoke", &made.id]).done();
            }
        }
    }
}

#[test]
fn of_many_who_rotate_one_token_one_does() {
    const PROCESSES: usize = 8;
    let dir = Arc::new(Dir::new());
    let old = dir.token_with(&["--write", "--name", "ci"]);
    let start = Arc::new(Barrier::new(PROCESSES));
    let run = |_| {
        let (dir, start, id) = (Arc::clone(&dir), Arc::clone(&start), old.id.clone());
        thread::spawn(move || {
            start.wait();
            dir.cli(&["token", "rotate", &id])
        })
    };
    let running: Vec<_> = (0..PROCESSES).map(run).collect();
    let outcomes: Vec<Outcome> = running.into_iter().map(|run| run.join().unwrap()).collect();
    let (won, lost): (Vec<_>, Vec<_>) =
        outcomes.iter().partition(|outcome| outcome.code == Some(0));
    assert_eq!(won.len(), 1, "{outcomes:?}");
    let new = token_of(won[0]);
    let text = format!(
        "error: token 'ci' ({}) was replaced by token {} already\ntry: cachesrv token revoke {}\n",
        old.id, new.id, old.id
    );
    for outcome in lost {
        outcome.failed(1, &text);
    }
    assert_eq!(list(&dir).len(), 2);
    assert_eq!(listed(&dir, &old.id)["replaced_by"], new.id);
}

#[test]
fn impossible_times_change_nothing() {
    let dir = Dir::new();
    dir.token_with(&["--write", "--name", "ci"]);
    let before = list(&dir);
    let far = "is too far in the future:";
    for (option, time, text) in [
        (
            "--overlap",
            "99999999d",
            format!("--overlap {far} use a time like '7d'"),
        ),
        (
            "--overlap",
            "200000000000d",
            format!("--overlap {far} use a time like '7d'"),
        ),
        (
            "--expires",
            "99999999d",
            format!("--expires {far} leave it out for never"),
        ),
        (
            "--expires",
            "0s",
            "--expires 0 would make a token that is dead".to_owned(),
        ),
    ] {
        dir.cli(&["token", "rotate", "ci", option, time])
            .failed(2, &format!("error: {text}\n"));
    }
    for option in ["--overlap", "--expires"] {
        for time in [
            "-1d",
            "soon",
            "1",
            "1y",
            "1.5h",
            "99999999999999999999d",
            "",
            "0",
        ] {
            let outcome = dir.cli(&["token", "rotate", "ci", &format!("{option}={time}")]);
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
    }
    assert_eq!(list(&dir), before);
}
