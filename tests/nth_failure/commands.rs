//! Commands: they succeed, or fail with one sentence and change nothing that was there.

use std::fs;

use rusqlite::OptionalExtension;

use crate::support::dir::{BINARY, Outcome, run, sqlite};
use crate::support::entries::{self, Entries, counters_are_facts};
use crate::support::fault::{ALL, Series, Trap, UNLINK_EIO, threads};
use crate::support::preload::Control;
use crate::support::{Dir, Random, Server, noise};

/// A stopped database with entries of all sizes, a copy of it, and the library for what comes.
pub struct Stopped {
    pub dir: Dir,
    pub control: Control,
    original: Vec<u8>,
    entries: Entries,
}

impl Stopped {
    pub fn new() -> Self {
        let dir = Dir::in_memory();
        let token = dir.token("write");
        let isolated = dir.token_with(&["--isolated"]);
        let server = Server::start(&dir);
        let mut client = server.client(&token);
        for (hash, size) in [("1", 900_000), ("2", 5_000), ("3", 0), ("4", 300_000)] {
            assert_eq!(client.put(hash, &noise(1, size)).status, 200);
        }
        let mut client = server.client(&isolated).at("/s/pr-7");
        assert_eq!(client.put("5", &noise(5, 1_000)).status, 200);
        assert_eq!(server.stop().code(), Some(0));
        dir.evidence().exempt_mode("control");
        Self {
            control: Control::new(dir.join("control")),
            original: fs::read(dir.db()).expect("the database"),
            entries: entries::all(&dir.sqlite()),
            dir,
        }
    }

    /// Puts everything as it was at first.
    pub fn reset(&self) {
        for name in self.dir.files() {
            if name != "control" {
                fs::remove_file(self.dir.join(name)).expect("a file removed");
            }
        }
        let made = fs::write(self.dir.db(), &self.original);
        made.expect("the database");
        private(&self.dir);
    }

    /// Runs a command in a trap; it ends well, or with one sentence.
    pub fn runs_in(&self, trap: &Trap, args: &[&str]) -> Outcome {
        let mut command = self.dir.command(BINARY);
        self.control.load("fail", command.args(args));
        let outcome = trap.during(|| run(&mut command));
        let place = format!("{args:?}, {}: {outcome:?}", trap.place());
        match outcome.code {
            Some(0) => assert!(!outcome.stderr.contains("error: "), "{place}"),
            Some(1) => {
                assert!(!trap.is_harmless(), "{place}");
                let sentence = outcome.stderr.lines().next().unwrap_or_default();
                let rest: Vec<&str> = outcome.stderr.lines().skip(1).collect();
                let is_one = rest.iter().all(|line| line.starts_with("try: "));
                assert!(sentence.starts_with("error: ") && is_one, "{place}");
            }
            _ => panic!("{place}"),
        }
        assert!(!outcome.stderr.contains("panicked"), "{place}");
        outcome
    }

    /// The database is sound, and holds what it held.
    #[track_caller]
    pub fn is_whole(&self, place: &str) {
        let connection = self.dir.sqlite();
        for check in ["quick_check", "foreign_key_check"] {
            let found = connection.query_row(&format!("PRAGMA {check}"), [], |row| row.get(0));
            let found: Option<String> = found.optional().expect("a check");
            assert!(found.is_none_or(|found| found == "ok"), "{place}");
        }
        assert!(entries::all(&connection) == self.entries, "{place}");
        counters_are_facts(&connection);
    }

    /// What the directory holds beside the database once a command has ended well.
    #[track_caller]
    pub fn holds(&self, names: &[&str], trap: &Trap) {
        let mut files = self.dir.files();
        files.retain(|name| name != "control" && name != "cachesrv.db");
        // What cannot be removed stays.
        files.retain(|name| trap.fault.name != UNLINK_EIO.name || !name.contains(".tmp."));
        assert_eq!(files, names, "{}", trap.place());
    }

    fn series(&self, operation: &'static str, usual: u64) -> Series<'_> {
        Series {
            control: &self.control,
            operation,
            threads: threads::ALL,
            usual,
        }
    }
}

fn private(dir: &Dir) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(dir.db(), mode).expect("a mode");
}

const USUAL: u64 = 2;

#[test]
fn a_token_is_made_or_not() {
    let stopped = Stopped::new();
    let series = stopped.series("token create", USUAL);
    series.run(&mut Random::seeded(), &ALL, |trap| {
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
    let dir = Dir::in_memory();
    dir.evidence().exempt_mode("control");
    let stopped = Stopped {
        control: Control::new(dir.join("control")),
        dir,
        original: Vec::new(),
        entries: Entries::new(),
    };
    let series = stopped.series("token create, new file", USUAL);
    series.run(&mut Random::seeded(), &ALL, |trap| {
        for name in stopped.dir.files() {
            if name != "control" {
                fs::remove_file(stopped.dir.join(name)).expect("a file removed");
            }
        }
        let outcome = stopped.runs_in(trap, &["token", "create", "--write"]);
        let place = format!("{} {outcome:?}", trap.place());
        // What is there is nothing, or a database, or what the next command makes one of.
        if outcome.code == Some(1) {
            stopped.dir.cli(&["token", "create", "--read"]).done();
        }
        stopped.is_whole(&place);
    });
}

#[test]
fn a_backup_is_whole_or_not_there() {
    let stopped = Stopped::new();
    let series = stopped.series("backup", USUAL);
    series.run(&mut Random::seeded(), &ALL, |trap| {
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
