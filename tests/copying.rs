//! "Copy one .db file": when a plain copy is a backup, and when only `cachesrv backup` makes one.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::{Dir, Load, Server, eventually, load};

/// How long writes must have paused before the server folds its log into the file.
const QUIET: Duration = Duration::from_secs(1);

#[test]
fn a_plain_copy_beside_a_log_lacks_what_was_acknowledged_and_a_backup_does_not() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let load = Load::start(&server, &token, 2);
    eventually("some artifacts", || {
        (load.acknowledged().len() > 40).then_some(())
    });
    let acknowledged = load.acknowledged();
    dir.cli(&["backup", "backup.db"]).done();
    let said = dir.cli(&["verify", "--db", "backup.db"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    load.stop();
    // One more entry, which is in the log until writes have paused for a second: copied before that.
    let last = eventually("a copy while the log is in use", || {
        let began = Instant::now();
        let hash = format!("last-{}", dir.number("SELECT count(*) FROM artifacts"));
        assert_eq!(server.client(&token).put(&hash, b"bytes").status, 200);
        fs::copy(dir.db(), dir.join("plain.db")).expect("a copy");
        (began.elapsed() < QUIET / 2).then_some(hash)
    });
    let plain = Dir::new();
    fs::rename(dir.join("plain.db"), plain.db()).expect("renamed");
    // Torn or not, it is not everything.
    let is_there = "SELECT count(*) FROM artifacts WHERE hash = ?1";
    let connection = rusqlite::Connection::open(plain.db()).expect("it opens");
    let found: rusqlite::Result<i64> = connection.query_row(is_there, [last], |row| row.get(0));
    assert!(found.is_err() || found == Ok(0), "{found:?}");
    drop(connection);
    let copy = Dir::new();
    fs::rename(dir.join("backup.db"), copy.db()).expect("renamed");
    let second = Server::start(&copy);
    load::serves(&second, &token, &acknowledged);
}

#[test]
fn a_plain_copy_is_complete_once_writes_have_paused() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let load = Load::start(&server, &token, 2);
    eventually("some artifacts", || {
        (load.acknowledged().len() > 40).then_some(())
    });
    let stored = load.stop();
    let log = dir.join("cachesrv.db-wal");
    eventually("the log is empty", || {
        (fs::metadata(&log).expect("a log").len() == 0).then_some(())
    });
    let copy = Dir::new();
    fs::copy(dir.db(), copy.db()).expect("a copy");
    assert!(copy.cli(&["verify"]).done().starts_with("ok: "));
    let second = Server::start(&copy);
    load::serves(&second, &token, &stored);
    drop(second);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(dir.files(), ["cachesrv.db"]);
}
