//! A server whose operations can fail, and what must be true of it when they no longer do.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::dir::{BINARY, Token};
use crate::support::entries::{counters_are_facts, nothing_is_left_over};
use crate::support::fault::Trap;
use crate::support::preload::Control;
use crate::support::{Answer, Dir, PATIENCE, Server, eventually, noise};

/// What a request gets where the server has trouble of its own.
const TROUBLE: [&str; 4] = [
    "the disk of this cache is full",
    "this cache is too busy at the moment",
    "what was stored under this hash is damaged and was put aside",
    "internal error of the cache",
];

/// A server with the library below it.
pub struct Watched {
    pub server: Server,
    pub token: Token,
    pub dir: Dir,
    /// What was acknowledged: sizes by number.
    stored: BTreeMap<u64, usize>,
    next: u64,
    held: Held,
    /// Writes between two traps, so that nobody finds in memory what was read before.
    beside: Connection,
}

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Descriptors by what they lead to; those of the log and of what SQLite shares are opened when needed.
    files: BTreeMap<String, usize>,
    /// By their names.
    threads: Vec<String>,
}

impl Held {
    fn by(server: &Server) -> Self {
        let process = format!("/proc/{}", server.pid());
        let list = |what: &str| fs::read_dir(format!("{process}/{what}")).expect("a process");
        let mut files = BTreeMap::new();
        for link in list("fd") {
            // One that is closed meanwhile leads nowhere.
            let Ok(target) = fs::read_link(link.expect("a descriptor").path()) else {
                continue;
            };
            let target = target.display().to_string();
            if !target.ends_with("-wal") && !target.ends_with("-shm") {
                let kind = target.split(":[").next().unwrap_or_default();
                *files.entry(kind.to_owned()).or_default() += 1;
            }
        }
        let name = |thread: io::Result<DirEntry>| {
            fs::read_to_string(thread.expect("a thread").path().join("comm"))
        };
        let mut threads: Vec<String> = list("task")
            .filter_map(|thread| name(thread).ok())
            .collect();
        threads.sort();
        Self { files, threads }
    }
}

impl Held {
    /// Whether there is nothing of which `other` has less.
    fn is_within(&self, other: &Self) -> bool {
        let has = |(target, count): (&String, &usize)| other.files.get(target) >= Some(count);
        self.threads == other.threads && self.files.iter().all(has)
    }
}

impl Watched {
    pub fn start(settings: &[&str]) -> (Self, Control) {
        let dir = Dir::in_memory();
        let token = dir.token("write");
        dir.evidence().exempt_mode("control");
        let control = Control::new(dir.join("control"));
        let server = serve(&dir, &control, settings);
        let beside = dir.sqlite();
        let quick = beside.pragma_update(None, "synchronous", "OFF");
        quick.expect("a setting");
        let mut this = Self {
            beside,
            held: Held {
                files: BTreeMap::new(),
                threads: Vec::new(),
            },
            server,
            token,
            dir,
            stored: BTreeMap::new(),
            next: 0,
        };
        this.stores(1000);
        this.held = eventually("the client is gone", || {
            let held = Held::by(&this.server);
            let is_client = |name: &String| name.starts_with("conn-");
            (!held.threads.iter().any(is_client)).then_some(held)
        });
        (this, control)
    }

    /// Makes every connection of the server read anew what it needs.
    pub fn chill(&self) {
        let same = self.beside.pragma_update(None, "user_version", 3);
        same.expect("a write beside the server");
    }

    /// A number that no artifact has yet.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A PUT that must succeed.
    #[track_caller]
    pub fn stores(&mut self, size: usize) -> u64 {
        let number = self.number();
        let answer = self.put(number, size);
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.stored.insert(number, size);
        number
    }

    /// The same for what may be evicted.
    #[track_caller]
    pub fn stores_and_forgets(&mut self, size: usize) -> u64 {
        let number = self.stores(size);
        self.stored.remove(&number);
        number
    }

    /// What was stored until now may go.
    pub fn forget(&mut self) {
        self.stored.clear();
    }

    pub fn put(&self, number: u64, size: usize) -> Answer {
        let mut client = self.server.client(&self.token);
        client.put(&number.to_string(), &noise(number, size))
    }

    pub fn get(&self, number: u64) -> Option<Answer> {
        let mut client = self.server.client(&self.token);
        client.begin("GET", &client.path(&number.to_string()), &[]);
        client.raw.try_answer(true).ok()
    }

    /// A PUT in a trap: it is stored, or politely not, and stored at once when the trap is gone.
    pub fn stores_in(&mut self, trap: &Trap, size: usize) {
        let number = self.number();
        self.chill();
        let answer = trap.during(|| self.put(number, size));
        let place = trap.place();
        if trap.is_harmless() {
            assert_eq!(answer.status, 200, "{place}: {}", answer.text());
        }
        if answer.status != 200 {
            assert_refused(&answer, 403, &place);
            // What failed at its very end may be there all the same, whole.
            let found = self.get(number).expect("an answer");
            let again = self.put(number, size);
            match found.status {
                404 => assert_eq!(again.status, 200, "{place}: {}", again.text()),
                200 => assert!(
                    found.body == noise(number, size) && again.status == 409,
                    "{place}"
                ),
                status => panic!("{place}: then {status}"),
            }
        }
        self.stored.insert(number, size);
        self.serves(number, &place);
        let other = self.stores(size.min(5000));
        self.serves(other, &place);
    }

    /// A GET in a trap: right, a miss, or cut; and right when the trap is gone.
    pub fn serves_in(&mut self, trap: &Trap, number: u64) {
        self.chill();
        let answer = trap.during(|| self.get(number));
        let place = trap.place();
        let size = self.stored[&number];
        match answer {
            Some(answer) if answer.status == 200 => {
                assert!(answer.body == noise(number, size), "{place}: wrong bytes");
            }
            Some(answer) if !trap.is_harmless() => assert_refused(&answer, 404, &place),
            None if !trap.is_harmless() => {}
            other => panic!("{place}: {other:?}"),
        }
        self.serves(number, &place);
        let other = self.stores(300);
        self.serves(other, &place);
    }

    /// A GET that must succeed.
    #[track_caller]
    pub fn serves(&self, number: u64, place: &str) {
        self.serves_sized(number, self.stored[&number], place);
    }

    #[track_caller]
    fn serves_sized(&self, number: u64, size: usize, place: &str) {
        let answer = self.get(number);
        let answer = answer.unwrap_or_else(|| panic!("{place}: the GET of {number} was cut"));
        assert!(
            answer.status == 200 && answer.body == noise(number, size),
            "{place}: {number}: {} {}",
            answer.status,
            answer.text_or_bytes(),
        );
    }

    /// All that was acknowledged is there; nothing else is, and nothing leaks; now and after a restart.
    pub fn ends_well(mut self, settings: &[&str]) {
        assert!(self.server.is_alive());
        assert!(!self.server.log().contains("panicked"));
        for _ in 0..50 {
            let number = self.stores_and_forgets(70_000);
            self.serves_sized(number, 70_000, "at the end");
        }
        self.all_is_served();
        let began = Instant::now();
        while !Held::by(&self.server).is_within(&self.held) {
            let (before, now) = (&self.held, Held::by(&self.server));
            assert!(
                began.elapsed() < PATIENCE / 4,
                "it leaks: {before:#?} {now:#?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
        eventually("what was not stored is freed", || {
            let connection = self.dir.sqlite();
            connection.execute(age, []).expect("rows changed");
            let others = "SELECT count(*) FROM artifacts WHERE state <> 'stored'";
            (crate::support::dir::number(&connection, others) == 0).then_some(())
        });
        nothing_is_left_over(&self.dir.sqlite());
        counters_are_facts(&self.dir.sqlite());
        self.dir.cli(&["verify"]).done();
        let log = self.dir.join("cachesrv.db-wal");
        eventually("the log is folded", || {
            fs::metadata(&log)
                .is_ok_and(|log| log.len() == 0)
                .then_some(())
        });
        let Self {
            server,
            dir,
            token,
            stored,
            next,
            held,
            beside,
        } = self;
        drop(beside);
        let ended = server.stop();
        assert_eq!(ended.code(), Some(0), "{}", ended.log);
        assert!(
            dir.files()
                .iter()
                .all(|name| !name.starts_with("cachesrv.db-")),
            "{:?}",
            dir.files()
        );
        dir.cli(&["verify"]).done();
        let args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
        let server = Server::start_with(&dir, &args);
        let again = Self {
            beside: dir.sqlite(),
            server,
            token,
            dir,
            stored,
            next,
            held,
        };
        again.all_is_served();
    }

    fn all_is_served(&self) {
        for &number in self.stored.keys() {
            self.serves(number, "at the end");
        }
    }
}

/// A server with the library below it.
pub fn serve(dir: &Dir, control: &Control, settings: &[&str]) -> Server {
    let mut command = dir.command(BINARY);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command.args(settings.iter().flat_map(|set| ["--set", set]));
    control.load("fail", &mut command);
    Server::start_command(&mut command)
}

/// A refusal that Nx survives, in the words of the table.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, place: &str) {
    let text = answer.text();
    assert!(
        answer.status == status && TROUBLE.iter().any(|trouble| text.starts_with(trouble)),
        "{place}: {} {text}",
        answer.status
    );
}

impl Answer {
    /// For a message.
    fn text_or_bytes(&self) -> String {
        std::str::from_utf8(&self.body).map_or_else(
            |_| format!("{} bytes", self.body.len()),
            |text| text.chars().take(200).collect(),
        )
    }
}
