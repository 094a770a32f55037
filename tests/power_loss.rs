//! What a loss of power leaves: the real binary works on a directory while every call that changes its files is written
//! down (`tests/preload/trace.c`); then disks are made that hold what they may hold had power been lost at some
//! moment (`support::outage`), and each of them is opened and looked through.
//!
//! Guaranteed: the database opens and is sound, whatever was lost. With `durability.synchronous = full` all that
//! was acknowledged is there. With `normal` the newest uploads may be missing, never one that is older than one that is
//! there, nor one that is older than what a command did. A backup that was said to be made is whole, and a file
//! with the name of a backup is never half of one. While a backup is restored, the old database is there or the new one.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use cachesrv::store::{Admin, Verifier};
use rusqlite::Connection;
use support::dir::{BINARY, run};
use support::outage::{Disk, Loss, Naming};
use support::trace::{Event, Trace, Tracer};
use support::{Dir, Random, Server, Token, eventually, noise, rounds};

const KIB: usize = 1024;

/// The backup that is made and restored.
const BACKUP: &str = "backup.db";

/// An upload. Times are numbers of events.
#[derive(Clone)]
struct Put {
    hash: u64,
    size: usize,
    sent: usize,
    acknowledged: usize,
}

/// What a command did, with the events before it began and when it had said that it was done.
struct Deed {
    what: What,
    began: usize,
    ended: usize,
}

enum What {
    /// A token was made, with this id.
    Made(String),
    Revoked(String),
    Purged(u64),
    /// A purge of everything was interrupted, and said what it had removed.
    PurgedSome,
    BackedUp,
    Restored,
    /// The server was stopped.
    Stopped,
}

/// A directory whose files are watched, and what was done with it.
struct Lab {
    tracer: Tracer,
    dir: Dir,
    synchronous: &'static str,
    puts: Arc<Mutex<Vec<Put>>>,
    deeds: Vec<Deed>,
}

/// What is in a database.
#[derive(Default, Debug, PartialEq, Eq)]
struct Seen {
    /// Hashes and digests.
    entries: BTreeMap<u64, Vec<u8>>,
    tokens: BTreeSet<String>,
    revoked: BTreeSet<String>,
    /// The hashes in the backup.
    backup: Option<BTreeSet<u64>>,
}

impl Lab {
    fn new(synchronous: &'static str) -> Self {
        let dir = Dir::new();
        Self {
            tracer: Tracer::new(dir.path()),
            dir,
            synchronous,
            puts: Arc::default(),
            deeds: Vec::new(),
        }
    }

    /// Runs a command, which succeeds; what it says on stdout.
    fn cli(&mut self, args: &[&str], what: impl FnOnce(&str) -> What) -> String {
        let began = self.tracer.now();
        let mut command = self.dir.command(BINARY);
        let said = run(self.tracer.follow(command.args(args))).done();
        let ended = self.tracer.now();
        let what = what(&said);
        self.deeds.push(Deed { what, began, ended });
        said
    }

    fn token(&mut self) -> Token {
        let id = |said: &str| said[5..17].to_owned();
        let said = self.cli(&["token", "create", "--write"], |said| What::Made(id(said)));
        Token {
            id: id(&said),
            secret: said.trim_end().to_owned(),
        }
    }

    fn serve(&self, max_size: &str) -> Server {
        let mut command = self.dir.command(BINARY);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--set"])
            .arg(format!("durability.synchronous={}", self.synchronous))
            .args(["--set", &format!("eviction.max_size={max_size}")]);
        Server::start_command(self.tracer.follow(&mut command))
    }

    fn stop(&mut self, server: Server) {
        let began = self.tracer.now();
        assert_eq!(server.stop().code(), Some(0));
        let (what, ended) = (What::Stopped, self.tracer.now());
        self.deeds.push(Deed { what, began, ended });
    }

    /// Interrupts a purge of everything after its first step.
    fn interrupt_a_purge(&mut self) {
        let began = self.tracer.now();
        let mut command = self.dir.command(BINARY);
        let command = command.args(["purge", "--since", "1h"]);
        let purge = self.tracer.follow(command.stderr(Stdio::null()));
        let purge = purge.spawn().expect("it starts");
        eventually("a part of it is gone", || {
            let gone = self
                .dir
                .number("SELECT count(*) FROM artifacts WHERE state <> 'stored'");
            (gone > 0).then_some(())
        });
        let interrupt = format!("kill -INT {}", purge.id());
        let done = Command::new("sh").args(["-c", &interrupt]).status();
        assert!(done.expect("sh starts").success());
        purge.wait_with_output().expect("it ends");
        let (what, ended) = (What::PurgedSome, self.tracer.now());
        self.deeds.push(Deed { what, began, ended });
    }

    /// Stores an entry under each of these numbers, with sizes in turn.
    fn store(&self, server: &Server, token: &Token, hashes: std::ops::Range<u64>, sizes: &[usize]) {
        let mut client = server.client(token);
        for hash in hashes {
            let size = sizes[hash as usize % sizes.len()] + hash as usize % 7;
            let sent = self.tracer.now();
            let answer = client.put(&hash.to_string(), &noise(hash, size));
            let acknowledged = self.tracer.now();
            assert_eq!(answer.status, 200, "{}", answer.head);
            self.puts.lock().unwrap().push(Put {
                hash,
                size,
                sent,
                acknowledged,
            });
        }
    }

    /// The same with several clients, each of which has a million of numbers, from the first of them on.
    fn burst(&self, server: &Server, token: &Token, first: u64, count: u64, sizes: &[usize]) {
        std::thread::scope(|scope| {
            for client in 0..3 {
                let first = client * 1_000_000 + first;
                scope.spawn(move || self.store(server, token, first..first + count, sizes));
            }
        });
    }

    fn wait_until_the_log_is_folded(&self) {
        let log = self.dir.join("cachesrv.db-wal");
        eventually("the log is folded", || {
            (fs::metadata(&log).expect("a log").len() == 0).then_some(())
        });
    }

    /// What there is to be lost.
    fn finish(self) -> Past {
        let trace = self.tracer.finish();
        let puts = std::mem::take(&mut *self.puts.lock().unwrap());
        let digest = |put: &Put| *blake3::hash(&noise(put.hash, put.size)).as_bytes();
        Past {
            digests: puts.iter().map(|put| (put.hash, digest(put))).collect(),
            trace,
            puts,
            deeds: self.deeds,
            is_full: self.synchronous == "full",
        }
    }
}

/// What was done, and what it did to the files.
struct Past {
    trace: Trace,
    puts: Vec<Put>,
    digests: BTreeMap<u64, [u8; 32]>,
    deeds: Vec<Deed>,
    is_full: bool,
}

impl Past {
    /// Moments at which power is lost: a third of them anywhere, a third of them close to a sync, a truncation or
    /// a change of names, a third of them while a command is at work; and the moments at which one was done.
    fn moments(&self, count: u64, random: &mut Random) -> Vec<usize> {
        let events = &self.trace.events;
        let is_special = |&at: &usize| !matches!(events[at], Event::Write { .. });
        let special: Vec<usize> = (0..events.len()).filter(is_special).collect();
        let mut below = |end: usize| random.below(end as u64) as usize;
        let moment = |index| match index % 3 {
            0 => below(events.len() + 1),
            1 => (special[below(special.len())] + below(3)).min(events.len()),
            _ => {
                let deed = &self.deeds[below(self.deeds.len())];
                deed.began + below(deed.ended - deed.began + 1)
            }
        };
        let mut moments: Vec<usize> = (0..count).map(moment).collect();
        moments.extend(self.deeds.iter().map(|deed| deed.ended));
        moments.sort_unstable();
        moments
    }

    /// Loses power at so many moments, in several ways at each, on a disk that does not hear syncs of files with
    /// names that end so; the first thing that is not as it was promised.
    fn lose(
        &self,
        count: u64,
        deaf: Option<&'static str>,
        random: &mut Random,
    ) -> Result<(), String> {
        let mut disk = Disk::new(&self.trace, deaf);
        let before = self.before_restore(random);
        for (index, at) in self.moments(count, random).into_iter().enumerate() {
            disk.go_to(at);
            let killed = look_at(&disk, Loss::Nothing, Naming::Any, random)
                .map_err(|error| format!("killed at {at}: {error}"))?;
            let ways = [Loss::All, Loss::Tails, Loss::Any];
            for loss in [ways[index % ways.len()], Loss::Any] {
                let naming = [Naming::InOrder, Naming::Any][random.below(2) as usize];
                look_at(&disk, loss, naming, random)
                    .and_then(|seen| self.judge(at, &killed, &seen, before.as_ref()))
                    .map_err(|error| format!("{loss:?} lost at {at}, names {naming:?}: {error}"))?;
            }
        }
        Ok(())
    }

    /// What there was before a backup was restored.
    fn before_restore(&self, random: &mut Random) -> Option<Seen> {
        let mut disk = Disk::new(&self.trace, None);
        disk.go_to(self.restore()?.began);
        Some(look_at(&disk, Loss::Nothing, Naming::Any, random).expect("a database"))
    }

    fn restore(&self) -> Option<&Deed> {
        let mut all = self.deeds.iter();
        all.find(|deed| matches!(deed.what, What::Restored))
    }

    /// Whether what is seen after power was lost is what was promised, given what is seen after a kill.
    fn judge(
        &self,
        at: usize,
        killed: &Seen,
        seen: &Seen,
        before: Option<&Seen>,
    ) -> Result<(), String> {
        if let (Some(deed), Some(before)) = (self.restore(), before)
            && (deed.began..deed.ended).contains(&at)
        {
            let hashes: BTreeSet<u64> = seen.entries.keys().copied().collect();
            return if seen.entries == before.entries || Some(hashes) == before.backup {
                Ok(())
            } else {
                Err("neither the old database nor the backup".to_owned())
            };
        }
        self.judge_entries(at, killed, seen)?;
        self.judge_deeds(at, killed, seen)
    }

    fn judge_entries(&self, at: usize, killed: &Seen, seen: &Seen) -> Result<(), String> {
        for (hash, digest) in &seen.entries {
            let sent = self
                .digests
                .get(hash)
                .is_some_and(|sent| sent[..] == digest[..]);
            if !sent {
                return Err(format!("{hash} is not what was sent"));
            }
        }
        // Everything that was acknowledged until then is safe.
        let by_deeds = self.deeds.iter().filter(|deed| deed.ended <= at);
        let by_deeds = by_deeds.map(|deed| deed.began).max().unwrap_or(0);
        let there = |put: &&Put| seen.entries.contains_key(&put.hash);
        let by_newer = self.puts.iter().filter(there).map(|put| put.sent).max();
        let safe_until = if self.is_full {
            at
        } else {
            by_deeds.max(by_newer.unwrap_or(0))
        };
        // What is not there after a kill was evicted.
        let lost = self.puts.iter().find(|put| {
            put.acknowledged <= safe_until.min(at)
                && killed.entries.contains_key(&put.hash)
                && !seen.entries.contains_key(&put.hash)
        });
        match lost {
            None => Ok(()),
            Some(put) => Err(format!(
                "{} was acknowledged at {} and is lost; safe until {safe_until}",
                put.hash, put.acknowledged
            )),
        }
    }

    fn judge_deeds(&self, at: usize, killed: &Seen, seen: &Seen) -> Result<(), String> {
        for deed in self.deeds.iter().filter(|deed| deed.ended <= at) {
            let kept = match &deed.what {
                What::Made(id) => !killed.tokens.contains(id) || seen.tokens.contains(id),
                What::Revoked(id) => !killed.revoked.contains(id) || seen.revoked.contains(id),
                What::Purged(hash) => {
                    killed.entries.contains_key(hash) || !seen.entries.contains_key(hash)
                }
                What::PurgedSome => {
                    let mut hashes = seen.entries.keys();
                    hashes.all(|hash| killed.entries.contains_key(hash))
                }
                What::BackedUp => killed.backup.is_some() && seen.backup == killed.backup,
                What::Restored | What::Stopped => true,
            };
            if !kept {
                let what = match &deed.what {
                    What::Made(id) => format!("token {id} is gone"),
                    What::Revoked(id) => format!("token {id} is not revoked"),
                    What::Purged(hash) => format!("{hash} is back"),
                    What::PurgedSome => "something that was purged is back".to_owned(),
                    _ => "the backup is lost".to_owned(),
                };
                return Err(format!("{what}, of {}", deed.ended));
            }
        }
        Ok(())
    }
}

/// Makes what is left of a disk into files, and looks at them.
fn look_at(disk: &Disk, loss: Loss, naming: Naming, random: &mut Random) -> Result<Seen, String> {
    let place = state_directory();
    disk.lose(loss, naming, random, place.path());
    let backup = place.path().join(BACKUP);
    let database = place.path().join("cachesrv.db");
    // A backup is whole as it is.
    let backup = if backup.exists() {
        Some(read(&backup, loss != Loss::Nothing)?)
    } else {
        None
    };
    // As the next start does, which also brings an unfinished migration to its end.
    drop(Admin::open_or_create(&database).map_err(|error| error.to_string())?);
    let mut seen = read(&database, loss != Loss::Nothing)?;
    seen.backup = backup.map(|backup| backup.entries.into_keys().collect());
    Ok(seen)
}

/// What is in the database at this path, which must be sound.
fn read(path: &Path, verify: bool) -> Result<Seen, String> {
    if verify {
        let verifier = Verifier::open(path).map_err(|error| error.to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let verdict = verifier.run(false, &stop, &mut |_| {});
        let verdict = verdict.map_err(|error| error.to_string())?;
        if !verdict.is_ok() {
            return Err(format!("{verdict:?}"));
        }
    }
    let connection = support::dir::sqlite(path);
    query(&connection).map_err(|error| error.to_string())
}

fn query(connection: &Connection) -> rusqlite::Result<Seen> {
    let mut seen = Seen::default();
    let mut entries = connection
        .prepare("SELECT CAST(hash AS INTEGER), digest FROM artifacts WHERE state = 'stored'")?;
    let mut rows = entries.query([])?;
    while let Some(row) = rows.next()? {
        let hash: i64 = row.get(0)?;
        seen.entries.insert(hash as u64, row.get(1)?);
    }
    let mut tokens = connection.prepare("SELECT public_id, revoked_at_ms FROM tokens")?;
    let mut rows = tokens.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        if row.get::<_, Option<i64>>(1)?.is_some() {
            seen.revoked.insert(id.clone());
        }
        seen.tokens.insert(id);
    }
    Ok(seen)
}

/// In memory where there is enough of it: nothing here has to survive, and each look syncs.
fn state_directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let free = rustix::fs::statvfs(&memory).map_or(0, |memory| memory.f_bavail * memory.f_frsize);
    let place = if free > 1 << 30 {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(place).expect("a temporary directory")
}

const SIZES: [usize; 6] = [100, 20 * KIB, 300, 128 * KIB, 4 * KIB, 400 * KIB];

/// Everything that happens in the life of a database.
fn life(synchronous: &'static str) -> Past {
    let mut lab = Lab::new(synchronous);
    let token = lab.token();
    let server = lab.serve("6MiB");
    lab.burst(&server, &token, 0, 20, &SIZES);
    let other = lab.token();
    lab.cli(&["purge", "--hash", "1"], |_| What::Purged(1));
    lab.burst(&server, &token, 100, 10, &SIZES);
    let id = other.id.clone();
    lab.cli(&["token", "revoke", &other.id], |_| What::Revoked(id));
    lab.wait_until_the_log_is_folded();
    lab.burst(&server, &token, 200, 10, &SIZES);
    lab.cli(&["backup", BACKUP], |_| What::BackedUp);
    lab.burst(&server, &token, 300, 10, &SIZES);
    lab.stop(server);
    lab.cli(&["restore", BACKUP, "--force"], |_| What::Restored);
    let server = lab.serve("6MiB");
    lab.burst(&server, &token, 400, 5, &SIZES);
    lab.stop(server);
    lab.finish()
}

#[test]
fn a_database_can_be_made_again_when_power_is_lost_while_it_is_made() {
    let mut random = Random::seeded();
    let mut lab = Lab::new("full");
    lab.token();
    lab.token();
    let past = lab.finish();
    assert_eq!(past.lose(rounds(200), None, &mut random), Ok(()));
}

#[test]
fn with_full_nothing_that_was_acknowledged_is_lost() {
    let mut random = Random::seeded();
    let lost = life("full").lose(rounds(60), None, &mut random);
    assert_eq!(lost, Ok(()));
}

#[test]
fn with_normal_only_the_newest_uploads_are_lost() {
    let mut random = Random::seeded();
    let lost = life("normal").lose(rounds(60), None, &mut random);
    assert_eq!(lost, Ok(()));
}

/// Under load the log is folded, in parts, while others write to it, and begun anew.
#[test]
fn the_log_can_be_cut_at_any_moment_while_it_is_folded_under_load() {
    let mut random = Random::seeded();
    let mut lab = Lab::new("normal");
    let token = lab.token();
    let server = lab.serve("16MiB");
    // More than the length from which on it is folded.
    lab.burst(&server, &token, 0, 40, &[700 * KIB, 900 * KIB, 300]);
    lab.stop(server);
    let past = lab.finish();
    assert_eq!(past.lose(rounds(12), None, &mut random), Ok(()));
}

#[test]
fn what_an_interrupted_purge_removed_stays_removed() {
    let mut random = Random::seeded();
    let mut lab = Lab::new("normal");
    let token = lab.token();
    let server = lab.serve("1GiB");
    lab.burst(&server, &token, 0, 400, &[10]);
    lab.interrupt_a_purge();
    lab.stop(server);
    let past = lab.finish();
    assert_eq!(past.lose(rounds(20), None, &mut random), Ok(()));
}

/// Nothing helps against a disk that says that it has written what it has not. That the checks of this file see what
/// that takes says that they look.
#[test]
fn a_sync_that_does_nothing_is_noticed() {
    let mut random = Random::seeded();
    let past = life("full");
    for deaf in ["-wal", "cachesrv.db", "/"] {
        let lost = past.lose(1000, Some(deaf), &mut random);
        println!("{deaf}: {lost:?}");
        assert!(lost.is_err(), "syncs of {deaf} are not needed");
    }
}
