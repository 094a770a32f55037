//! Commands: they succeed, or fail with one sentence and change nothing that was there.

use crate::stopped::Stopped;
use crate::support::dir::{Outcome, sqlite};
use crate::support::entries::{self, Entries, counters_are_facts};
use crate::support::fault::{Trap, usual};
use crate::support::{Random, Server};

/// Places of each fault in CI: each takes a process or two.
const USUAL: u64 = 1;

#[test]
fn a_token_is_made_or_not() {
    let stopped = Stopped::new();
    let series = stopped.series("token create", USUAL);
    series.run(&mut Random::seeded(), &usual(), |trap| {
        stopped.reset();
        let tokens = || stopped.dir.number("SELECT count(*) FROM tokens");
        let before = tokens();
        let outcome = stopped.runs_in(trap, &["token", "create", "--write"]);
        let place = format!("{} {outcome:?}", trap.place());
        stopped.is_whole(&place);
        // One that was not shown may be there where the last sync failed, and nobody can use it.
        let made = outcome.code == Some(0);
        assert_eq!(outcome.stdout.starts_with("csrv_"), made, "{place}");
        assert!(!made || tokens() == before + 1, "{place}");
    });
}

#[test]
fn a_database_is_made_or_not() {
    let stopped = Stopped::empty();
    let series = stopped.series("token create, new file", USUAL);
    series.run(&mut Random::seeded(), &usual(), |trap| {
        makes_a_token(&stopped, trap);
    });
}

/// What is there afterwards is a database, or what the next command makes one of.
fn makes_a_token(stopped: &Stopped, trap: &Trap) {
    stopped.reset();
    let outcome = stopped.runs_in(trap, &["token", "create", "--write"]);
    if outcome.code == Some(1) {
        stopped.dir.cli(&["token", "create", "--read"]).done();
    }
    stopped.is_whole(&format!("{} {outcome:?}", trap.place()));
}

#[test]
fn an_older_file_is_brought_forward_or_stays_what_it_is() {
    for (version, operation) in [(1, "migration from 1"), (2, "migration from 2")] {
        let stopped = Stopped::old(version);
        let series = stopped.series(operation, USUAL);
        series.run(&mut Random::seeded(), &usual(), |trap| {
            makes_a_token(&stopped, trap);
        });
        assert_eq!(stopped.dir.number("PRAGMA user_version"), 3);
        stopped.dir.cli(&["verify"]).done();
    }
}

#[test]
fn a_backup_is_whole_or_not_there() {
    let stopped = Stopped::new();
    let series = stopped.series("backup", USUAL);
    series.run(&mut Random::seeded(), &usual(), |trap| {
        stopped.reset();
        let outcome = stopped.runs_in(trap, &["backup", "copy.db"]);
        let place = format!("{} {outcome:?}", trap.place());
        stopped.is_whole(&place);
        is_backup(&stopped, &outcome, &place);
        if outcome.code == Some(1) {
            let again = stopped.dir.cli(&["backup", "copy.db", "--force"]);
            again.done();
            stopped.holds(&["copy.db"], trap);
        }
    });
}

/// A backup that is said to be made is one, and no other has its name.
fn is_backup(stopped: &Stopped, outcome: &Outcome, place: &str) {
    let copy = stopped.dir.join("copy.db");
    let is_there = outcome.code == Some(0) || outcome.stderr.contains("is in its place, but");
    assert_eq!(copy.exists(), is_there, "{place}");
    if copy.exists() {
        let copy = sqlite(&copy);
        assert!(entries::all(&copy) == stopped.entries, "{place}");
        counters_are_facts(&copy);
    }
}

#[test]
fn a_backup_takes_the_place_of_the_database_or_nothing_is_changed() {
    let stopped = Stopped::new();
    let series = stopped.series("restore", USUAL);
    series.run(&mut Random::seeded(), &usual(), |trap| {
        stopped.reset();
        stopped.copy("copy.db");
        let gone = stopped.dir.cli(&["purge", "--hash", "1"]);
        gone.done();
        let before = entries::all(&stopped.dir.sqlite());
        let outcome = stopped.runs_in(trap, &["restore", "copy.db", "--force"]);
        let place = format!("{} {outcome:?}", trap.place());
        let is_done = outcome.code == Some(0) || outcome.stderr.contains("is in its place, but");
        let expected = if is_done { &stopped.entries } else { &before };
        holds(&stopped, expected, &place);
        if !is_done {
            let again = stopped.dir.cli(&["restore", "copy.db", "--force"]);
            again.done();
        }
        stopped.is_whole(&place);
        stopped.holds(&["copy.db"], trap);
    });
}

#[track_caller]
fn holds(stopped: &Stopped, expected: &Entries, place: &str) {
    let connection = stopped.dir.sqlite();
    assert!(&entries::all(&connection) == expected, "{place}");
    counters_are_facts(&connection);
}

#[test]
fn what_is_purged_is_gone_or_all_of_it_is_there() {
    for (operation, args) in [
        ("purge", &["purge", "--since", "1h"][..]),
        (
            "gc",
            &[
                "gc",
                "--set",
                "eviction.max_size=1MiB",
                "--set",
                "eviction.isolated_share=90",
            ],
        ),
    ] {
        let stopped = Stopped::new();
        let series = stopped.series(operation, USUAL);
        series.run(&mut Random::seeded(), &usual(), |trap| {
            stopped.reset();
            let outcome = stopped.runs_in(trap, args);
            let place = format!("{} {outcome:?}", trap.place());
            let left = entries::all(&stopped.dir.sqlite());
            let is_part = left
                .iter()
                .all(|(key, entry)| stopped.entries.get(key) == Some(entry));
            assert!(is_part, "{place}");
            holds(&stopped, &left, &place);
            stopped.dir.cli(args).done();
            let left = entries::all(&stopped.dir.sqlite());
            assert!(left.len() < stopped.entries.len(), "{place}");
        });
        stopped.dir.cli(&["verify"]).done();
    }
}

#[test]
fn verify_finds_nothing_where_nothing_is_wrong() {
    let stopped = Stopped::new();
    let series = stopped.series("verify", USUAL);
    series.run(&mut Random::seeded(), &usual(), |trap| {
        let outcome = stopped.runs_in(trap, &["verify"]);
        stopped.is_whole(&format!("{} {outcome:?}", trap.place()));
    });
}

#[test]
fn commands_beside_a_server_fail_alone() {
    let stopped = Stopped::new();
    let token = stopped.dir.token("write");
    let server = Server::start(&stopped.dir);
    for (operation, args) in [
        (
            "backup beside a server",
            &["backup", "copy.db", "--force"][..],
        ),
        (
            "token create beside a server",
            &["token", "create", "--write"],
        ),
    ] {
        let series = stopped.series(operation, 1);
        series.run(&mut Random::seeded(), &usual(), |trap| {
            let mut client = server.client(&token);
            let hash = format!("{operation}-{}", trap.nth).replace(' ', "-");
            client.put(&hash, b"before");
            let outcome = stopped.runs_in(trap, args);
            let place = format!("{} {outcome:?}", trap.place());
            assert_eq!(client.get(&hash).body, b"before", "{place}");
            assert_eq!(client.put(&hash, b"after").status, 409, "{place}");
        });
    }
    assert_eq!(server.stop().code(), Some(0));
    stopped.dir.cli(&["verify"]).done();
}
