//! Hostile clients against a real server in its own process, with a witness beside them.
//!
//! A row is an attack, and it is held against a target: the attack runs in a third process, while the witness goes on
//! asking and a watch looks at the memory of the server. Every row asserts the same: each answer to the witness is
//! right, the server's own memory stays within [`MEMORY_MAX_BYTES`], it lives, its threads and descriptors come back
//! to what they were, its log has no error, and the attack itself found nothing to complain of. So the same rows can
//! be held against another server, and fail (`control`).
//!
//! Times are asserted only where the variable [`LATENCY`] asks for it, on a quiet machine.

pub mod attacks;
pub mod control;
pub mod scene;
pub mod vitals;
pub mod witness;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::dir::BINARY;
use crate::support::{Authority, Dir, Raw, Server, noise};
use attacks::LARGE;
use control::SECRET;
use scene::{Attacker, Scene, Verdict};
use vitals::{Holds, Watch};
use witness::{Door, SMALL, Witness};

/// What no attack may make the server hold.
pub const MEMORY_MAX_BYTES: u64 = 200_000_000;

/// How many times its quiet value the witness's 99th percentile may be.
const RATIO_MAX: f64 = 5.0;

/// With this variable set, each attack has the machine to itself, and the ratio is asserted.
const LATENCY: &str = "CACHESRV_TEST_LATENCY";

/// How long a server may take for anything it must do.
const PATIENCE: Duration = Duration::from_secs(20);

/// The test of the binary that hands over to an attack.
const ENTRY: &str = "an_attacker_is_a_process_of_its_own";

/// One attack, and the server that it needs.
#[derive(Clone, Copy)]
pub struct Row {
    pub attack: fn(&Scene) -> Verdict,
    /// Settings of cachesrv: short limits, so that a test need not wait for the long ones.
    settings: &'static [&'static str],
    has_tls: bool,
    has_large: bool,
    open_files: Option<u32>,
    /// What its log may complain of.
    allowed: &'static str,
}

impl Row {
    pub const fn of(attack: fn(&Scene) -> Verdict) -> Self {
        Self {
            attack,
            settings: &[],
            has_tls: false,
            has_large: false,
            open_files: None,
            allowed: "\0",
        }
    }

    pub const fn with(mut self, settings: &'static [&'static str]) -> Self {
        self.settings = settings;
        self
    }

    pub const fn over_tls(mut self) -> Self {
        self.has_tls = true;
        self
    }

    /// An artifact is there that no socket holds.
    pub const fn with_large(mut self) -> Self {
        self.has_large = true;
        self
    }

    /// The server has only so many descriptors, and may say so.
    pub const fn with_open_files(mut self, count: u32, allowed: &'static str) -> Self {
        self.open_files = Some(count);
        self.allowed = allowed;
        self
    }
}

/// What is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cachesrv,
    TinyHttp,
}

/// A server with the artifacts that witness and attack ask for.
struct Target {
    // Ended before its directory goes.
    server: Server,
    dir: Dir,
    secret: String,
    authority: Option<Authority>,
    kind: Kind,
}

impl Target {
    fn start(row: &Row, kind: Kind) -> Self {
        let dir = Dir::new();
        let mut authority = None;
        let mut command = shell(&dir, row.open_files);
        let secret = match kind {
            Kind::Cachesrv => {
                command.args([BINARY, "serve", "--listen", "127.0.0.1:0"]);
                for setting in row.settings {
                    command.args(["--set", setting]);
                }
                if row.has_tls {
                    let issuer = Authority::new();
                    issuer.issue().write_to(dir.path());
                    crate::support::authority::put(dir.path(), "ca.pem", &issuer.pem());
                    command.args(crate::support::secure::SETTINGS);
                    authority = Some(issuer);
                }
                dir.token("write").secret
            }
            Kind::TinyHttp => {
                control::command(&mut command, dir.path());
                SECRET.to_owned()
            }
        };
        let server = Server::start_command(&mut command);
        let target = Self {
            server,
            dir,
            secret,
            authority,
            kind,
        };
        target.store(SMALL);
        if row.has_large {
            target.store(LARGE);
        }
        target
    }

    fn store(&self, (hash, size): (&str, usize)) {
        let raw = self.door()().expect("the server accepts");
        let mut client = crate::support::Client::over(raw, Some(&self.secret));
        let answer = client.put(hash, &noise(7, size));
        assert_eq!(answer.status, 200, "{}", answer.head);
    }

    fn door(&self) -> Door {
        let (address, trusted) = (self.server.address(), self.authority.as_ref());
        match trusted.map(Authority::trusted) {
            None => Box::new(move || Raw::try_connect(address)),
            Some(config) => Box::new(move || Raw::try_connect_tls(address, &config)),
        }
    }

    fn scene(&self) -> Scene {
        let (address, pid) = (self.server.address(), self.server.pid());
        let mut scene = Scene::new(address, pid, &self.secret, self.patience());
        scene.roots = self.authority.is_some().then(|| self.roots());
        scene
    }

    fn roots(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn witness(&self) -> Witness {
        let bytes = noise(7, SMALL.1);
        Witness::start(self.door(), &self.secret, bytes, self.patience())
    }

    /// The control is known to fail, and need not be waited for.
    fn patience(&self) -> Duration {
        match self.kind {
            Kind::Cachesrv => PATIENCE,
            Kind::TinyHttp => PATIENCE / 4,
        }
    }
}

/// A command to be completed by a program, with few descriptors for it where that is wanted.
fn shell(dir: &Dir, open_files: Option<u32>) -> Command {
    let limit = open_files.map_or(String::new(), |count| format!("ulimit -n {count}; "));
    let mut command = dir.command("/bin/sh");
    command.args(["-c", &format!("{limit}exec \"$0\" \"$@\"")]);
    command
}

/// What the witness and the watch have measured.
struct Figures {
    quiet: Duration,
    under_attack: Duration,
    peak_bytes: u64,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.under_attack.as_secs_f64() / self.quiet.as_secs_f64()
    }
}

/// The server survives the attack.
#[track_caller]
pub fn survives(name: &str, row: &Row) {
    let figures =
        held_against(name, row, Kind::Cachesrv).unwrap_or_else(|failure| panic!("{failure}"));
    println!(
        "hostile: {name} quiet p99 {:.2?} attacked p99 {:.2?} ratio {:.1} peak RssAnon {:.0} MB",
        figures.quiet,
        figures.under_attack,
        figures.ratio(),
        figures.peak_bytes as f64 / 1e6,
    );
    if is_timed() {
        assert!(figures.ratio() <= RATIO_MAX, "the witness had to wait");
    }
}

/// Holds a row against a server, or says what was wrong first.
pub fn fails(name: &str, row: &Row, kind: Kind) -> Result<(), String> {
    held_against(name, row, kind).map(drop)
}

fn held_against(name: &str, row: &Row, kind: Kind) -> Result<Figures, String> {
    static TURN: Mutex<()> = Mutex::new(());
    let _alone = is_timed().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    let mut target = Target::start(row, kind);
    let watch = Watch::over(target.server.pid(), MEMORY_MAX_BYTES);
    let held = attack(name, &target, &watch);
    let peak_bytes = watch.peak_bytes();
    if peak_bytes > MEMORY_MAX_BYTES {
        return Err(format!(
            "its memory passed the bound: {} MB",
            peak_bytes / 1_000_000
        ));
    }
    if !target.server.is_alive() {
        let ended = target.server.wait();
        return Err(format!("the server has ended: {:?}", ended.status));
    }
    let figures = held?;
    let log = target.server.log();
    let complaints = |line: &&str| {
        let is_one = line.contains(" error ") || line.contains("panic");
        is_one && !line.contains(row.allowed)
    };
    match log.lines().find(complaints) {
        Some(line) => Err(format!("its log complains: {line}")),
        None => Ok(figures),
    }
}

fn attack(name: &str, target: &Target, watch: &Watch) -> Result<Figures, String> {
    let samples = match target.kind {
        Kind::Cachesrv if is_timed() => 2000,
        Kind::Cachesrv => 200,
        // Each of its answers waits for the delayed ACK of its client.
        Kind::TinyHttp => 20,
    };
    let witness = target.witness();
    witness.await_more(20)?;
    let from = witness.count();
    witness.await_more(samples)?;
    let quiet = witness.p99(from);
    let pid = target.server.pid();
    let before = Holds::of(pid);

    let from = witness.count();
    let mut attacker = Attacker::start(ENTRY, name, &target.scene());
    attacker.await_height()?;
    witness.await_more(samples)?;
    attacker.end()?;
    let under_attack = witness.p99(from);

    let began = Instant::now();
    while !Holds::of(pid).is_within(before) {
        if began.elapsed() > target.patience() {
            let now = Holds::of(pid);
            return Err(format!(
                "it still holds {now:?} after the attack, and {before:?} before"
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    witness.await_more(20)?;
    witness.verdict()?;
    let peak_bytes = watch.peak_bytes();
    Ok(Figures {
        quiet,
        under_attack,
        peak_bytes,
    })
}

fn is_timed() -> bool {
    std::env::var_os(LATENCY).is_some()
}
