//! Everything at once, and killed: uploads, downloads, eviction, purges, tokens, backups and restores, each of them ended
//! by SIGKILL at any moment, with the start and the stop of the server.
//!
//! Guaranteed after a kill: what was acknowledged is there and whole unless eviction took it; of everything else there
//! is all or nothing; an upload that was interrupted can be made again; nothing else is left in the file; the counters
//! are right; the file is sound. A migration is done or is done by the next start, a database that is being made is made
//! by the next start, a restore leaves the old database or the new one, and a backup is whole or has not its name.
//!
//! `scripts/survive.sh crash --rounds 500` makes more rounds.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::book::{self, Book, Known, Stored, Tokens, Written};
use support::dir::BINARY;
use support::trace::Tracer;
use support::{Client, Dir, Random, Server, old, rounds};

const SIGKILL: i32 = 9;
const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// Around the borders of what is stored how: in one page, in one chunk, in one batch. Most entries are of the first.
const SMALL: [usize; 6] = [0, 1, 295, 15 * KIB, 15 * KIB + 1, 64 * KIB];
const LARGE: [usize; 8] = [
    256 * KIB - 1,
    256 * KIB,
    256 * KIB + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    3 * MIB,
    5 * MIB,
];

/// What the server of the load keeps: a few hundred of these entries.
const MAX_SIZE: &str = "eviction.max_size=24MiB";

/// The longest that a load goes on: eviction begins every second.
const LOAD_MS: u64 = 1500;

/// From the start or the wish to stop until the kill, at the most; a debug build needs about so long.
const BRIEF_MS: u64 = 60;

/// The same for commands.
const COMMAND_MS: u64 = 150;

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    KilledInItsStop,
    /// Stopped, and a restore is killed.
    Restored,
}

/// One database, the book about it, and what happens to it.
struct Torture {
    dir: Dir,
    tokens: Tokens,
    book: Mutex<Book>,
    random: Random,
    round: u64,
    interrupted: usize,
}

/// What the threads of one load share.
struct Load<'t> {
    server: &'t Server,
    tokens: &'t Tokens,
    book: &'t Mutex<Book>,
    dir: &'t Dir,
    acknowledged: AtomicUsize,
    is_over: AtomicBool,
}

impl Load<'_> {
    /// Stores one entry after the other until the server is gone.
    fn store(&self, scope: Option<&str>, first: u64, mut random: Random) {
        let mut written = Written {
            scope: scope.map(str::to_owned),
            size: 0,
            known: Known::Unsure,
        };
        let Some(mut client) = self.client(&written) else {
            return;
        };
        for number in first.. {
            written.size = if random.below(4) > 0 {
                SMALL[random.below(SMALL.len() as u64) as usize]
            } else {
                LARGE[random.below(LARGE.len() as u64) as usize]
            };
            self.note(number, &written, Known::Unsure);
            let Ok(answer) = client.try_put(&number.to_string(), &written.bytes(number)) else {
                return;
            };
            assert_eq!(answer.status, 200, "{}", answer.head);
            self.note(number, &written, Known::Stored);
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Whoever asks for that, unless the server is gone.
    fn client(&self, written: &Written) -> Option<Client> {
        let connected = self.tokens.try_client(self.server.address(), written);
        let is_over = self.is_over.load(Ordering::SeqCst);
        assert!(connected.is_ok() || is_over, "it accepts until it is over");
        connected.ok()
    }

    fn note(&self, number: u64, written: &Written, known: Known) {
        let written = Written {
            known,
            ..written.clone()
        };
        self.book.lock().unwrap().entries.insert(number, written);
    }

    /// Fetches what is in the book until the server is gone: all of it or a miss.
    fn fetch(&self, mut random: Random) {
        while !self.is_over.load(Ordering::SeqCst) {
            let Some((number, written)) = self.any(&mut random) else {
                continue;
            };
            let Some(mut client) = self.client(&written) else {
                return;
            };
            let path = client.path(&number.to_string());
            let head = client.head("GET", &path, &[]);
            let sent = client.raw.try_send(head);
            let Ok(answer) = sent.and_then(|()| client.raw.try_answer(true)) else {
                return;
            };
            match answer.status {
                404 => {}
                200 => assert!(
                    answer.body == written.bytes(number),
                    "{number} is not whole"
                ),
                status => panic!("{status} for {number}"),
            }
        }
    }

    /// Any entry of the book.
    fn any(&self, random: &mut Random) -> Option<(u64, Written)> {
        let book = self.book.lock().unwrap();
        let count = book.entries.len() as u64;
        let nth = random.below(count.max(1)) as usize;
        let found = book.entries.iter().nth(nth);
        found.map(|(number, written)| (*number, written.clone()))
    }

    /// Runs one command after the other, and kills some of them.
    fn administer(&self, mut random: Random) {
        while !self.is_over.load(Ordering::SeqCst) {
            match random.below(4) {
                0 => self.purge(&mut random),
                1 => self.change_tokens(&mut random),
                2 => {
                    ended(self.dir, &["gc", "--set", MAX_SIZE], &mut random);
                }
                _ => {
                    ended(self.dir, &["backup", "chore.db", "--force"], &mut random);
                }
            }
        }
    }

    fn purge(&self, random: &mut Random) {
        let Some((number, written)) = self.any(random) else {
            return;
        };
        // The upload would change what the book says of it.
        if written.known != Known::Stored {
            return;
        }
        self.note(number, &written, Known::Unsure);
        let args = ["purge", "--hash", &number.to_string()];
        if ended(self.dir, &args, random).is_some() {
            self.note(number, &written, Known::Purged);
        }
    }

    fn change_tokens(&self, random: &mut Random) {
        let Some(made) = ended(self.dir, &["token", "create", "--read"], random) else {
            return;
        };
        let secret = String::from_utf8(made.stdout).expect("a token");
        let id = &secret[5..17];
        let state = || {
            let sql = format!("SELECT revoked_at_ms IS NULL FROM tokens WHERE public_id = '{id}'");
            self.dir.number(&sql)
        };
        assert_eq!(state(), 1, "a token that was made");
        if ended(self.dir, &["token", "revoke", id], random).is_some() {
            assert_eq!(state(), 0, "a token that was revoked");
        }
    }
}

/// Starts a command that a person would start.
fn spawn(dir: &Dir, args: &[&str]) -> Child {
    let mut command = dir.command(BINARY);
    let command: &mut Command = command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

/// Waits so long, or until the child has ended, and kills it.
fn kill_after(child: &mut Child, wait: Duration) {
    let end = Instant::now() + wait;
    while Instant::now() < end && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    // It may have ended.
    let _ = child.kill();
}

/// Some moment before that.
fn within(random: &mut Random, ms: u64) -> Duration {
    Duration::from_micros(random.below(ms * 1000))
}

/// Runs a command, or kills it in one of three times; what it said if it came to its end.
fn ended(dir: &Dir, args: &[&str], random: &mut Random) -> Option<Output> {
    let mut child = spawn(dir, args);
    if random.below(3) == 0 {
        kill_after(&mut child, within(random, COMMAND_MS));
    }
    let output = child.wait_with_output().expect("its output");
    // The server may be gone for a moment: a command that has to wait for its file says so.
    assert!(
        output.status.code().is_none_or(|code| code == 0),
        "{args:?}: {output:?}"
    );
    output.status.success().then_some(output)
}

impl Torture {
    fn new(mut random: Random) -> Self {
        let dir = Dir::new();
        let tokens = Tokens {
            trusted: dir.token("write"),
            isolated: dir.token("isolated"),
        };
        Self {
            tokens,
            dir,
            book: Mutex::default(),
            random: random.fork(),
            round: 0,
            interrupted: 0,
        }
    }

    fn round(&mut self) {
        self.round += 1;
        let end = [
            End::Killed,
            End::Killed,
            End::KilledInItsStop,
            End::Restored,
        ][self.random.below(4) as usize];
        let server = Server::start_with(&self.dir, &["--set", MAX_SIZE]);
        self.load(&server, end);
        let restored = match end {
            End::Killed => None,
            End::KilledInItsStop => {
                self.kill_in_its_stop(server);
                None
            }
            End::Restored => Some(self.kill_a_restore(server)),
        };
        for _ in 0..self.random.below(3) {
            let wait = within(&mut self.random, BRIEF_MS);
            self.kill_while_it_starts(wait);
        }
        if self.random.below(3) == 0 {
            // As it was left.
            self.dir.cli(&["verify"]).done();
        }
        self.look(restored);
    }

    /// Works with the server, and kills it at the end if that is how it ends.
    fn load(&mut self, server: &Server, end: End) {
        let load = Load {
            server,
            tokens: &self.tokens,
            book: &self.book,
            dir: &self.dir,
            acknowledged: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        };
        let (load, random) = (&load, &mut self.random);
        let first = self.round * 100_000;
        let scope = format!("pr-{}", self.round % 5);
        std::thread::scope(|threads| {
            let mut forks = || random.fork();
            let [one, two, three, four, five] = std::array::from_fn(|_| forks());
            threads.spawn(move || load.store(None, first, one));
            threads.spawn(move || load.store(None, first + 20_000, two));
            threads.spawn(move || load.store(Some(&scope), first + 40_000, three));
            threads.spawn(move || load.fetch(four));
            threads.spawn(move || load.administer(five));
            // Right after an acknowledgement, or any time.
            let enough = random.below(30) as usize;
            let until = Instant::now() + within(random, LOAD_MS);
            let by_count = random.below(2) == 0;
            while if by_count {
                load.acknowledged.load(Ordering::SeqCst) < enough
            } else {
                Instant::now() < until
            } {
                std::thread::sleep(Duration::from_micros(100));
            }
            load.is_over.store(true, Ordering::SeqCst);
            if end == End::Killed {
                server.signal("KILL");
            }
        });
    }

    fn kill_in_its_stop(&mut self, server: Server) {
        let wait = within(&mut self.random, BRIEF_MS);
        server.terminate();
        std::thread::sleep(wait);
        let _ = server.kill();
    }

    /// The entries before, and those of the backup.
    fn kill_a_restore(&mut self, server: Server) -> (Stored, Stored) {
        self.dir.cli(&["backup", "restored.db", "--force"]).done();
        let backup = support::dir::sqlite(&self.dir.join("restored.db"));
        let backup = book::look(&backup).0;
        let mut client = server.client(&self.tokens.trusted);
        let number = self.round * 100_000 + 99_999;
        let written = Written {
            scope: None,
            size: 400 * KIB,
            known: Known::Stored,
        };
        assert_eq!(
            client
                .put(&number.to_string(), &written.bytes(number))
                .status,
            200
        );
        self.book.lock().unwrap().entries.insert(number, written);
        assert_eq!(server.stop().code(), Some(0));
        let old = book::look(&self.dir.sqlite()).0;
        let mut restore = spawn(&self.dir, &["restore", "restored.db", "--force"]);
        let wait = within(&mut self.random, 2 * COMMAND_MS);
        kill_after(&mut restore, wait);
        restore.wait().expect("it ends");
        (old, backup)
    }

    fn kill_while_it_starts(&self, wait: Duration) {
        let args = ["serve", "--listen", "127.0.0.1:0", "--set", MAX_SIZE];
        let mut serve = spawn(&self.dir, &args);
        kill_after(&mut serve, wait);
        serve.wait().expect("it ends");
    }

    /// Holds the file to its promises.
    fn look(&mut self, restored: Option<(Stored, Stored)>) {
        let server = Server::start(&self.dir);
        let address = server.address();
        let client = |written: &Written| self.tokens.client(address, written);
        let book = self.book.get_mut().unwrap();
        match restored {
            None => {
                let absent = book.compare(&self.dir.sqlite());
                self.interrupted += absent.len();
                book::store_again(client, book, absent);
            }
            Some((old, backup)) => book.take_over(&self.dir.sqlite(), &old, &backup),
        }
        book::serves(client, &book.entries);
        book::nothing_else_is_left(&self.dir);
        assert_eq!(server.stop().code(), Some(0));
        self.dir.cli(&["verify"]).done();
        if fs::exists(self.dir.join("chore.db")).expect("a directory") {
            self.dir.cli(&["verify", "--db", "chore.db"]).done();
        }
    }
}

#[test]
fn a_killed_server_loses_nothing_that_it_acknowledged() {
    let mut torture = Torture::new(Random::seeded());
    for _ in 0..rounds(10) {
        torture.round();
        println!("round {} is over", torture.round);
    }
    let kept = torture.book.get_mut().unwrap().entries.len();
    let interrupted = torture.interrupted;
    println!("{kept} entries are kept, {interrupted} uploads were interrupted");
    assert!(interrupted > 0, "no upload was: the test tests nothing");
}

/// A command, killed after any of the calls by which it changes files. How many calls there are is learned from a run that
/// is not killed.
struct Killed {
    template: Dir,
    args: &'static [&'static str],
    calls: usize,
}

impl Killed {
    /// Begins each run with what is in `template`.
    fn new(args: &'static [&'static str], template: Dir) -> Self {
        let mut killed = Self {
            template,
            args,
            calls: 0,
        };
        killed.calls = killed.run(0).1;
        killed
    }

    /// Runs it in a directory of its own, and kills it after so many calls; 0 is none.
    fn run(&self, after: usize) -> (Dir, usize) {
        let dir = Dir::new();
        for name in self.template.files() {
            fs::copy(self.template.join(&name), dir.join(&name)).expect("a copy");
        }
        let tracer = Tracer::new(dir.path());
        tracer.kill_at(after);
        let mut command = dir.command(BINARY);
        let command = tracer.follow(command.args(self.args));
        let output = command.output().expect("it starts");
        let signal = (after > 0).then_some(SIGKILL);
        assert_eq!(output.status.signal(), signal, "{output:?}");
        (dir, tracer.now())
    }

    /// So often, after any call.
    fn sometimes(&self, count: u64, random: &mut Random, mut look: impl FnMut(Dir)) {
        // All of them, if that is not more.
        let all = self.calls as u64;
        for index in 0..count.min(all) {
            let after = if count < all {
                random.below(all)
            } else {
                index
            };
            println!("{:?}: killed after {} of {all} calls", self.args, after + 1);
            look(self.run(after as usize + 1).0);
        }
    }
}

#[test]
fn a_database_is_made_again_whenever_its_making_was_killed() {
    let mut random = Random::seeded();
    let killed = Killed::new(&["token", "create", "--write"], Dir::new());
    let mut by_server = false;
    killed.sometimes(rounds(20), &mut random, |dir| {
        // By the server, or by the command.
        by_server = !by_server;
        let server = by_server.then(|| Server::start(&dir));
        let token = dir.token("write");
        let server = server.unwrap_or_else(|| Server::start(&dir));
        assert_eq!(server.client(&token).put("1", b"bytes").status, 200);
        book::nothing_else_is_left(&dir);
    });
}

#[test]
fn a_migration_that_was_killed_is_done_by_the_next_start() {
    let mut random = Random::seeded();
    for version in [1, 2] {
        let dir = Dir::new();
        old::make(&dir, version);
        let killed = Killed::new(&["token", "create", "--read"], dir);
        killed.sometimes(rounds(12), &mut random, |dir| {
            let server = Server::start(&dir);
            old::is_served(&dir, &server, version);
            book::nothing_else_is_left(&dir);
            assert_eq!(server.stop().code(), Some(0));
            dir.cli(&["verify"]).done();
        });
    }
}

/// A directory with a database, the backup of another, and what is in each.
fn with_backup() -> Dir {
    let dir = Dir::new();
    old::make(&dir, 2);
    dir.cli(&["backup", "backup.db"]).done();
    let token = dir.token("write");
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("9999", b"newer").status, 200);
    // Its log is left beside it.
    server.kill();
    dir
}

#[test]
fn a_restore_that_was_killed_leaves_the_old_database_or_the_new_one() {
    let mut random = Random::seeded();
    let killed = Killed::new(&["restore", "backup.db", "--force"], with_backup());
    let (old, new) = {
        let (dir, _) = killed.run(1);
        let stored = |path| book::look(&support::dir::sqlite(&dir.join(path))).0;
        (stored("cachesrv.db"), stored("backup.db"))
    };
    assert_eq!(old.len(), new.len() + 1);
    killed.sometimes(rounds(12), &mut random, |dir| {
        dir.cli(&["verify"]).done();
        let stored = book::look(&dir.sqlite()).0;
        assert!(
            stored == old || stored == new,
            "neither the old nor the new"
        );
        let server = Server::start(&dir);
        old::is_served(&dir, &server, 2);
        assert_eq!(server.stop().code(), Some(0));
        // The next one clears up.
        dir.cli(&["restore", "backup.db", "--force"]).done();
        assert!(book::look(&dir.sqlite()).0 == new);
        assert_eq!(dir.files(), ["backup.db", "cachesrv.db"]);
    });
}

#[test]
fn a_backup_that_was_killed_has_not_its_name_or_is_whole() {
    let mut random = Random::seeded();
    let killed = Killed::new(&["backup", "next.db"], with_backup());
    killed.sometimes(rounds(12), &mut random, |dir| {
        let stored = book::look(&dir.sqlite()).0;
        let is_there = fs::exists(dir.join("next.db")).expect("a directory");
        if is_there {
            dir.cli(&["verify", "--db", "next.db"]).done();
        } else {
            dir.cli(&["backup", "next.db"]).done();
        }
        assert!(book::look(&support::dir::sqlite(&dir.join("next.db"))).0 == stored);
        let left = dir.files().into_iter().find(|name| name.contains(".tmp."));
        assert_eq!(left, None);
        dir.cli(&["verify"]).done();
    });
}

/// The migration is in the log, which this reader keeps from being folded, so the header of the file is an older one.
#[test]
fn commands_work_beside_a_server_that_has_just_migrated() {
    let dir = Dir::new();
    old::make(&dir, 2);
    let reader = dir.sqlite();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM artifacts")
        .expect("a snapshot");
    let server = Server::start(&dir);
    old::is_served(&dir, &server, 2);
    drop(reader);
}
