//! `cachesrv restore`: the steps of the README, what is refused, what becomes of tokens, and that an old log
//! never meets the new file.

mod support;

use std::fs;

use serde_json::Value;
use support::{Dir, Server, Token, eventually, load, noise};

/// A directory with two artifacts and a backup of them.
fn with_backup() -> (Dir, Token) {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "ci-main"]);
    let server = Server::start(&dir);
    for (hash, size) in OLD {
        let answer = server
            .client(&token)
            .put(&hash.to_string(), &noise(hash, size));
        assert_eq!(answer.status, 200);
    }
    dir.cli(&["backup", "backup.db"]).done();
    assert_eq!(server.stop().code(), Some(0));
    (dir, token)
}

const OLD: [(u64, usize); 2] = [(1, 700_000), (2, 20)];

#[test]
fn the_steps_of_the_readme_bring_everything_back() {
    let (dir, token) = with_backup();
    fs::remove_file(dir.db()).expect("the disk is lost");
    let said = dir.cli(&["restore", "backup.db"]).done();
    assert_eq!(
        said,
        format!(
            "restored 2 entries, 683.6 KiB from 'backup.db' to 'cachesrv.db'\n\
             1 token of the backup can be used; to revoke those that should not:\n  \
             cachesrv token revoke {}   # ci-main, write\n",
            token.id
        )
    );
    assert_eq!(dir.files(), ["backup.db", "cachesrv.db"]);
    let server = Server::start(&dir);
    load::serves(&server, &token, &OLD);
    assert_eq!(server.client(&token).put("3", b"new").status, 200);
}

#[test]
fn a_database_is_replaced_by_force_only_and_never_under_a_server() {
    let (dir, token) = with_backup();
    let exists = "error: 'cachesrv.db' exists; 'backup.db' would take its place\n\
                  try: cachesrv restore backup.db --force\n";
    dir.cli(&["restore", "backup.db"]).failed(1, exists);
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("3", b"new").status, 200);
    let serving = "error: a cachesrv server is running on 'cachesrv.db'\n\
                   try: stop the server, then cachesrv restore backup.db --force\n";
    dir.cli(&["restore", "backup.db", "--force"])
        .failed(1, serving);
    assert_eq!(server.client(&token).get("3").body, b"new");
    assert_eq!(server.stop().code(), Some(0));
    let before = fs::read(dir.db()).expect("a file");
    let said = dir.cli(&["restore", "backup.db", "--dry-run"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.stdout.starts_with("would restore 2 entries, "),
        "{said:?}"
    );
    assert_eq!(said.stderr, "'cachesrv.db' exists: --force replaces it\n");
    assert!(fs::read(dir.db()).expect("a file") == before);
    dir.cli(&["restore", "backup.db", "--force"]).done();
    let server = Server::start(&dir);
    load::serves(&server, &token, &OLD);
    assert_eq!(server.client(&token).get("3").status, 404);
}

#[test]
fn tokens_that_come_back_to_life_are_listed_with_the_command_that_revokes_them() {
    let dir = Dir::new();
    let [revoked, rotated, shortened, kept] = ["revoked", "rotated", "shortened", "kept"]
        .map(|name| dir.token_with(&["--write", "--name", name]));
    let dead = dir.token("read");
    dir.cli(&["token", "revoke", &dead.id]).done();
    dir.cli(&["backup", "backup.db"]).done();
    dir.cli(&["token", "revoke", "revoked"]).done();
    dir.cli(&["token", "rotate", "rotated"]).done();
    let end = "UPDATE tokens SET expires_at_ms = 1 WHERE name = 'shortened'";
    dir.sqlite().execute(end, []).expect("an end");
    let unknown = dir.token("read");
    let said = dir
        .cli(&["restore", "backup.db", "--force", "--json"])
        .done();
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let tokens = said["tokens"].as_array().expect("tokens");
    let listed: Vec<(&str, &str)> = tokens
        .iter()
        .map(|token| {
            (
                token["id"].as_str().expect("an id"),
                token["was"].as_str().expect("a word"),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [
            (revoked.id.as_str(), "revoked"),
            (rotated.id.as_str(), "replaced"),
            (shortened.id.as_str(), "ended")
        ]
    );
    let server = Server::start(&dir);
    for token in [&revoked, &rotated, &shortened, &kept] {
        assert_eq!(server.client(token).get("1").status, 404);
    }
    for token in [&dead, &unknown] {
        assert_eq!(server.client(token).get("1").status, 401);
    }
    // The commands work.
    for token in tokens {
        let words: Vec<&str> = token["revoke"]
            .as_str()
            .expect("a command")
            .split(' ')
            .skip(1)
            .collect();
        dir.cli(&words).done();
    }
    for token in [&revoked, &rotated, &shortened] {
        assert_eq!(server.client(token).get("1").status, 401);
    }
    assert_eq!(server.client(&kept).get("1").status, 404);
}

#[test]
fn an_old_log_never_meets_the_new_file() {
    let (dir, token) = with_backup();
    let server = Server::start(&dir);
    for hash in 10..40 {
        let bytes = noise(hash, 50_000);
        assert_eq!(
            server.client(&token).put(&hash.to_string(), &bytes).status,
            200
        );
    }
    server.kill();
    let log = fs::metadata(dir.join("cachesrv.db-wal"))
        .expect("a log")
        .len();
    assert!(log > 0);
    dir.cli(&["restore", "backup.db", "--force"]).done();
    assert_eq!(dir.files(), ["backup.db", "cachesrv.db"]);
    assert_eq!(dir.cli(&["verify"]).done(), "ok: 2 entries, 683.6 KiB\n");
    let server = Server::start(&dir);
    load::serves(&server, &token, &OLD);
    assert_eq!(server.client(&token).get("10").status, 404);
    server.kill();
    // A log without its database is one of the old database, too.
    fs::remove_file(dir.db()).expect("removed");
    fs::write(dir.join("cachesrv.db-wal"), b"old").expect("a log");
    dir.evidence().exempt_mode("cachesrv.db-wal");
    assert_eq!(dir.cli(&["restore", "backup.db"]).code, Some(1));
    dir.cli(&["restore", "backup.db", "--force"]).done();
    assert_eq!(dir.files(), ["backup.db", "cachesrv.db"]);
}

#[test]
fn a_log_that_cannot_be_folded_for_want_of_room_is_kept_with_its_database() {
    let (dir, token) = with_backup();
    let server = Server::start(&dir);
    for hash in 10..14 {
        let bytes = noise(hash, 2_000_000);
        let answer = server.client(&token).put(&hash.to_string(), &bytes);
        assert_eq!(answer.status, 200);
    }
    server.kill();
    // Room for the backup, and not for what is in the log.
    let line = "mount -t tmpfs -o size=20m none disk
        cp -p cachesrv.db cachesrv.db-wal disk
        head -c 30m /dev/zero >disk/filler 2>/dev/null || true
        truncate -s -1500k disk/filler
        \"$cachesrv\" restore backup.db --force --db disk/cachesrv.db && exit 9
        rm disk/filler
        \"$cachesrv\" verify --db disk/cachesrv.db
        ls disk";
    std::fs::create_dir(dir.join("disk")).expect("a directory");
    let said = support::dir::run(&mut support::disk::namespace(&dir, line));
    assert_eq!(said.code, Some(0), "{said:?}");
    let what = "error: nothing was changed: cannot write 'disk/cachesrv.db': no storage space\n";
    assert!(said.stderr.contains(what), "{said:?}");
    assert_eq!(said.stdout, "ok: 6 entries, 8.3 MiB\ncachesrv.db\n");
}

#[test]
fn a_database_that_is_damaged_can_be_replaced_and_one_that_is_not_ours_is_left_alone() {
    let (dir, token) = with_backup();
    let mut bytes = fs::read(dir.db()).expect("a file");
    bytes[20_000..200_000].fill(0xff);
    fs::write(dir.db(), bytes).expect("a file");
    let said = dir.cli(&["restore", "backup.db", "--force"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let server = Server::start(&dir);
    load::serves(&server, &token, &OLD);
    drop(server);
    fs::write(dir.db(), b"not a database").expect("a file");
    for name in ["cachesrv.db-wal", "cachesrv.db-shm"] {
        let _ = fs::remove_file(dir.join(name));
    }
    dir.cli(&["restore", "backup.db", "--force"]).failed(
        1,
        "error: 'cachesrv.db' is not a cachesrv database; it was left untouched\n\
         try: mv cachesrv.db cachesrv.db.old\n",
    );
}

#[test]
fn a_backup_that_is_not_sound_changes_nothing() {
    let (dir, token) = with_backup();
    let before = fs::read(dir.db()).expect("a file");
    let good = fs::read(dir.join("backup.db")).expect("a file");
    for name in ["bad.db", "newer.db", "short.db", "text.db", "in-use.db-wal"] {
        dir.evidence().exempt_mode(name);
    }
    let sqlite = |name: &str, sql: &str| {
        fs::copy(dir.join("backup.db"), dir.join(name)).expect("a copy");
        let connection = support::dir::sqlite(&dir.join(name));
        connection.execute_batch(sql).expect(sql);
    };
    sqlite(
        "bad.db",
        "UPDATE chunks SET checksum = 0 WHERE id = (SELECT max(id) FROM chunks)",
    );
    let said = dir.cli(&["restore", "bad.db", "--force"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stdout.contains(
            "artifact 2 in trusted of workspace 'default': chunk 0 is damaged or missing"
        ),
        "{said:?}"
    );
    assert!(
        said.stderr
            .contains("error: found 1 problem in 'bad.db'; nothing was changed\n"),
        "{said:?}"
    );
    sqlite("newer.db", "PRAGMA user_version = 99");
    fs::write(dir.join("short.db"), &good[..good.len() / 2]).expect("a file");
    fs::write(dir.join("text.db"), b"text").expect("a file");
    for (name, what) in [
        (
            "newer.db",
            "has schema version 99, this cachesrv knows versions up to ",
        ),
        ("short.db", "the database 'short.db' is damaged: "),
        ("text.db", "'text.db' is not a cachesrv database"),
        ("missing.db", "there is no database 'missing.db'"),
        ("cachesrv.db", "'cachesrv.db' is the database itself"),
    ] {
        let said = dir.cli(&["restore", name, "--force"]);
        assert!(
            said.code == Some(1) && said.stderr.contains(what),
            "{name}: {said:?}"
        );
        assert!(fs::read(dir.db()).expect("a file") == before, "{name}");
    }
    // A database at work is not a backup.
    let other = Dir::new();
    let server = Server::start(&other);
    let path = other.db().display().to_string();
    let said = dir.cli(&["restore", &path, "--force"]);
    assert!(
        said.code == Some(1) && said.stderr.contains("in use by a cachesrv server"),
        "{said:?}"
    );
    drop(server);
    assert!(fs::read(dir.db()).expect("a file") == before);
    // What is sound in a backup can be had.
    let said = dir.cli(&["backup", "mended.db", "--db", "bad.db"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    dir.cli(&["restore", "mended.db", "--force"]).done();
    let server = Server::start(&dir);
    load::serves(&server, &token, &OLD[..1]);
    eventually("no leftovers", || {
        dir.files()
            .iter()
            .all(|name| !name.contains(".tmp."))
            .then_some(())
    });
}
