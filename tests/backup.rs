//! `cachesrv backup` and the backups that the server makes by itself: what is in them, where they may go, and
//! what is left when they are cut short.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::dir::{BINARY, number, run, sqlite};
use support::{Dir, Load, Server, entries, eventually, load, noise};

/// A directory, its server is stopped, with some artifacts in the trusted scope.
fn with_artifacts(count: u64) -> (Dir, support::Token, Vec<(u64, usize)>) {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let all: Vec<(u64, usize)> = (0..count)
        .map(|hash| (hash, 300 + 70_000 * (hash as usize % 9)))
        .collect();
    let mut client = server.client(&token);
    for &(hash, size) in &all {
        let answer = client.put(&hash.to_string(), &noise(hash, size));
        assert_eq!(answer.status, 200);
    }
    assert_eq!(server.stop().code(), Some(0));
    (dir, token, all)
}

/// `verify` says of a file that nothing is wrong.
#[track_caller]
fn is_sound(dir: &Dir, name: &str) {
    let said = dir.cli(&["verify", "--db", name]);
    assert!(
        said.code == Some(0) && said.stdout.starts_with("ok: "),
        "{said:?}"
    );
}

/// The names in a directory that begin like this.
fn names(dir: &Dir, beginning: &str) -> Vec<String> {
    let mut names = dir.files();
    names.retain(|name| name.starts_with(beginning));
    names
}

#[test]
fn a_backup_under_load_holds_every_entry_that_was_acknowledged_before_it_began() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let load = Load::start(&server, &token, 3);
    eventually("some artifacts", || {
        (load.acknowledged().len() > 60).then_some(())
    });
    let copy = Dir::new();
    for round in 0..3 {
        let before = load.acknowledged();
        let destination = copy.join(format!("{round}.db"));
        let destination = destination.to_str().expect("UTF-8");
        let said = dir.cli(&["backup", destination]);
        let beginning = "backed up ";
        assert!(
            said.code == Some(0) && said.stdout.starts_with(beginning),
            "{said:?}"
        );
        is_sound(&copy, destination);
        assert_eq!(copy.files(), [format!("{round}.db")]);
        std::fs::rename(destination, copy.db()).expect("renamed");
        let second = Server::start(&copy);
        load::serves(&second, &token, &before);
        assert_eq!(second.client(&token).put("new", b"bytes").status, 200);
        assert_eq!(second.stop().code(), Some(0));
        assert_eq!(copy.files(), ["cachesrv.db"]);
        entries::counters_are_facts(&sqlite(&copy.db()));
        std::fs::remove_file(copy.db()).expect("removed");
    }
    let stored = load.stop();
    load::serves(&server, &token, &stored);
    assert_eq!(dir.number("SELECT count(*) FROM backups"), 3);
}

#[test]
fn a_backup_is_the_database_without_what_nobody_can_read() {
    let (dir, token, _) = with_artifacts(20);
    let isolated = dir.token_with(&["--isolated"]);
    let server = Server::start(&dir);
    let mut pull_request = server.client(&isolated).at("/s/pr-1");
    assert_eq!(pull_request.put("i", &noise(7, 400_000)).status, 200);
    // An upload that goes on and one that was purged.
    let mut slow = server.client(&token);
    slow.begin_put("slow", 9_000_000);
    slow.raw.send(noise(1, 8_000_000));
    eventually("a part of it is in the file", || {
        (dir.number("SELECT count(*) FROM artifacts WHERE state = 'uploading'") == 1).then_some(())
    });
    dir.cli(&["purge", "--hash", "3"]).done();
    dir.cli(&["backup", "copy.db"]).done();
    let (source, copy) = (dir.sqlite(), sqlite(&dir.join("copy.db")));
    assert_eq!(entries::all(&source), entries::all(&copy));
    assert_eq!(entries::all(&copy).len(), 20);
    entries::counters_are_facts(&copy);
    for rest in [
        "SELECT count(*) FROM artifacts WHERE state <> 'stored'",
        "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)",
    ] {
        assert_eq!(number(&copy, rest), 0, "{rest}");
    }
    for same in [
        "SELECT count(*) FROM tokens",
        "SELECT max(seq) FROM sqlite_sequence WHERE name = 'artifacts'",
        "SELECT sum(read_at_ms) FROM artifacts WHERE state = 'stored'",
        "PRAGMA user_version",
        "PRAGMA application_id",
        "PRAGMA page_size",
        "PRAGMA auto_vacuum",
        "SELECT count(*) FROM sqlite_schema",
    ] {
        assert_eq!(number(&copy, same), number(&source, same), "{same}");
    }
    let mode: String = copy
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .expect("a mode");
    assert_eq!(mode, "wal");
    drop((source, copy));
    is_sound(&dir, "copy.db");
}

#[test]
fn a_destination_that_would_do_harm_is_refused() {
    let (dir, _, _) = with_artifacts(1);
    let server = Server::start(&dir);
    std::os::unix::fs::symlink("cachesrv.db", dir.join("soft.db")).expect("a link");
    let other = Dir::new();
    let other_server = Server::start(&other);
    let in_use = other.db().display().to_string();
    for (destination, what) in [
        ("cachesrv.db", "'cachesrv.db' is the database itself"),
        ("./cachesrv.db", "'./cachesrv.db' is the database itself"),
        ("soft.db", "'soft.db' is the database itself"),
        (
            "cachesrv.db-shm",
            "'cachesrv.db-shm' is the database itself",
        ),
        ("missing/x.db", "there is no directory 'missing'"),
        (in_use.as_str(), "is beside"),
    ] {
        let said = dir.cli(&["backup", destination, "--force"]);
        assert!(
            said.code == Some(1) && said.stderr.contains(what),
            "{said:?}"
        );
        assert!(said.stderr.contains("\ntry: "), "{said:?}");
    }
    assert_eq!(other_server.stop().code(), Some(0));
    dir.cli(&["backup", "copy.db"]).done();
    let first = std::fs::read(dir.join("copy.db")).expect("a file");
    dir.cli(&["backup", "copy.db"]).failed(
        1,
        "error: 'copy.db' exists\ntry: cachesrv backup copy.db --force\n",
    );
    assert!(std::fs::read(dir.join("copy.db")).expect("a file") == first);
    dir.cli(&["backup", "copy.db", "--force"]).done();
    // A name by the time, in a directory.
    std::fs::create_dir(dir.join("nightly")).expect("a directory");
    let said = dir.cli(&["backup", "nightly", "--json"]).done();
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let path = said["path"].as_str().expect("a path");
    assert!(
        path.starts_with("nightly/cachesrv-20") && path.ends_with("Z.db"),
        "{path}"
    );
    assert_eq!((&said["entries"], &said["bytes"]), (&1.into(), &300.into()));
    is_sound(&dir, path);
    assert_eq!(names(&dir, "copy.db"), ["copy.db"]);
    drop(server);
}

#[test]
fn a_backup_that_is_killed_leaves_the_source_fine_and_what_it_leaves_is_removed_by_the_next() {
    let (dir, token, all) = with_artifacts(400);
    let server = Server::start(&dir);
    for signal in ["KILL", "TERM", "INT"] {
        let before = names(&dir, "copy.db.tmp.");
        let mut child = dir
            .command(BINARY)
            .args(["backup", "copy.db"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        eventually("it writes", || {
            let mut begun = names(&dir, "copy.db.tmp.");
            begun.retain(|name| !before.contains(name));
            let length =
                |name: &String| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
            begun
                .iter()
                .any(|name| length(name) > 1_000_000)
                .then_some(())
        });
        let kill = format!("kill -{signal} {}", child.id());
        let killed = Command::new("sh").args(["-c", &kill]).status();
        assert!(killed.expect("sh").success());
        let status = child.wait().expect("it ends");
        assert!(!status.success());
        let left = names(&dir, "copy.db");
        if signal == "KILL" {
            assert!(!left.is_empty());
            let is_left = |name: &String| name.starts_with("copy.db.tmp.");
            assert!(left.iter().all(is_left), "{left:?}");
        } else {
            assert_eq!(left, Vec::<String>::new(), "{signal}");
            assert_eq!(status.code(), Some(1));
        }
    }
    dir.cli(&["backup", "copy.db"]).done();
    assert_eq!(names(&dir, "copy.db"), ["copy.db"]);
    is_sound(&dir, "copy.db");
    is_sound(&dir, "cachesrv.db");
    load::serves(&server, &token, &all);
    assert_eq!(dir.number("SELECT count(*) FROM backups"), 1);
}

#[test]
fn what_goes_and_comes_while_a_backup_is_made_leaves_it_consistent() {
    let is_early = (0..10).any(|_| is_purged_while_a_backup_is_made());
    assert!(is_early, "each backup was made before the purge");
}

/// Whether the purge was done while the backup was made.
fn is_purged_while_a_backup_is_made() -> bool {
    let (dir, token, all) = with_artifacts(400);
    let server = Server::start(&dir);
    let mut child = dir
        .command(BINARY)
        .args(["backup", "copy.db"])
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("it writes", || {
        let begun = names(&dir, "copy.db.tmp.");
        let length = |name: &String| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
        begun
            .iter()
            .any(|name| length(name) > 1_000_000)
            .then_some(())
    });
    // In one transaction of the purge, so there is no half of it.
    dir.cli(&["purge", "--token", &token.id]).done();
    let answer = server.client(&token).put("new", &noise(1, 300_000));
    assert_eq!(answer.status, 200);
    let was_early = child.try_wait().expect("a child").is_none();
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    is_sound(&dir, "copy.db");
    let copy = sqlite(&dir.join("copy.db"));
    let copied = entries::all(&copy);
    // What was there before the purge, or after it, with or without the new one.
    let expected = [all.len(), 0, 1];
    assert!(expected.contains(&copied.len()), "{}", copied.len());
    entries::counters_are_facts(&copy);
    let orphans = "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)";
    assert_eq!(number(&copy, orphans), 0);
    was_early && copied.len() < all.len()
}

#[test]
fn an_entry_whose_token_is_not_there_is_named_and_left_out() {
    let (dir, _, _) = with_artifacts(3);
    let other = dir.token("write");
    let server = Server::start(&dir);
    assert_eq!(server.client(&other).put("lost", b"bytes").status, 200);
    assert_eq!(server.stop().code(), Some(0));
    let delete = format!(
        "PRAGMA foreign_keys = OFF; DELETE FROM tokens WHERE public_id = '{}'",
        other.id
    );
    dir.sqlite().execute_batch(&delete).expect("damage");
    let said = dir.cli(&["backup", "copy.db"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.starts_with("backed up 3 entries, "), "{said:?}");
    let line = "damaged, and not in the backup: lost in trusted\n";
    assert!(said.stderr.contains(line), "{said:?}");
    is_sound(&dir, "copy.db");
    entries::counters_are_facts(&sqlite(&dir.join("copy.db")));
}

#[test]
fn a_damaged_entry_is_named_and_left_out_and_the_rest_is_in_the_backup() {
    let (dir, token, all) = with_artifacts(12);
    let sqlite = dir.sqlite();
    // One of two chunks, one that is its entry's only one, one that is not there, one too many.
    for damage in [
        "UPDATE chunks SET data = zeroblob(length(data)) WHERE id = (SELECT id << 20 | 1 FROM artifacts WHERE hash = '5')",
        "UPDATE chunks SET checksum = checksum + 1 WHERE id = (SELECT id << 20 FROM artifacts WHERE hash = '1')",
        "DELETE FROM chunks WHERE id = (SELECT id << 20 FROM artifacts WHERE hash = '7')",
        "INSERT INTO chunks SELECT (SELECT id << 20 | 9 FROM artifacts WHERE hash = '2'), 0, x'00'",
    ] {
        assert_eq!(sqlite.execute(damage, []).expect("damage"), 1, "{damage}");
    }
    drop(sqlite);
    let said = dir.cli(&["backup", "copy.db"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.starts_with("backed up 8 entries, "), "{said:?}");
    for hash in ["1", "2", "5", "7"] {
        let line = format!("damaged, and not in the backup: {hash} in trusted\n");
        assert!(said.stderr.contains(&line), "{said:?}");
    }
    let end =
        "error: the backup is made, but 4 damaged entries are not in it\ntry: cachesrv verify\n";
    assert!(said.stderr.ends_with(end), "{said:?}");
    is_sound(&dir, "copy.db");
    let copy = Dir::new();
    std::fs::rename(dir.join("copy.db"), copy.db()).expect("renamed");
    entries::counters_are_facts(&copy.sqlite());
    let server = Server::start(&copy);
    let sound: Vec<_> = all
        .into_iter()
        .filter(|(hash, _)| ![1, 2, 5, 7].contains(hash))
        .collect();
    assert_eq!(sound.len(), 8);
    load::serves(&server, &token, &sound);
    assert_eq!(server.client(&token).get("5").status, 404);
}

/// A shell in a mount namespace of its own, where `line` may mount what it needs.
fn namespace(dir: &Dir, line: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for flags in ["-rm", "-m"] {
        let mut probe = dir.command("unshare");
        let mount = [flags, "mount", "-t", "tmpfs", "none", "/mnt"];
        probe.env("PATH", &path).args(mount);
        if probe.output().is_ok_and(|output| output.status.success()) {
            let mut command = dir.command("unshare");
            command.env("PATH", &path).env("cachesrv", BINARY);
            command.args([flags, "sh", "-ec", line]);
            return command;
        }
    }
    panic!(
        "this test mounts a small disk: run it as root, or where `unshare -rm` works (util-linux)"
    );
}

#[test]
fn a_disk_without_room_is_noticed_before_and_while_it_fills() {
    let (dir, _, _) = with_artifacts(60);
    std::fs::create_dir(dir.join("disk")).expect("a directory");
    let line =
        "mount -t tmpfs -o size=8m none disk; \"$cachesrv\" backup disk/copy.db || ls -A disk";
    let said = run(&mut namespace(&dir, line));
    let beginning =
        "error: there is no backup in 'disk/copy.db': no room for 'disk/copy.db': up to ";
    assert!(said.stderr.starts_with(beginning), "{said:?}");
    assert_eq!(said.stdout, "");
    // Somebody else fills the disk as soon as the copy has begun.
    let line = "mount -t tmpfs -o size=40m none disk
        \"$cachesrv\" backup disk/copy.db & while ! ls disk | grep -q tmp; do :; done
        head -c 39m /dev/zero >disk/filler 2>/dev/null || true
        wait $! || ls -A disk";
    let said = run(&mut namespace(&dir, line));
    assert!(said.stderr.contains("no storage space"), "{said:?}");
    assert_eq!(said.stdout, "filler\n");
    is_sound(&dir, "cachesrv.db");
}

#[test]
fn a_backup_on_the_disk_of_the_database_leaves_more_of_it_than_what_must_stay_free() {
    let (dir, _, _) = with_artifacts(1);
    std::fs::create_dir(dir.join("nightly")).expect("a directory");
    let floor = ["--set", "eviction.min_free_disk=1000TiB"];
    let said = dir.cli(&["backup", "copy.db", floor[0], floor[1]]);
    // With an eighth of it, and the copy.
    let what = "no room for 'copy.db': up to 1.1 PiB are needed, ";
    assert!(
        said.code == Some(1) && said.stderr.contains(what),
        "{said:?}"
    );
    assert!(names(&dir, "copy.db").is_empty());
    let settings = ["backup.dir=nightly", "backup.every=1s"];
    let mut args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    args.extend(floor);
    let server = Server::start_with(&dir, &args);
    server.wait_for_line("error backup failed error=\"no room for 'nightly/");
    assert_eq!(made(&dir.join("nightly")), Vec::<String>::new());
}

/// The backups in a directory, oldest first.
fn made(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8")
    });
    let is_backup = |name: &String| name.ends_with("Z.db") && !name.contains("-2099");
    let mut names: Vec<String> = names.filter(is_backup).collect();
    names.sort();
    names
}

#[test]
fn the_server_makes_backups_and_deletes_nothing_but_the_oldest_of_them() {
    let (dir, _, _) = with_artifacts(5);
    let nightly = dir.join("nightly");
    std::fs::create_dir(&nightly).expect("a directory");
    let others = [
        "cachesrv.db",
        "cachesrv-20200101T000000Z.db.bak",
        "cachesrv-2020.db",
        // Of a clock that was wrong: it puts nothing off, and stays.
        "cachesrv-20990101T000000Z.db",
        "notes",
    ];
    for other in others {
        std::fs::write(nightly.join(other), b"mine").expect("a file");
        dir.evidence().exempt_mode(&format!("nightly/{other}"));
    }
    // Of a crash: nobody holds its lock.
    let left = nightly.join("cachesrv-20200101T000000Z.db.tmp.0123abcd");
    std::fs::write(&left, b"half").expect("a file");
    dir.evidence()
        .exempt_mode("nightly/cachesrv-20200101T000000Z.db.tmp.0123abcd");
    let settings = ["backup.dir=nightly", "backup.every=1s", "backup.keep=2"];
    let args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    let server = Server::start_with(&dir, &args);
    eventually("four backups", || {
        (server
            .log()
            .matches("info backup made path=nightly/")
            .count()
            >= 4)
            .then_some(())
    });
    assert_eq!(server.stop().code(), Some(0));
    let kept = made(&nightly);
    assert_eq!(kept.len(), 2, "{kept:?}");
    for other in others {
        assert_eq!(
            std::fs::read(nightly.join(other)).expect("it stays"),
            b"mine"
        );
    }
    assert!(!left.exists());
    let temporary = std::fs::read_dir(&nightly).expect("a directory");
    let temporary = temporary.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().contains(".tmp.")
    });
    assert_eq!(temporary.count(), 0);
    is_sound(&dir, &format!("nightly/{}", kept[0]));
    assert!(dir.number("SELECT count(*) FROM backups") >= 4);
}

#[test]
fn backups_that_lack_damaged_entries_take_the_place_of_no_sound_one() {
    let (dir, _, _) = with_artifacts(3);
    let nightly = dir.join("nightly");
    std::fs::create_dir(&nightly).expect("a directory");
    dir.cli(&["backup", "nightly"]).done();
    let sound = made(&nightly).remove(0);
    let damage = "UPDATE chunks SET checksum = checksum + 1";
    dir.sqlite().execute(damage, []).expect("damage");
    let settings = ["backup.dir=nightly", "backup.every=1s", "backup.keep=1"];
    let args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    let server = Server::start_with(&dir, &args);
    eventually("three backups", || {
        (server.log().matches("info backup made").count() >= 3).then_some(())
    });
    assert_eq!(server.stop().code(), Some(0));
    let kept = made(&nightly);
    assert!(kept.len() == 2 && kept[0] == sound, "{kept:?}, {sound}");
    is_sound(&dir, &format!("nightly/{sound}"));
}

#[test]
fn a_restart_does_not_shift_the_next_backup_and_a_stop_abandons_one() {
    let (dir, _, _) = with_artifacts(300);
    std::fs::create_dir(dir.join("nightly")).expect("a directory");
    let args = ["--set", "backup.dir=nightly", "--set", "backup.every=1d"];
    let server = Server::start_with(&dir, &args);
    let begun = || {
        let names = std::fs::read_dir(dir.join("nightly")).expect("a directory");
        names.count() > 0
    };
    eventually("it has begun", || begun().then_some(()));
    let stopped = server.stop();
    assert_eq!(stopped.code(), Some(0));
    assert!(stopped.log.contains(" info backup abandoned by the stop"));
    assert_eq!(dir.files(), ["cachesrv.db", "nightly"]);
    let server = Server::start_with(&dir, &args);
    server.wait_for_line("info backup made");
    server.stop();
    let kept = made(&dir.join("nightly"));
    assert_eq!(kept.len(), 1);
    // A server that is up for a second already would have made another.
    let server = Server::start_with(&dir, &args);
    dir.cli(&["verify"]).done();
    assert!(!server.stop().log.contains("backup made"));
    assert_eq!(made(&dir.join("nightly")), kept);
}

#[test]
fn a_directory_that_cannot_be_written_stops_the_start_and_later_is_a_line_in_the_log() {
    let (dir, token, all) = with_artifacts(2);
    let serve = |directory: &str| {
        let set = format!("backup.dir={directory}");
        dir.cli(&["serve", "--listen", "127.0.0.1:0", "--set", &set])
    };
    serve("missing").failed(
        1,
        "error: backup.dir: 'missing' is not a directory\ntry: mkdir -p -m 700 missing\n",
    );
    serve("cachesrv.db").failed(
        1,
        "error: backup.dir: 'cachesrv.db' is not a directory\ntry: mkdir -p -m 700 cachesrv.db\n",
    );
    std::fs::create_dir(dir.join("nightly")).expect("a directory");
    let args = ["--set", "backup.dir=nightly", "--set", "backup.every=1s"];
    let server = Server::start_with(&dir, &args);
    server.wait_for_line("info backup made");
    // The next one may be writing there at this moment.
    eventually("it is removed", || {
        std::fs::remove_dir_all(dir.join("nightly")).ok()
    });
    server.wait_for_line("error backup failed error=\"there is no directory 'nightly'\"");
    load::serves(&server, &token, &all);
    let before = server.log().matches("info backup made").count();
    std::fs::create_dir(dir.join("nightly")).expect("a directory");
    eventually("it resumes", || {
        (server.log().matches("info backup made").count() > before).then_some(())
    });
}
