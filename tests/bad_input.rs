//! What people and machines get wrong: each mistake has one clear sentence, an exit code, and loses
//! nothing. A disk that is full costs the cache what does not fit, and no build anything.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cachesrv::store::SCHEMA_VERSION;
use support::dir::{BINARY, run};
use support::disk::{DISK_FULL, SmallDisk, namespace};
use support::{Dir, Outcome, Random, Server, Token, eventually, noise};

const MIB: usize = 1024 * 1024;

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];
const CREATE: [&str; 3] = ["token", "create", "--write"];
const LIST: [&str; 2] = ["token", "list"];

/// The commands that open the database, each in its own way.
const ALL: [&[&str]; 3] = [&SERVE, &CREATE, &LIST];

/// What a command says of a file that it cannot use: a server can do with another one, and nothing else.
fn hinted(text: &str, command: &[&str]) -> String {
    if command == SERVE {
        return text.to_owned();
    }
    text.replace("serve --db another.db", "config show --sources")
}

fn set_mode(path: &Path, mode: u32) {
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("the mode is set");
}

/// A directory with a database that holds a token and an artifact.
fn with_artifact() -> (Dir, Token) {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("kept", b"bytes").status, 200);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(dir.files(), ["cachesrv.db"]);
    (dir, token)
}

/// Asserts that nothing was lost.
#[track_caller]
fn serves_what_it_had(dir: &Dir, token: &Token) {
    let server = Server::start(dir);
    assert_eq!(server.client(token).get("kept").body, b"bytes");
}

// Addresses and files.

#[test]
fn an_address_in_use_is_named() {
    let (dir, token) = with_artifact();
    let server = Server::start(&dir);
    let address = server.address().to_string();
    let other = Dir::new();
    let text = format!(
        "error: address {address} is already in use\ntry: cachesrv serve --listen 127.0.0.1:0\n"
    );
    other.cli(&["serve", "--listen", &address]).failed(1, &text);
    // Of another database too, and of another file of settings; each as a shell takes it.
    std::fs::write(
        other.join("my settings.toml"),
        "db = \"b.db\"\nbehind_proxy = true\n",
    )
    .expect("a file");
    other.evidence().exempt_mode("my settings.toml");
    for (options, hint) in [
        (&["--db", "a b.db"][..], " --db 'a b.db'"),
        (
            &["--config", "my settings.toml"],
            " --config 'my settings.toml'",
        ),
        (
            &["--config", "my settings.toml", "--db", "c.db"],
            " --config 'my settings.toml' --db c.db",
        ),
    ] {
        let text = text.replace(":0\n", &format!(":0{hint}\n"));
        let serve = [&["serve", "--listen", &address], options].concat();
        other.cli(&serve).failed(1, &text);
    }
    assert_eq!(server.client(&token).get("kept").body, b"bytes");
}

#[test]
fn an_address_of_another_machine_is_named() {
    let dir = Dir::new();
    let text = "error: address 203.0.113.1:80 is not an address of this machine\n";
    dir.cli(&["serve", "--listen", "203.0.113.1:80"])
        .failed(1, text);
}

#[test]
fn a_directory_is_no_database() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("store")).expect("a directory");
    let text = "error: 'store' is not a regular file, so it cannot be the database\n\
                try: cachesrv serve --db another.db\n";
    for command in ALL {
        dir.cli(&[command, &["--db", "store"]].concat())
            .failed(1, &hinted(text, command));
    }
    assert_eq!(dir.files(), ["store"]);
    let text = text.replace("'store'", "'/dev/null'");
    dir.cli(&[&SERVE[..], &["--db", "/dev/null"]].concat())
        .failed(1, &text);
}

#[test]
fn a_directory_that_is_missing_is_not_made() {
    let dir = Dir::new();
    let text = "error: there is no directory 'no/such': cannot create 'no/such/x.db': No such file or directory \
                (os error 2)\ntry: mkdir -p -m 700 no/such\n";
    for command in [&SERVE, &CREATE] {
        dir.cli(&[&command[..], &["--db", "no/such/x.db"]].concat())
            .failed(1, text);
    }
    let text = "error: there is no database 'no/such/x.db'\n\
                try: cachesrv config show --sources\n";
    for command in [&["token", "list"][..], &["token", "revoke", "ci"]] {
        dir.cli(&[command, &["--db", "no/such/x.db"]].concat())
            .failed(1, text);
    }
    assert!(dir.files().is_empty());
}

/// The binary for a user whom permissions stop: root has to give that up first.
fn run_without_privilege(dir: &Dir, args: &[&str]) -> Outcome {
    let mut plain = dir.command("setpriv");
    let caps = "-dac_override,-dac_read_search";
    plain
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["--inh-caps", caps, "--bounding-set", caps, BINARY])
        .args(args);
    let is_root = run(Command::new("id").arg("-u")).stdout == "0\n";
    if is_root {
        run(&mut plain)
    } else {
        dir.cli(args)
    }
}

#[test]
fn a_directory_that_may_not_be_written_is_named() {
    let dir = Dir::new();
    set_mode(dir.path(), 0o555);
    for command in [&SERVE, &CREATE] {
        let text = "error: you may not make files in the directory '.': cannot create 'cachesrv.db': Permission denied \
                    (os error 13)\ntry: chmod u+rwx .\n";
        run_without_privilege(&dir, command).failed(1, text);
    }
    assert!(dir.files().is_empty());
    let (dir, token) = with_artifact();
    set_mode(&dir.db(), 0o400);
    let text = "error: cannot open 'cachesrv.db': Permission denied (os error 13)\ntry: chmod 600 cachesrv.db\n";
    for command in ALL {
        run_without_privilege(&dir, command).failed(1, text);
    }
    set_mode(&dir.db(), 0o600);
    serves_what_it_had(&dir, &token);
}

/// Of a directory on the way, and of another user: whoever is not meant to be in there learns whom to ask.
#[test]
fn a_directory_that_lets_nobody_in_is_named_and_so_is_its_owner() {
    let is_root = run(Command::new("id").arg("-u")).stdout == "0\n";
    if !is_root {
        eprintln!("not run: only root can give a directory away");
        return;
    }
    let dir = Dir::new();
    let closed = dir.join("closed");
    std::fs::create_dir_all(closed.join("in")).expect("directories");
    std::os::unix::fs::chown(&closed, Some(1), Some(1)).expect("root may give away");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let user = run(Command::new("id").args(["-un", "1"])).stdout;
    let text = format!(
        "error: the directory 'closed' does not let you in: cannot create 'closed/in/x.db': Permission denied \
         (os error 13)\ntry: sudo -u {} cachesrv doctor --db closed/in/x.db\n",
        user.trim_end()
    );
    for command in [&SERVE, &CREATE] {
        let command = [&command[..], &["--db", "closed/in/x.db"]].concat();
        run_without_privilege(&dir, &command).failed(1, &text);
    }
}

#[test]
fn a_database_in_a_directory_that_may_not_be_written_is_refused() {
    let (dir, token) = with_artifact();
    set_mode(dir.path(), 0o555);
    let outcome = run_without_privilege(&dir, &SERVE);
    set_mode(dir.path(), 0o755);
    let text = "error: you may not make files in the directory '.': cannot create a log beside 'cachesrv.db': permission \
                denied\ntry: chmod u+rwx .\n";
    outcome.failed(1, text);
    serves_what_it_had(&dir, &token);
}

#[test]
fn a_database_that_others_may_write_is_refused() {
    let (dir, token) = with_artifact();
    // SQLite gives it the mode that the database has when it makes it.
    dir.evidence().exempt_mode("cachesrv.db-shm");
    for mode in [0o660, 0o606, 0o666, 0o620, 0o602] {
        set_mode(&dir.db(), mode);
        let text = format!(
            "error: the database 'cachesrv.db' may be written by others (mode {mode:04o})\n\
             try: chmod 600 cachesrv.db\n"
        );
        for command in ALL {
            dir.cli(command).failed(1, &text);
        }
    }
    for mode in [0o644, 0o640, 0o600] {
        set_mode(&dir.db(), mode);
        serves_what_it_had(&dir, &token);
    }
}

#[test]
fn a_second_server_on_one_file_is_refused() {
    let (dir, token) = with_artifact();
    let server = Server::start(&dir);
    let text = format!(
        "error: the database 'cachesrv.db' is in use by another cachesrv server: process {}\n\
         try: cachesrv serve --db another.db --listen 127.0.0.1:0\n",
        server.pid()
    );
    dir.cli(&SERVE).failed(1, &text);
    // The first one does not notice.
    let mut client = server.client(&token);
    assert_eq!(client.get("kept").body, b"bytes");
    assert_eq!(client.put("new", b"bytes").status, 200);
    // The lock dies with the process.
    server.kill();
    serves_what_it_had(&dir, &token);
}

// Files that are not ours, not yet ours, or not whole.

/// Asserts that every command refuses the file with this text and leaves its bytes as they were.
#[track_caller]
fn refused_untouched(dir: &Dir, text: &str) {
    let before = std::fs::read(dir.db()).expect("a file");
    let files = dir.files();
    for command in ALL {
        dir.cli(command).failed(1, &hinted(text, command));
        let after = std::fs::read(dir.db()).expect("a file");
        assert!(before == after, "{command:?} changed the file");
        assert_eq!(dir.files(), files);
    }
}

const NOT_OURS: &str = "error: 'cachesrv.db' is not a cachesrv database; it was left untouched\n\
                        try: cachesrv serve --db another.db\n";

#[test]
fn a_file_that_is_no_database_is_left_untouched() {
    for length in [1, 15, 99, 100, 101, 16384, 100_000] {
        let dir = Dir::new();
        std::fs::write(dir.db(), noise(1, length)).expect("a file");
        set_mode(&dir.db(), 0o600);
        refused_untouched(&dir, NOT_OURS);
        // Even when it begins like one.
        let begins = [b"SQLite format 3\0", &noise(1, length)[..]].concat();
        std::fs::write(dir.db(), begins).expect("a file");
        refused_untouched(&dir, NOT_OURS);
    }
}

#[test]
fn the_database_of_another_program_is_left_untouched() {
    for journal in ["DELETE", "WAL"] {
        let dir = Dir::new();
        let other = rusqlite::Connection::open(dir.db()).expect("a database");
        let sql = format!(
            "PRAGMA journal_mode = {journal}; PRAGMA application_id = 42; CREATE TABLE tokens (id); \
             CREATE TABLE artifacts (id); INSERT INTO tokens VALUES (1); PRAGMA user_version = 1;"
        );
        other.execute_batch(&sql).expect("a table");
        set_mode(&dir.db(), 0o600);
        drop(other);
        refused_untouched(&dir, NOT_OURS);
    }
}

#[test]
fn an_empty_file_becomes_a_database() {
    let dir = Dir::new();
    std::fs::write(dir.db(), b"").expect("a file");
    set_mode(&dir.db(), 0o600);
    let token = dir.token("write");
    assert_eq!(
        Server::start(&dir).client(&token).put("1", b"bytes").status,
        200
    );
}

#[test]
fn a_database_of_a_newer_version_is_left_untouched() {
    let (dir, token) = with_artifact();
    let set_version = |version: u32| {
        let connection = dir.sqlite();
        connection
            .pragma_update(None, "user_version", version)
            .expect("a version");
        connection
    };
    let (known, newer) = (SCHEMA_VERSION, SCHEMA_VERSION + 1);
    let text = &format!(
        "error: the database 'cachesrv.db' has schema version {newer}, this cachesrv knows versions up to \
         {known}; it was left untouched\n"
    );
    drop(set_version(newer));
    refused_untouched(&dir, text);
    drop(set_version(known));
    serves_what_it_had(&dir, &token);
    // The version is in the log, the file still has the old one.
    let open = set_version(newer);
    assert!(dir.files().contains(&"cachesrv.db-wal".to_owned()));
    refused_untouched(&dir, text);
    drop(open);
}

#[test]
fn a_damaged_database_is_called_damaged_and_left_untouched() {
    let (dir, _) = with_artifact();
    let whole = std::fs::read(dir.db()).expect("a file");
    let page = 16 * 1024;
    // The b-tree of the schema; everything after it; the end of the file.
    let mut schema = whole.clone();
    schema[100..page].fill(0xff);
    let mut tables = whole.clone();
    tables[page..].fill(0xff);
    let half = whole[..whole.len() / 2 / page * page].to_vec();
    for (what, damaged) in [("schema", schema), ("tables", tables), ("half", half)] {
        println!("{what}");
        std::fs::write(dir.db(), &damaged).expect("a file");
        let outcome = dir.cli(&SERVE);
        assert_eq!((outcome.code, &*outcome.stdout), (Some(1), ""));
        let text = "error: the database 'cachesrv.db' is damaged: ";
        assert!(outcome.stderr.starts_with(text), "{outcome:?}");
        assert!(
            outcome
                .stderr
                .ends_with("\ntry: cachesrv serve --db another.db\n"),
            "{outcome:?}"
        );
        let after = std::fs::read(dir.db()).expect("a file");
        assert!(after == damaged, "{what}: the file was changed");
    }
}

#[test]
fn a_wrong_configuration_is_named_before_anything_is_opened() {
    let dir = Dir::new();
    std::fs::write(dir.join("c.toml"), "[limits]\nidle_timout = \"1s\"\n").expect("a file");
    dir.evidence().exempt_mode("c.toml");
    for command in ALL {
        let outcome = dir.cli(&[command, &["--config", "c.toml"]].concat());
        assert_eq!((outcome.code, &*outcome.stdout), (Some(2), ""));
        assert!(
            outcome.stderr.starts_with("error: c.toml:2: "),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains("limits.idle_timout"), "{outcome:?}");
    }
    let outcome = dir.cli(&["serve", "--set", "limits.database_wait=soon"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("limits.database_wait"),
        "{outcome:?}"
    );
    assert_eq!(dir.files(), ["c.toml"]);
}

// Disks.

#[test]
fn a_read_only_disk_is_named() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("disk")).expect("a directory");
    for command in ["serve", "token create --write"] {
        let line = format!("mount -t tmpfs -o ro none disk; cd disk; exec \"$cachesrv\" {command}");
        let text = "error: cannot create 'cachesrv.db': Read-only file system (os error 30)\n";
        run(&mut namespace(&dir, &line)).failed(1, text);
    }
    let (dir, token) = with_artifact();
    let line =
        "mount --bind . .; mount -o remount,bind,ro .; cd \"$PWD\"; exec \"$cachesrv\" serve";
    let text = "error: cannot open 'cachesrv.db': Read-only file system (os error 30)\n";
    run(&mut namespace(&dir, line)).failed(1, text);
    serves_what_it_had(&dir, &token);
}

/// A disk of 24 MiB, of which a filler takes 6, and none of it has to stay free.
fn small_disk() -> SmallDisk {
    SmallDisk::start(24, 6, &["eviction.min_free_disk=0B"])
}

#[test]
fn what_cannot_fit_on_the_disk_is_refused_before_its_body() {
    let mut small = small_disk();
    let mut client = small.server.client(&small.token);
    let fields = ["Content-Length: 30000000", "Expect: 100-continue"];
    client.begin("PUT", "/v1/cache/1", &fields);
    let answer = client.raw.answer();
    assert_eq!((answer.status, answer.text()), (403, DISK_FULL));
    assert!(!small.put("1", &noise(1, 30_000_000)));
    let line = small.server.wait_for_line("an artifact was not stored");
    assert!(
        line.contains(" warn ") && line.contains("the disk of this cache is full"),
        "{line}"
    );
    // Sixteen at once that fit one by one: no room is promised twice.
    let uploads: Vec<_> = (0..16)
        .map(|number: u64| {
            let mut client = small.server.client(&small.token);
            let fields = ["Content-Length: 3000000", "Expect: 100-continue"];
            client.begin("PUT", &format!("/v1/cache/{number}"), &fields);
            let status = client.raw.answer_to_head().status;
            (number, client, status)
        })
        .collect();
    let promised = uploads
        .iter()
        .filter(|(_, _, status)| *status == 100)
        .count();
    assert!((1..=6).contains(&promised), "{promised}");
    for (number, mut client, status) in uploads {
        if status == 100 {
            client.raw.send(noise(number, 3_000_000));
            assert_eq!(
                client.raw.answer().status,
                200,
                "room that was promised is there"
            );
            small.holds(&number.to_string(), Some(&noise(number, 3_000_000)));
        }
    }
    assert!(small.server.is_alive());
}

#[test]
fn a_disk_that_fills_up_costs_no_artifact_and_recovers() {
    let mut random = Random::seeded();
    let mut small = small_disk();
    let mut kept = Vec::new();
    let mut refused = Vec::new();
    let mut number = 0;
    let mut fill = |small: &SmallDisk, kept: &mut Vec<(String, Vec<u8>)>| {
        let mut in_a_row = 0;
        loop {
            number += 1;
            let size = match number % 3 {
                0 => random.below(1000),
                1 => random.below(300_000),
                _ => random.below(2_000_000),
            };
            let hash = number.to_string();
            let bytes = noise(random.number(), size as usize);
            if small.put(&hash, &bytes) {
                kept.push((hash, bytes));
                in_a_row = 0;
            } else {
                refused.push(hash);
                in_a_row += 1;
            }
            if in_a_row >= 12 {
                break;
            }
        }
    };
    fill(&small, &mut kept);
    small.fill();
    fill(&small, &mut kept);
    let before = kept.len();
    for (hash, bytes) in &kept {
        small.holds(hash, Some(bytes));
    }
    assert!(before > 5, "{before}");
    small.free("rest");
    small.free("filler");
    eventually("there is room again", || {
        small.put("again", &noise(9, MIB)).then_some(())
    });
    small.holds("again", Some(&noise(9, MIB)));
    fill(&small, &mut kept);
    assert!(kept.len() > before);
    for (hash, bytes) in &kept {
        small.holds(hash, Some(bytes));
    }
    for hash in &refused {
        small.holds(hash, None);
    }
    assert!(small.server.is_alive());
}

#[test]
fn a_disk_that_fills_up_during_an_upload_costs_this_upload_only() {
    let mut small = small_disk();
    assert!(small.put("kept", &noise(1, MIB)));
    for size in [100_000, 5 * MIB] {
        let mut client = small.server.client(&small.token);
        let (cut, bytes) = (&format!("cut-{size}"), noise(2, size));
        client.begin_put(cut, size);
        client.raw.send(&bytes[..size / 2]);
        small.fill();
        client.raw.send(&bytes[size / 2..]);
        let answer = client.raw.answer();
        // A little may still fit into what the log has already taken of the disk.
        let is_stored = answer.status == 200;
        assert!(
            is_stored || (answer.status, answer.text()) == (403, DISK_FULL),
            "{}",
            answer.head
        );
        assert!(size < MIB || !is_stored, "there was no room for it");
        // Long enough for the cleaner to look, and to fail: what it frees must be written down first.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2500) {
            small.holds("kept", Some(&noise(1, MIB)));
        }
        small.holds(cut, is_stored.then_some(&bytes[..]));
        small.free("rest");
        eventually("there is room again", || {
            let hash = format!("again-{size}");
            small.put(&hash, &bytes).then_some(())
        });
        small.holds(&format!("again-{size}"), Some(&bytes));
        if !is_stored {
            small.nothing_is_left_over();
            assert!(small.put(cut, b"bytes"), "the hash is free");
            small.holds(cut, Some(b"bytes"));
        }
    }
    assert!(small.server.is_alive());
    let ended = small.server.stop();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
}
