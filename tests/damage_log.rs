//! What lies beside the database, or in its place: a log that is damaged, cut or of another database; an index of the
//! log that is garbage; files that are no database, of another program, of the future, or no files at all.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use support::dir::run;
use support::rich::{Rich, ask_everybody};
use support::{Dir, Random, Server, noise, rounds};

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// The files of a database whose server was killed.
struct Crashed {
    rich: Rich,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Crashed {
    /// With entries that are in the log only.
    fn new(prefix: &str) -> Self {
        let mut rich = Rich::small();
        let dir = Dir::new();
        write(&dir, "", &rich.bytes);
        let server = Server::start(&dir);
        for (who, size) in [
            (0, 10),
            (0, 30_000),
            (0, 600_000),
            (2, 10),
            (2, 300_000),
            (5, 20_000),
        ] {
            let asker = &rich.askers[who];
            let (hash, bytes) = (
                format!("{prefix}-{who}-{size}"),
                noise(size as u64 + who as u64, size),
            );
            let mut client = server.client(&asker.token).at(&asker.base());
            assert_eq!(client.put(&hash, &bytes).status, 200);
            let place = asker.chain.last().expect("a chain").clone();
            rich.held.entry(place).or_default().insert(hash, bytes);
        }
        server.kill();
        let files = ["", "-wal", "-shm"].map(|end| {
            let bytes = fs::read(dir.join(format!("cachesrv.db{end}"))).expect("a file");
            (end, bytes)
        });
        assert!(files[1].1.len() > 1_000_000, "{}", files[1].1.len());
        Self {
            rich,
            files: files.into(),
        }
    }

    /// A directory with these files, of which one is changed.
    fn with(&self, end: &str, change: impl FnOnce(&mut Vec<u8>)) -> Dir {
        let dir = Dir::new();
        let mut change = Some(change);
        for (other, bytes) in &self.files {
            let mut bytes = bytes.clone();
            if *other == end
                && let Some(change) = change.take()
            {
                change(&mut bytes);
            }
            write(&dir, other, &bytes);
        }
        dir
    }
}

fn write(dir: &Dir, end: &str, bytes: &[u8]) {
    let path = dir.join(format!("cachesrv.db{end}"));
    fs::write(&path, bytes).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a mode");
}

/// What a damaged log costs is what was in it: all that is served is right, and the file is sound.
#[test]
fn a_log_that_is_damaged_costs_no_more_than_what_was_in_it() {
    let mut random = Random::seeded();
    let crashed = Crashed::new("logged");
    let log_bytes = crashed.files[1].1.len() as u64;
    for round in 0..rounds(14) {
        let (at, number) = (random.below(log_bytes) as usize, random.number());
        let frame = 32 + (at - at.min(32)) / (16_384 + 24) * (16_384 + 24);
        let (what, end): (&str, &str) = [
            ("flip", "-wal"),
            ("flip in the header", "-wal"),
            ("flip in the header of a frame", "-wal"),
            ("cut", "-wal"),
            ("cut at a frame", "-wal"),
            ("zeros", "-wal"),
            ("noise", "-wal"),
            ("all noise", "-wal"),
            ("empty", "-wal"),
            ("flip", "-shm"),
            ("noise", "-shm"),
            ("empty", "-shm"),
            ("longer", "-wal"),
            ("ones", "-shm"),
        ][(round % 14) as usize];
        let dir = crashed.with(end, |bytes| {
            let length = bytes.len();
            let at = at % length;
            match what {
                "flip" => bytes[at] ^= 1 << (number % 8),
                "flip in the header" => bytes[at % 32] ^= 1 << (number % 8),
                "flip in the header of a frame" => {
                    bytes[frame + (number % 24) as usize] ^= 1 << (number % 8);
                }
                "cut" => bytes.truncate(at),
                "cut at a frame" => bytes.truncate(frame),
                "zeros" => bytes[at..].fill(0),
                "noise" => bytes[at..].copy_from_slice(&noise(number, length - at)),
                "all noise" => *bytes = noise(number, length),
                "longer" => bytes.extend(noise(number, 50_000)),
                "ones" => bytes.fill(0xff),
                _ => bytes.clear(),
            }
        });
        let text = format!("{what} of {end} at {at}");
        println!("{text}");
        ask_everybody(&dir, &crashed.rich, &text);
        let said = dir.cli(&["verify"]);
        assert_eq!(said.code, Some(0), "{text}: {said:?}");
    }
}

/// SQLite does not bind a log to its file. Whoever puts a file in the place of another must remove the log of that
/// one, as `restore` does. Where somebody did not, the server refuses or lives, and `verify` names it.
#[test]
fn the_log_of_another_database_brings_nobody_down() {
    let (one, other) = (Crashed::new("one"), Crashed::new("other"));
    for has_index in [true, false] {
        let dir = one.with("-wal", |log| log.clone_from(&other.files[1].1));
        if !has_index {
            fs::remove_file(dir.join("cachesrv.db-shm")).expect("a file");
        }
        let said = dir.cli(&["verify"]);
        println!("{said:?}");
        assert!(!said.stderr.contains("panicked"), "{said:?}");
        let found = std::panic::catch_unwind(|| Server::start(&dir)).map(|server| {
            let mut client = server.client(&one.rich.askers[0].token);
            assert!(matches!(
                client.put("new", b"bytes").status,
                200 | 401 | 403
            ));
            assert_eq!(server.stop().code(), Some(0));
        });
        println!("started: {}", found.is_ok());
    }
}

#[test]
fn what_is_no_database_is_left_untouched_with_a_sentence() {
    let mut random = Random::seeded();
    let rich = Rich::small();
    let at = |at: usize, bytes: &[u8]| {
        let mut file = rich.bytes.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let mut files = vec![
        ("of another program", at(68, b"abcd")),
        ("of the future", at(60, &[0, 0, 0, 99])),
        ("of a version before the first", at(60, &[0, 0, 0, 0])),
        (
            "of an earlier version, by its number",
            at(60, &[0, 0, 0, 2]),
        ),
        ("of a negative version", at(60, &[0xff; 4])),
        ("of pages of 512 bytes", at(16, &[2, 0])),
        ("of pages of 3 bytes", at(16, &[0, 3])),
        ("of pages of 64 KiB", at(16, &[0, 1])),
        ("of a format that is read only", at(18, &[3])),
        ("of a format that nobody reads", at(18, &[9, 9])),
        ("with reserved bytes", at(20, &[200])),
        ("of another encoding", at(56, &[0, 0, 0, 2])),
        ("of another schema format", at(44, &[0, 0, 0, 200])),
        ("a header", rich.bytes[..100].to_vec()),
        ("half a page", rich.bytes[..8_192].to_vec()),
        ("a page", rich.bytes[..16_384].to_vec()),
        ("text", b"hello, world\n".repeat(10_000)),
        (
            "UTF-16",
            "SQLite format 3\0"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>()
                .repeat(100),
        ),
        ("zeros", vec![0; 100_000]),
    ];
    for _ in 0..rounds(4) {
        files.push((
            "noise",
            noise(random.number(), random.below(200_000) as usize + 1),
        ));
        // Encrypted by some other program: ours by its header at most.
        let mut sealed = rich.bytes.clone();
        sealed[100..].copy_from_slice(&noise(random.number(), rich.bytes.len() - 100));
        files.push(("noise behind our header", sealed));
    }
    for (what, bytes) in files {
        println!("{what}");
        let dir = Dir::new();
        write(&dir, "", &bytes);
        for command in [
            &SERVE[..],
            &["token", "list"],
            &["verify"],
            &["verify", "--quick"],
            &["doctor"],
            &["backup", "b.db"],
        ] {
            // To who only reads it is a database like another.
            if what == "of a format that is read only" && command != SERVE {
                continue;
            }
            let said = dir.cli(command);
            let is_named =
                said.stderr.contains("cachesrv.db") || said.stdout.contains("cachesrv.db");
            assert!(
                said.code == Some(1) && is_named,
                "{what}: {command:?}: {said:?}"
            );
            assert!(
                !said.stderr.contains("panicked"),
                "{what}: {command:?}: {said:?}"
            );
            assert!(
                fs::read(dir.db()).expect("a file") == bytes,
                "{what}: {command:?} changed it"
            );
        }
    }
}

#[test]
fn what_is_no_file_is_named() {
    let dir = Dir::new();
    fs::create_dir(dir.join("directory")).expect("a directory");
    symlink("loop", dir.join("loop")).expect("a link");
    symlink("nowhere/x.db", dir.join("dangling")).expect("a link");
    symlink("directory", dir.join("link-to-directory")).expect("a link");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let made = run(Command::new("mkfifo")
        .arg(dir.join("fifo"))
        .env("PATH", path));
    assert_eq!(made.code, Some(0), "{made:?}");
    for name in [
        "directory",
        "loop",
        "dangling",
        "link-to-directory",
        "fifo",
        "/dev/zero",
        "/proc/self/mem",
    ] {
        for command in [
            &SERVE[..],
            &["token", "list"],
            &["verify"],
            &["doctor"],
            &["backup", "b.db"],
            &["restore", name, "--force"],
        ] {
            let said = dir.cli(&[command, &["--db", name]].concat());
            assert_eq!(said.code, Some(1), "{name}: {command:?}: {said:?}");
            let text = said.stdout.clone() + &said.stderr;
            // The server follows a link first, and names what it found there.
            let named = name.trim_start_matches("link-to-");
            assert!(
                text.contains(named) && !text.contains("panicked"),
                "{name}: {command:?}: {said:?}"
            );
        }
    }
}
