//! `cachesrv verify`: each kind of damage is found and has a remedy, a sound database is sound under load, and
//! nothing is changed.

mod support;

use std::fs;

use serde_json::Value;
use support::{Dir, Load, Server, Token, eventually, noise};

/// A stopped database with entries of both kinds of scopes, large and small.
fn with_entries() -> (Dir, Token) {
    let dir = Dir::new();
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
    (dir, token)
}

const SOUND: &str = "ok: 5 entries, 1.2 MiB\n";

/// What `verify --json` finds: kinds and messages.
fn findings(dir: &Dir, options: &[&str]) -> Vec<(String, String)> {
    let said = dir.cli(&[&["verify", "--json"], options].concat());
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let list = report["findings"].as_array().expect("findings");
    assert_eq!(said.code, Some(i32::from(!list.is_empty())), "{said:?}");
    assert_eq!(report["ok"], list.is_empty());
    let text = |found: &Value, key: &str| found[key].as_str().expect("text").to_owned();
    for found in list {
        assert!(text(found, "remedy").starts_with("cachesrv "), "{found}");
    }
    list.iter()
        .map(|found| (text(found, "kind"), text(found, "message")))
        .collect()
}

#[test]
fn each_kind_of_damage_is_found() {
    let (dir, _) = with_entries();
    assert_eq!(dir.cli(&["verify"]).done(), SOUND);
    assert_eq!(dir.files(), ["cachesrv.db"]);
    let sound = fs::read(dir.db()).expect("a file");
    let of = |hash: &str| format!("(SELECT id << 20 FROM artifacts WHERE hash = '{hash}')");
    let flip = format!(
        "UPDATE chunks SET data = CAST(replace(hex(data), substr(hex(data), 1, 2), '00') AS BLOB) WHERE id = {}",
        of("2")
    );
    for (damage, kind, message, is_quick) in [
        (flip, "artifact", "artifact 2 in trusted of workspace 'default': chunk 0 is damaged or missing", false),
        (format!("DELETE FROM chunks WHERE id = {} + 2", of("1")), "artifact", "artifact 1 in trusted of workspace 'default': chunk 2 is damaged or missing", false),
        (format!("DELETE FROM chunks WHERE id >> 20 = {} >> 20", of("5")), "artifact", "artifact 5 in isolated 'pr-7' of workspace 'default': chunk 0 is damaged or missing", false),
        (format!("INSERT INTO chunks SELECT {}, 0, x'00'", of("3")), "artifact", "artifact 3 in trusted of workspace 'default': there are chunks behind its end", false),
        ("DROP TRIGGER stored_entries_never_change; UPDATE artifacts SET digest = zeroblob(32) WHERE hash = '4'".to_owned(), "artifact", "artifact 4 in trusted of workspace 'default': its bytes do not have its digest", false),
        ("INSERT INTO chunks VALUES (77 << 20, 0, x'00')".to_owned(), "orphan", "there are chunks of artifact number 77, which is not there", false),
        ("UPDATE trusted_usage SET entries = entries + 1".to_owned(), "counter", "a counter is wrong: trusted_usage says 5 entries, 1205000 bytes of scope 1, which holds 4 entries, 1205000 bytes", true),
        ("UPDATE isolated_totals SET size_bytes = 7".to_owned(), "counter", "a counter is wrong: isolated_totals says 1 scopes, 1 entries, 7 bytes of workspace 1, which holds 1 scopes, 1 entries, 1000 bytes", true),
        ("DELETE FROM isolated_usage".to_owned(), "counter", "a counter is wrong: isolated_usage says nothing of scope 2, which holds 1 entries, 1000 bytes", true),
        ("DROP TRIGGER tokens_stay_revoked".to_owned(), "schema", "the schema has no trigger tokens_stay_revoked", true),
        ("DROP INDEX artifacts_by_key".to_owned(), "schema", "the schema has no index artifacts_by_key", true),
        ("DROP INDEX artifacts_by_key; CREATE INDEX artifacts_by_key ON artifacts (hash)".to_owned(), "schema", "the schema has another index artifacts_by_key than this version makes", true),
        ("CREATE TRIGGER backdoor AFTER INSERT ON tokens BEGIN DELETE FROM tokens; END".to_owned(), "schema", "the schema has a trigger backdoor, which is none of ours", true),
        ("PRAGMA foreign_keys = OFF; DELETE FROM workspaces".to_owned(), "reference", "a row of scopes refers to one of workspaces that is not there", true),
    ] {
        let connection = dir.sqlite();
        connection.execute_batch(&damage).unwrap_or_else(|error| panic!("{damage}: {error}"));
        drop(connection);
        let wanted = (kind.to_owned(), message.to_owned());
        let found = findings(&dir, &[]);
        assert!(found.contains(&wanted), "{damage}: {found:?}");
        assert_eq!(findings(&dir, &["--quick"]).contains(&wanted), is_quick, "{damage}");
        fs::write(dir.db(), &sound).expect("a file");
    }
    assert_eq!(dir.cli(&["verify"]).done(), SOUND);
}

#[test]
fn every_page_that_is_overwritten_is_found() {
    let (dir, _) = with_entries();
    let sound = fs::read(dir.db()).expect("a file");
    let pages = sound.len() / 16_384;
    let mut missed = Vec::new();
    // The first one says whose the file is, the second is the pointer map.
    for page in 1..pages {
        let mut bytes = sound.clone();
        bytes[page * 16_384..(page + 1) * 16_384].fill(0xa5);
        fs::write(dir.db(), &bytes).expect("a file");
        if findings(&dir, &[]).is_empty() {
            missed.push(page);
        }
    }
    assert_eq!(missed, Vec::<usize>::new(), "of {pages}");
    fs::write(dir.db(), &sound).expect("a file");
}

#[test]
fn findings_are_listed_each_with_a_command_that_works() {
    let (dir, token) = with_entries();
    let connection = dir.sqlite();
    let damage = "UPDATE chunks SET checksum = 0 WHERE id = (SELECT id << 20 FROM artifacts WHERE hash = '2');
                  UPDATE trusted_usage SET entries = 9";
    connection.execute_batch(damage).expect("damage");
    drop(connection);
    let said = dir.cli(&["verify"]);
    assert_eq!(said.code, Some(1));
    let mend = "cachesrv backup mended.db; cachesrv restore mended.db --force";
    assert_eq!(
        said.stdout,
        format!(
            "a counter is wrong: trusted_usage says 9 entries, 1205000 bytes of scope 1, which holds 4 entries, 1205000 bytes\n  \
             try: {mend}\n\
             artifact 2 in trusted of workspace 'default': chunk 0 is damaged or missing\n  \
             try: cachesrv artifact delete 2 --trusted\n"
        )
    );
    assert_eq!(
        said.stderr,
        "a backup takes over what is sound; stop the server before a restore\n\
         error: found 2 problems in 'cachesrv.db'\n"
    );
    // No command but `backup`, which leaves out what is damaged, opens one that is not as cachesrv makes it.
    let sound = fs::read(dir.db()).expect("a file");
    dir.sqlite()
        .execute_batch("DROP TRIGGER tokens_stay_revoked")
        .expect("damage");
    let said = dir.cli(&["verify"]);
    let begins = "the schema has no trigger tokens_stay_revoked\na counter is wrong";
    assert!(said.stdout.starts_with(begins), "{said:?}");
    let ends = format!("chunk 0 is damaged or missing\n  try: {mend}\n");
    assert!(said.stdout.ends_with(&ends), "{said:?}");
    fs::write(dir.db(), sound).expect("a file");
    dir.cli(&["artifact", "delete", "2", "--trusted"]).done();
    dir.cli(&["backup", "mended.db"]).done();
    dir.cli(&["restore", "mended.db", "--force"]).done();
    assert_eq!(dir.cli(&["verify"]).done(), "ok: 4 entries, 1.1 MiB\n");
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).get("4").body, noise(1, 300_000));
}

#[test]
fn a_database_at_work_is_sound_and_what_goes_meanwhile_is_no_finding() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let load = Load::start(&server, &token, 2);
    let before = eventually("some artifacts", || {
        let stored = load.acknowledged().len();
        (stored > 40).then_some(stored)
    });
    let mut finished = 0;
    for round in 0..6 {
        dir.cli(&["purge", "--hash", &format!("{}", round * 3)])
            .done();
        let said = dir.cli(&["verify", "--json"]);
        let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
        assert_eq!(report["findings"], serde_json::json!([]), "{said:?}");
        // So much may be written meanwhile that SQLite's own check was given up.
        assert_eq!(
            said.code,
            Some(i32::from(report["finished"] == false)),
            "{said:?}"
        );
        finished += u32::from(report["finished"] == true);
    }
    // Each upload was acknowledged: a client of this load takes nothing else.
    let meanwhile = load.stop().len() - before;
    assert!(
        finished > 0 && meanwhile > 0,
        "{finished} of 6 finished, {meanwhile} stored meanwhile"
    );
    dir.cli(&["verify"]).done();
}

#[test]
fn a_backup_is_verified_without_a_change_and_what_is_none_is_left_alone() {
    let (dir, _) = with_entries();
    dir.cli(&["backup", "copy.db"]).done();
    let before = fs::read(dir.join("copy.db")).expect("a file");
    dir.cli(&["verify", "--db", "copy.db"]).done();
    assert!(fs::read(dir.join("copy.db")).expect("a file") == before);
    assert_eq!(dir.files(), ["cachesrv.db", "copy.db"]);
    for (name, error) in [
        ("missing.db", "error: there is no database 'missing.db'\n"),
        (
            "empty.db",
            "error: 'empty.db' is empty: a server makes a database of it when it starts\n",
        ),
        (
            "text.db",
            "error: 'text.db' is not a cachesrv database; it was left untouched\n",
        ),
    ] {
        if name != "missing.db" {
            let text: &[u8] = if name == "text.db" { b"text" } else { b"" };
            fs::write(dir.join(name), text).expect("a file");
            let chmod = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(dir.join(name), chmod).expect("a mode");
        }
        dir.cli(&["verify", "--db", name]).failed(1, error);
    }
}
