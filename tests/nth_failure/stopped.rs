//! A stopped database on which commands run whose operations can fail, and what must be true of it afterwards.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::OptionalExtension;

use crate::support::dir::{BINARY, Outcome, run, sqlite};
use crate::support::entries::{self, Entries, counters_are_facts};
use crate::support::fault::{READ_EIO, Series, Trap, UNLINK_EIO, threads};
use crate::support::preload::Control;
use crate::support::{Dir, Server, TRUSTED, noise};

/// A stopped database with entries of all sizes, a copy of it, and the library for what comes.
pub struct Stopped {
    pub dir: Dir,
    pub control: Control,
    original: Vec<u8>,
    pub entries: Entries,
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

    /// The same with no database at all.
    pub fn empty() -> Self {
        let dir = Dir::in_memory();
        dir.evidence().exempt_mode("control");
        Self {
            control: Control::new(dir.join("control")),
            dir,
            original: Vec::new(),
            entries: Entries::new(),
        }
    }

    /// The same with the schema of an older version.
    pub fn old(version: u32) -> Self {
        let mut stopped = Self::new();
        let path = stopped.dir.join("old.db");
        fs::write(&path, "").expect("a file");
        make_old(&path, version, &stopped.dir.db());
        stopped.original = fs::read(&path).expect("the database");
        stopped
            .entries
            .retain(|key, _| version > 1 || key.scope == TRUSTED);
        stopped.reset();
        stopped
    }

    /// Puts everything as it was at first.
    pub fn reset(&self) {
        for name in self.dir.files() {
            if name != "control" {
                fs::remove_file(self.dir.join(name)).expect("a file removed");
            }
        }
        if !self.original.is_empty() {
            write(&self.dir.db(), &self.original);
        }
    }

    /// Another file like the database at first.
    pub fn copy(&self, name: &str) {
        write(&self.dir.join(name), &self.original);
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
                let mut said = outcome.stderr.as_str();
                if args == ["verify"]
                    && trap.fault.name == READ_EIO.name
                    && said.starts_with("a backup ")
                {
                    // What cannot be read it takes for damage, and lists.
                    said = said
                        .trim_start_matches(|letter| letter != '\n')
                        .trim_start();
                }
                let sentence = said.lines().next().unwrap_or_default();
                let rest: Vec<&str> = said.lines().skip(1).collect();
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

    pub fn series(&self, operation: &'static str, usual: u64) -> Series<'_> {
        Series {
            control: &self.control,
            operation,
            threads: threads::ALL,
            usual,
        }
    }
}

/// A private file.
fn write(path: &Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).expect("a new file");
    file.write_all(bytes).expect("a file written");
}

/// A database of an older version with the rows of `new`.
fn make_old(path: &Path, version: u32, new: &Path) {
    let old = sqlite(path);
    let mut sql =
        "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA foreign_keys = OFF;"
            .to_owned();
    for migration in &MIGRATIONS[..version as usize] {
        sql.push_str(migration);
    }
    sql.push_str(
        "PRAGMA application_id = 0x63737276; PRAGMA journal_mode = WAL; PRAGMA user_version = ",
    );
    sql.push_str(&version.to_string());
    old.execute_batch(&sql).expect("an older schema");
    let attached = old.execute("ATTACH ?1 AS new", [new.to_str()]);
    attached.expect("the newer database");
    for table in ["scopes", "tokens", "artifacts", "chunks"] {
        let names = "SELECT group_concat(name) FROM pragma_table_info(?1)";
        let columns: String = old
            .query_row(names, [table], |row| row.get(0))
            .expect("columns");
        // Isolated scopes came with version 2.
        let some = match (table, version) {
            ("scopes", 1) => "WHERE kind = 'trusted'",
            ("artifacts", 1) => "WHERE scope_id = 1",
            ("chunks", 1) => "WHERE id >> 20 IN (SELECT id FROM new.artifacts WHERE scope_id = 1)",
            _ => "",
        };
        let copy = format!(
            "INSERT OR IGNORE INTO main.{table} ({columns}) SELECT {columns} FROM new.{table} {some}"
        );
        old.execute(&copy, []).expect("rows copied");
    }
}

/// How older versions made their databases.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_isolation.sql"),
];
