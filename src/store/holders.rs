//! Which process holds a lock on the database, as far as the kernel tells (`/proc/locks`), so that a person learns
//! whom to ask. Elsewhere, and across containers, nobody is known.

use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use super::file::sibling;

/// The bytes of the `-shm` file that SQLite locks (<https://sqlite.org/walformat.html>, 2.3): while somebody writes,
/// and for each snapshot that somebody reads.
const WRITE_BYTE: u64 = 120;
const READ_BYTES: RangeInclusive<u64> = 123..=127;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// What it runs, if it says so.
    pub name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// The server that holds the database at `db`.
pub fn server_of(db: &Path) -> Option<Holder> {
    let is_meant = |lock: &Lock<'_>| lock.kind == "FLOCK" && lock.is_write;
    holders(db, is_meant).into_iter().next()
}

/// Who writes to the database at `db` at this moment.
pub fn writer_of(db: &Path) -> Option<Holder> {
    let is_meant = |lock: &Lock<'_>| lock.is_write && lock.covers(WRITE_BYTE);
    holders(&shm(db), is_meant).into_iter().next()
}

/// Who reads a snapshot of the database at `db` at this moment: what keeps the log from being folded.
pub fn readers_of(db: &Path) -> Vec<Holder> {
    let is_meant =
        |lock: &Lock<'_>| !lock.is_write && READ_BYTES.into_iter().any(|byte| lock.covers(byte));
    holders(&shm(db), is_meant)
}

fn shm(db: &Path) -> std::path::PathBuf {
    sibling(&super::file::followed(db), "-shm")
}

/// A line of `/proc/locks`: `2: POSIX  ADVISORY  READ 1234 08:02:5678 124 124`.
struct Lock<'l> {
    kind: &'l str,
    is_write: bool,
    pid: u32,
    file: &'l str,
    first: u64,
    last: u64,
}

impl<'l> Lock<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        // One that waits for its lock has `->` here.
        let kind = words.next().filter(|kind| *kind != "->")?;
        let is_write = words.nth(1)? == "WRITE";
        let pid = words.next()?.parse().ok().filter(|pid| *pid > 0)?;
        let file = words.next()?;
        let first = words.next()?.parse().ok()?;
        let last = words.next()?.parse().unwrap_or(u64::MAX);
        Some(Self {
            kind,
            is_write,
            pid,
            file,
            first,
            last,
        })
    }

    fn covers(&self, byte: u64) -> bool {
        (self.first..=self.last).contains(&byte)
    }
}

fn holders(path: &Path, is_meant: impl Fn(&Lock<'_>) -> bool) -> Vec<Holder> {
    let (Ok(file), Ok(locks)) = (fs::metadata(path), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let device = file.dev();
    let name = format!("{:02x}:{:02x}:{}", major(device), minor(device), file.ino());
    let found = locks.lines().filter_map(Lock::parse);
    let found = found.filter(|lock| lock.file == name && is_meant(lock));
    let mut pids: Vec<u32> = found.map(|lock| lock.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    let holder = |pid| Holder {
        pid,
        name: fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()
            .map(|name| name.trim_end().to_owned()),
    };
    pids.into_iter().map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::super::*;
    use super::*;

    #[test]
    fn a_line_says_who_holds_what_and_one_that_waits_holds_nothing() {
        let lock = Lock::parse("2: POSIX  ADVISORY  READ 1234 08:02:5678 124 126").expect("a lock");
        assert_eq!(
            (lock.kind, lock.is_write, lock.pid, lock.file),
            ("POSIX", false, 1234, "08:02:5678")
        );
        assert!(lock.covers(124) && lock.covers(126) && !lock.covers(127));
        let lock = Lock::parse("1: FLOCK  ADVISORY  WRITE 7 08:02:5678 0 EOF").expect("a lock");
        assert!(lock.is_write && lock.covers(u64::MAX));
        for line in [
            "",
            "2: -> POSIX  ADVISORY  WRITE 1234 08:02:5678 120 120",
            "2: POSIX  ADVISORY  READ 0 08:02:5678 124 126",
        ] {
            assert!(Lock::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn server_writer_and_readers_are_found() {
        let fixture = Fixture::new();
        let me = std::process::id();
        let path = fixture.path();
        assert_eq!(server_of(&path).expect("a server").pid, me);
        let writer = Connection::open(&path).expect("opened");
        writer.execute_batch("BEGIN IMMEDIATE").expect("locked");
        assert_eq!(writer_of(&path).expect("a writer").pid, me);
        writer
            .execute_batch("ROLLBACK; BEGIN; SELECT count(*) FROM tokens")
            .expect("a snapshot");
        assert_eq!(readers_of(&path).first().expect("a reader").pid, me);
        let link = path.with_file_name("link.db");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert_eq!(readers_of(&link).first().expect("a reader").pid, me);
    }
}
