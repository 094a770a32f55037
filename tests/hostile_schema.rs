//! A database whose schema somebody else made, or changed: every way to open it refuses with a sentence that names
//! what differs and a remedy, and not one of its triggers, views or expressions runs. What no schema can do
//! (statistics that lie) is served right.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rusqlite::Connection;
use support::pages::{PAGE, Pages, What};
use support::{Dir, Outcome, PATIENCE, Random, Server, Token, noise, rounds};

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// A stopped database with entries of both kinds.
struct Victim {
    dir: Dir,
    write: Token,
    read: Token,
    isolated: Token,
    sound: Vec<u8>,
}

impl Victim {
    fn new() -> Self {
        let dir = Dir::new();
        let write = dir.token("write");
        let read = dir.token("read");
        let isolated = dir.token_with(&["--isolated"]);
        let server = Server::start(&dir);
        let mut client = server.client(&write);
        for (hash, size) in [("1", 900_000), ("2", 5_000), ("3", 0)] {
            assert_eq!(client.put(hash, &noise(1, size)).status, 200);
        }
        let mut client = server.client(&isolated).at("/s/pr-7");
        assert_eq!(client.put("poison", &noise(5, 1_000)).status, 200);
        assert_eq!(server.stop().code(), Some(0));
        let sound = fs::read(dir.db()).expect("a file");
        Self {
            dir,
            write,
            read,
            isolated,
            sound,
        }
    }

    /// Changes the file by SQL, with all that SQLite forbids by default allowed.
    fn change(&self, sql: &str) {
        let connection = self.dir.sqlite();
        free(&connection);
        connection
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn mend(&self) {
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.dir.join(format!("cachesrv.db{end}")));
        }
        fs::write(self.dir.db(), &self.sound).expect("a file");
        private(&self.dir, "cachesrv.db");
    }

    /// What trusted clients and others are served.
    #[track_caller]
    fn is_served_right(&self) {
        let server = Server::start(&self.dir);
        for token in [&self.write, &self.read] {
            let mut client = server.client(token);
            assert_eq!(client.get("1").body, noise(1, 900_000));
            assert_eq!(client.get("2").body, noise(1, 5_000));
            assert_eq!(client.get("3").status, 200);
            assert_eq!(client.get("poison").status, 404);
        }
        let mut client = server.client(&self.isolated).at("/s/pr-7");
        assert_eq!(client.get("poison").body, noise(5, 1_000));
        assert_eq!(server.client(&self.read).put("new", b"x").status, 403);
        assert_eq!(server.client(&self.write).put("new", b"x").status, 200);
        assert_eq!(server.stop().code(), Some(0));
    }
}

/// A connection without the guards of a careful program.
fn free(connection: &Connection) {
    use rusqlite::config::DbConfig;
    for (flag, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, true),
    ] {
        connection.set_db_config(flag, on).expect("a flag");
    }
    connection
        .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA writable_schema = ON")
        .expect("a pragma");
}

fn private(dir: &Dir, name: &str) {
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(dir.join(name), mode).expect("a mode");
}

/// One sentence and a remedy, no panic, in good time.
#[track_caller]
fn refused(outcome: &Outcome, sentence: &str) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let [said, hint] = lines[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!(said, sentence, "{outcome:?}");
    assert!(hint.starts_with("try: cachesrv "), "{outcome:?}");
}

/// Every command that reads or writes what is stored.
const ALL: [&[&str]; 10] = [
    &SERVE,
    &["token", "create", "--write"],
    &["token", "list"],
    &["token", "revoke", "x"],
    &["workspace", "list"],
    &["artifact", "list"],
    &["artifact", "show", "2"],
    &["purge", "--hash", "2", "--dry-run"],
    &["gc"],
    &["stats"],
];

/// What a hostile schema is, and how it is called.
const TRIGGERS: [(&str, &str); 8] = [
    (
        "trigger evil",
        "CREATE TRIGGER evil AFTER INSERT ON artifacts BEGIN DELETE FROM artifacts WHERE id < NEW.id; END",
    ),
    (
        "trigger evil",
        "CREATE TRIGGER evil AFTER UPDATE ON tokens BEGIN UPDATE artifacts SET scope_id = 1, is_isolated = 0; END",
    ),
    (
        "trigger evil",
        "CREATE TRIGGER evil AFTER INSERT ON backups BEGIN INSERT INTO tokens (public_id, workspace_id, access,
            secret_phc, secret_tag, created_at_ms) VALUES ('AAAAAAAAAAAA', 1, 'write', 'x', x'00000000', 0); END",
    ),
    (
        "trigger evil",
        "CREATE TRIGGER evil BEFORE INSERT ON artifacts BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    ),
    (
        "trigger evil",
        "CREATE TRIGGER evil AFTER INSERT ON usage_by_day BEGIN
            INSERT INTO usage_by_day (day, workspace_id, access) VALUES (NEW.day + 1, 1, 'read'); END",
    ),
    (
        "trigger evil",
        "CREATE TRIGGER evil AFTER INSERT ON artifacts BEGIN SELECT load_extension('/tmp/evil.so'); END",
    ),
    (
        "trigger evil",
        "CREATE TRIGGER evil AFTER INSERT ON artifacts BEGIN
            SELECT writefile('/tmp/cachesrv-evil', 'x'), fts3_tokenizer('simple'), edit('x'); END",
    ),
    // Only by way of the schema's table can a trigger have a name of SQLite's own.
    (
        "trigger sqlite_evil",
        "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('trigger', 'sqlite_evil', 'artifacts', 0,
            'CREATE TRIGGER sqlite_evil AFTER INSERT ON artifacts BEGIN DELETE FROM tokens; END')",
    ),
];

#[test]
fn a_trigger_of_others_is_refused_by_every_command_and_a_backup_leaves_it_out() {
    let victim = Victim::new();
    let dir = &victim.dir;
    for (name, sql) in TRIGGERS {
        victim.change(sql);
        let before = fs::read(dir.db()).expect("a file");
        let sentence = format!(
            "error: the database 'cachesrv.db' is not as cachesrv makes it: it has a {name}, which is none of ours"
        );
        for command in ALL {
            let outcome = dir.cli(command);
            refused(&outcome, &sentence);
            let mend = "try: cachesrv backup mended.db; cachesrv restore mended.db --force\n";
            assert!(outcome.stderr.ends_with(mend), "{outcome:?}");
        }
        let said = dir.cli(&["verify", "--quick"]);
        let named = format!("the schema has a {name}, which is none of ours\n");
        assert!(
            said.code == Some(1) && said.stdout.contains(&named),
            "{said:?}"
        );
        let said = dir.cli(&["doctor"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(
            said.stdout.contains("is not as cachesrv makes it"),
            "{said:?}"
        );
        // As a backup it is refused, too.
        fs::copy(dir.db(), dir.join("copy.db")).expect("a copy");
        let said = dir.cli(&["restore", "copy.db", "--force"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stdout.contains(&named), "{said:?}");
        assert!(
            fs::read(dir.db()).expect("a file") == before,
            "{sql}: the file was changed"
        );
        // The remedy works, and nothing of the trigger has.
        let said = dir.cli(&["backup", "mended.db"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stderr.contains("does not remember it"), "{said:?}");
        assert!(
            fs::read(dir.db()).expect("a file") == before,
            "{sql}: the file was changed"
        );
        dir.cli(&["restore", "mended.db", "--force"]).done();
        dir.cli(&["verify"]).done();
        victim.is_served_right();
        victim.mend();
        for name in ["mended.db", "copy.db"] {
            fs::remove_file(dir.join(name)).expect("a file");
        }
    }
}

/// What is another where one of ours should be: nothing can be read from it. A `%` stands for what is replaced in
/// the text of the schema.
fn changes() -> Vec<(&'static str, String)> {
    let rewrite = |name: &str, from: &str, to: &str| {
        let (from, to) = (from.replace('\'', "''"), to.replace('\'', "''"));
        format!(
            "UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}') WHERE name = '{name}'"
        )
    };
    let bomb = "WITH RECURSIVE bomb (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM bomb)";
    let view = |name: &str, select: &str| {
        format!(
            "PRAGMA legacy_alter_table = ON; ALTER TABLE {name} RENAME TO real_{name};
             CREATE VIEW {name} AS {select}"
        )
    };
    vec![
        // The second lock is taken off: always true, or for another column.
        (
            "another trigger stored_entries_come_from_tokens_that_may_write_there_insert",
            rewrite("stored_entries_come_from_tokens_that_may_write_there_insert", "NEW.state = 'stored' AND", "0 AND"),
        ),
        (
            "another trigger stored_entries_never_change",
            rewrite("stored_entries_never_change", "scope_id, is_isolated, ", ""),
        ),
        ("no trigger tokens_never_change_what_they_may", "DROP TRIGGER tokens_never_change_what_they_may".to_owned()),
        // Tables that are views.
        (
            "no table artifacts",
            view("artifacts", "SELECT id, 1 AS scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                writer_token_id, writer_address, condemned_at_ms, condemned_reason, 0 AS is_isolated FROM real_artifacts"),
        ),
        ("no table tokens", view("tokens", &format!("{bomb} SELECT n AS id, 'a' AS public_id FROM bomb"))),
        ("no table scopes", view("scopes", "SELECT id, workspace_id, 'trusted' AS kind, NULL AS name, 0 AS created_at_ms FROM real_scopes")),
        ("no table workspaces", view("workspaces", &format!("{bomb} SELECT n AS id, hex(zeroblob(1000000)) AS name, 0 AS created_at_ms FROM bomb"))),
        ("no table trusted_usage", view("trusted_usage", &format!("{bomb} SELECT n AS scope_id, 1 AS workspace_id, 1 AS entries, 1 AS size_bytes FROM bomb"))),
        // Columns that compute, check or default to something.
        ("another table artifacts", "ALTER TABLE artifacts ADD COLUMN heavy TEXT AS (hex(zeroblob(100000000)))".to_owned()),
        ("another table tokens", "ALTER TABLE tokens ADD COLUMN extra INTEGER DEFAULT 7".to_owned()),
        ("another table chunks", rewrite("chunks", "data     BLOB NOT NULL", "data     BLOB NOT NULL CHECK (length(hex(zeroblob(100000000))) > 0)")),
        ("another table scopes", rewrite("scopes", "name          TEXT ", "name          TEXT COLLATE NOCASE ")),
        ("another table scopes", rewrite("scopes", "CHECK (kind IN ('trusted', 'isolated'))", "")),
        ("another table tokens", rewrite("tokens", "access          TEXT", "access          BLOB")),
        ("another table artifacts", rewrite("artifacts", "writer_address   TEXT", "writer_adresse   TEXT")),
        ("another table chunks", rewrite("chunks", ") STRICT", ")")),
        // Indexes that are not there, are others, or are too many.
        ("no index artifacts_by_key", "DROP INDEX artifacts_by_key".to_owned()),
        ("another index artifacts_by_key", "DROP INDEX artifacts_by_key; CREATE UNIQUE INDEX artifacts_by_key ON artifacts (hash, scope_id) WHERE state = 'stored'".to_owned()),
        ("another index artifacts_by_key", rewrite("artifacts_by_key", "(scope_id, hash)", "(scope_id, hash COLLATE NOCASE)")),
        ("another index artifacts_by_read", rewrite("artifacts_by_read", "WHERE state", "WHERE hash")),
        ("a index evil, which is none of ours", "CREATE INDEX evil ON backups (zeroblob(size_bytes))".to_owned()),
        // Tables of other kinds.
        ("a table evil, which is none of ours", "CREATE VIRTUAL TABLE evil USING fts5(x)".to_owned()),
        ("another table backups", "DROP TABLE backups; CREATE VIRTUAL TABLE backups USING fts5(finished_at_ms, size_bytes, destination)".to_owned()),
        ("another table usage_by_day", "DROP TABLE usage_by_day; CREATE TABLE usage_by_day (day INTEGER NOT NULL,
            workspace_id INTEGER NOT NULL, access TEXT NOT NULL, PRIMARY KEY (day, workspace_id, access)) STRICT, WITHOUT ROWID".to_owned()),
        ("no table isolated_usage", "DROP TABLE isolated_usage".to_owned()),
        ("no table chunks", "ALTER TABLE chunks RENAME TO chunkz".to_owned()),
        ("a table sqlite_stat1, which is none of ours", "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
            SELECT 'table', 'sqlite_stat1', 'sqlite_stat1', rootpage, 'CREATE TABLE sqlite_stat1(tbl,idx,stat,evil)'
            FROM sqlite_schema WHERE name = 'backups'".to_owned()),
        // Two tables on the same pages.
        ("has table usage_by_day and table backups on the same pages", "UPDATE sqlite_schema SET rootpage =
            (SELECT rootpage FROM sqlite_schema WHERE name = 'backups') WHERE name = 'usage_by_day'".to_owned()),
        // What belongs to another table now.
        ("another trigger tokens_stay_revoked", "DROP TRIGGER tokens_stay_revoked; CREATE TRIGGER tokens_stay_revoked
            BEFORE INSERT ON backups BEGIN SELECT 1; END".to_owned()),
        ("a view evil, which is none of ours", format!("CREATE VIEW evil AS {bomb} SELECT * FROM bomb")),
    ]
}

#[test]
fn whatever_differs_from_the_migrations_is_named_and_nothing_is_read_from_it() {
    let victim = Victim::new();
    let dir = &victim.dir;
    for (what, sql) in changes() {
        victim.change(&sql);
        let before = fs::read(dir.db()).expect("a file");
        let began = Instant::now();
        for command in [&SERVE[..], &["token", "list"], &["stats"]] {
            let said = dir.cli(command);
            let lines: Vec<&str> = said.stderr.lines().collect();
            assert_eq!((said.code, lines.len()), (Some(1), 2), "{sql}: {said:?}");
            let opening = "error: the database 'cachesrv.db' is not as cachesrv makes it: it ";
            assert!(
                lines[0].starts_with(opening) && lines[0].contains("difference")
                    || lines[0].contains(what),
                "{sql}: {said:?}"
            );
            assert!(lines[1].starts_with("try: cachesrv "), "{sql}: {said:?}");
        }
        for command in [&["verify"][..], &["verify", "--quick"]] {
            let said = dir.cli(command);
            let what = what.trim_start_matches("has ");
            assert!(
                said.code == Some(1) && said.stdout.contains(what),
                "{sql}: {said:?}"
            );
        }
        let said = dir.cli(&["doctor"]);
        assert!(
            said.code == Some(1) && !said.stderr.contains("panicked"),
            "{sql}: {said:?}"
        );
        fs::copy(dir.db(), dir.join("copy.db")).expect("a copy");
        let said = dir.cli(&["restore", "copy.db", "--force"]);
        assert_eq!(said.code, Some(1), "{sql}: {said:?}");
        // Where a backup is made, it is one of ours.
        let said = dir.cli(&["backup", "mended.db", "--force"]);
        assert!(matches!(said.code, Some(0 | 1)), "{sql}: {said:?}");
        assert!(
            fs::read(dir.db()).expect("a file") == before,
            "{sql}: the file was changed"
        );
        if dir.join("mended.db").exists() {
            // It takes the place of such a one, too.
            dir.cli(&["restore", "mended.db", "--force"]).done();
            dir.cli(&["verify"]).done();
            victim.is_served_right();
            fs::remove_file(dir.join("mended.db")).expect("a file");
        } else {
            assert!(
                said.stderr.contains("is not as cachesrv makes it"),
                "{sql}: {said:?}"
            );
        }
        assert!(began.elapsed() < PATIENCE, "{sql}");
        victim.mend();
    }
}

/// The database that is replaced may be the hostile one: its tokens are not asked.
#[test]
fn a_hostile_database_can_be_replaced_by_a_backup() {
    let victim = Victim::new();
    let dir = &victim.dir;
    dir.cli(&["backup", "good.db"]).done();
    for (what, sql) in changes() {
        victim.change(&sql);
        let said = dir.cli(&["restore", "good.db", "--force"]);
        assert_eq!(said.code, Some(0), "{what}: {said:?}");
        dir.cli(&["verify"]).done();
        victim.mend();
    }
    dir.cli(&["restore", "good.db", "--force"]).done();
    victim.is_served_right();
}

/// What holds for a whole file.
#[test]
fn another_page_size_encoding_or_vacuum_mode_is_named_and_a_backup_mends_it() {
    let victim = Victim::new();
    let dir = &victim.dir;
    let vacuum = |pragma: &str| format!("PRAGMA journal_mode = DELETE; {pragma}; VACUUM");
    for (what, sql) in [
        (
            "has pages of 4096 bytes, not of 16384",
            vacuum("PRAGMA page_size = 4096"),
        ),
        (
            "has pages of 65536 bytes, not of 16384",
            vacuum("PRAGMA page_size = 65536"),
        ),
        (
            "cannot give free pages back (auto_vacuum is not INCREMENTAL)",
            vacuum("PRAGMA auto_vacuum = NONE"),
        ),
        (
            "moves pages at every commit (auto_vacuum is FULL, not INCREMENTAL)",
            vacuum("PRAGMA auto_vacuum = FULL"),
        ),
    ] {
        victim.change(&sql);
        let sentence =
            format!("error: the database 'cachesrv.db' is not as cachesrv makes it: it {what}");
        for command in ALL {
            refused(&dir.cli(command), &sentence);
        }
        let said = dir.cli(&["verify"]);
        assert!(
            said.stdout.contains(&format!("the file {what}\n")),
            "{said:?}"
        );
        dir.cli(&["backup", "mended.db"]).done();
        dir.cli(&["restore", "mended.db", "--force"]).done();
        victim.is_served_right();
        victim.mend();
        fs::remove_file(dir.join("mended.db")).expect("a file");
    }
    // In UTF-16 from its first page on.
    let other = Connection::open(dir.join("utf16.db")).expect("a database");
    other
        .execute_batch("PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA encoding = 'UTF-16le'")
        .expect("pragmas");
    let ours = dir.sqlite();
    let mut statement = ours
        .prepare(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'sqlite_sequence'",
        )
        .expect("a query");
    let objects = statement.query_map([], |row| row.get::<_, String>(0));
    for sql in objects.expect("objects") {
        other.execute_batch(&sql.expect("text")).expect("an object");
    }
    other
        .execute_batch("PRAGMA application_id = 0x63737276; PRAGMA user_version = 3")
        .expect("marks");
    drop(statement);
    drop((other, ours));
    private(dir, "utf16.db");
    let said = dir.cli(&["token", "list", "--db", "utf16.db"]);
    refused(
        &said,
        "error: the database 'utf16.db' is not as cachesrv makes it: it has texts in UTF-16le, not in UTF-8",
    );
    // Without a log of its own it is the same database.
    victim.change("PRAGMA journal_mode = DELETE");
    victim.is_served_right();
}

/// An administrator may run ANALYZE, and its numbers may say anything: they decide how long a query takes.
#[test]
fn statistics_are_allowed_and_change_no_answer_even_where_they_lie() {
    let victim = Victim::new();
    victim.change("ANALYZE");
    victim.is_served_right();
    victim.mend();
    let lies = "ANALYZE; DELETE FROM sqlite_stat1;
        INSERT INTO sqlite_stat1 VALUES ('artifacts', NULL, '1'), ('artifacts', 'artifacts_by_key', '1000000 1000000 1000000'),
            ('artifacts', 'artifacts_by_read', '1 1 1'), ('scopes', 'one_trusted_scope_in_each_workspace', '9 9'),
            ('scopes', 'sqlite_autoindex_scopes_1', '900000000 900000000 900000000'), ('tokens', NULL, 'unordered sz=1 noskipscan'),
            ('tokens', 'sqlite_autoindex_tokens_1', '99999999999999999999 x'), ('chunks', NULL, '-1'), (1, x'00', NULL)";
    victim.change(lies);
    victim.is_served_right();
    victim.dir.cli(&["verify"]).done();
    victim.dir.cli(&["token", "list"]).done();
}

/// Thousands of objects cost no more than to be counted.
#[test]
fn a_huge_schema_is_refused_in_good_time() {
    let victim = Victim::new();
    let dir = &victim.dir;
    let mut sql = "BEGIN;".to_owned();
    for number in 0..3_000 {
        let long = "x".repeat(500);
        let trigger = format!(
            "CREATE TRIGGER evil_{number} AFTER INSERT ON artifacts BEGIN SELECT '{long}'; END;"
        );
        sql.push_str(&trigger);
    }
    victim.change(&(sql + "COMMIT"));
    for command in [&SERVE[..], &["token", "list"]] {
        let said = dir.cli(command);
        let sentence = "it has a trigger evil_0, which is none of ours, and 99 differences more\n";
        assert!(
            said.code == Some(1) && said.stderr.contains(sentence),
            "{said:?}"
        );
    }
    let said = dir.cli(&["verify"]);
    assert!(
        said.code == Some(1) && said.stdout.contains("and more\n"),
        "{said:?}"
    );
}

/// Any character of any text of the schema: what still is a schema is named.
#[test]
fn a_flipped_bit_in_the_schema_is_refused() {
    let victim = Victim::new();
    let dir = &victim.dir;
    let mut random = Random::seeded();
    let pages = Pages::of(&victim.sound);
    let schema = pages
        .kinds
        .iter()
        .filter(|(_, kind)| kind.starts_with("schema "));
    // Kinds, names, tables and what makes them; the fourth column says on which page it begins.
    let texts: Vec<usize> = schema
        .flat_map(|(page, _)| pages.used[page].iter().map(move |part| (page, part)))
        .filter(|(_, part)| matches!(part.what, What::Column(0..=2 | 4)))
        .flat_map(|(page, part)| part.bytes.clone().map(move |at| (page - 1) * PAGE + at))
        .collect();
    assert!(texts.len() > 10_000, "{}", texts.len());
    for _ in 0..rounds(12) {
        let mut bytes = victim.sound.clone();
        let at = texts[random.below(texts.len() as u64) as usize];
        bytes[at] ^= 1 << random.below(8);
        fs::write(dir.db(), &bytes).expect("a file");
        let said = dir.cli(&["token", "list"]);
        assert_eq!(said.code, Some(1), "{at}: {said:?}");
        assert!(
            said.stderr
                .starts_with("error: the database 'cachesrv.db' is "),
            "{at}: {said:?}"
        );
        let said = dir.cli(&["verify", "--quick"]);
        assert_eq!(said.code, Some(1), "{at}: {said:?}");
        victim.mend();
    }
}
