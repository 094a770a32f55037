//! What all threads of the soak share: where things are, the secrets of the hour, and what was counted.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::Options;
use crate::book::Book;
use crate::random::Random;

/// So many broken promises say enough.
const BROKEN_MAX: usize = 50;

/// Everything that the threads share.
pub struct World {
    pub seed: u64,
    pub dir: PathBuf,
    _dir: TempDir,
    pub binary: PathBuf,
    /// The socket that the soak holds, as systemd does: clients wait in it while there is no server.
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub pid: AtomicU32,
    pub book: Book,
    /// Of the token that is rotated, in trusted scopes.
    pub writer: Mutex<String>,
    pub reader: String,
    pub isolated: String,
    /// Commands hold it while they have the database open, and a clean stop holds it alone.
    pub commands: RwLock<()>,
    kills: AtomicU64,
    sessions: AtomicU64,
    answered: AtomicU64,
    stopping: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    broken: Mutex<Vec<String>>,
    began: Instant,
}

impl World {
    pub fn new(options: &Options) -> Result<Self> {
        let parent = match &options.dir {
            Some(dir) => dir.clone(),
            None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        };
        std::fs::create_dir_all(&parent)?;
        let dir = tempfile::Builder::new()
            .prefix("soak-")
            .tempdir_in(&parent)?;
        let binary = match &options.cachesrv {
            Some(binary) => binary.canonicalize()?,
            None => PathBuf::from(env!("CARGO_BIN_EXE_cachesrv")),
        };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let clock = || {
            u64::from(
                std::time::UNIX_EPOCH
                    .elapsed()
                    .map_or(1, |since| since.subsec_nanos()),
            )
        };
        let mut world = Self {
            seed: options.seed.unwrap_or_else(clock),
            dir: dir.path().to_owned(),
            _dir: dir,
            binary,
            address: listener.local_addr()?,
            listener,
            pid: AtomicU32::new(0),
            book: Book::default(),
            writer: Mutex::default(),
            reader: String::new(),
            isolated: String::new(),
            commands: RwLock::default(),
            kills: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            counts: Mutex::default(),
            broken: Mutex::default(),
            began: Instant::now(),
        };
        for directory in ["data", "scheduled", "explicit"] {
            std::fs::create_dir(world.dir.join(directory))?;
        }
        let writer = world.token(&["create", "--write", "--name", "writer"])?;
        world.set_writer(writer);
        world.reader = world.token(&["create", "--read", "--name", "reader"])?;
        world.isolated = world.token(&["create", "--isolated", "--name", "isolated"])?;
        Ok(world)
    }

    pub fn db(&self) -> PathBuf {
        self.dir.join("data/cachesrv.db")
    }

    /// Random choices of one thread in this session, which another run with the same seed repeats.
    pub fn random(&self, thread: u64) -> Random {
        // Mixed, for a source is a counter: sources that begin a few steps apart would choose the same names.
        let (mut of_seed, mut of_thread) = (
            Random::of(self.seed),
            Random::of(self.session() << 32 | thread),
        );
        Random::of(of_seed.number() ^ of_thread.number())
    }

    pub fn writer(&self) -> String {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set_writer(&self, secret: String) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = secret;
    }

    /// Runs a command on the database, beside the server if there is one; what it printed.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let _open = self.commands.read().unwrap_or_else(PoisonError::into_inner);
        let output = Command::new(&self.binary)
            .args(arguments)
            .env_clear()
            .env("CACHESRV_DB", self.db())
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cachesrv {arguments:?}: {}: {said}",
            output.status
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `cachesrv token …`; the secret that it prints.
    pub fn token(&self, arguments: &[&str]) -> Result<String> {
        let printed = self.command(&[&["token"], arguments].concat())?;
        let secret = printed.trim_end();
        ensure!(
            secret.starts_with("csrv_"),
            "no secret from token {arguments:?}"
        );
        Ok(secret.to_owned())
    }

    /// Whether a process was killed since: requests of that time may have died with it.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::SeqCst)
    }

    /// To be called before the signal is sent.
    pub fn a_kill_begins(&self) {
        self.kills.fetch_add(1, Ordering::SeqCst);
    }

    /// The load begins anew after a pause.
    pub fn begin_session(&self) {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        self.stopping.store(false, Ordering::SeqCst);
    }

    /// How many times the load has begun.
    pub fn session(&self) -> u64 {
        self.sessions.load(Ordering::SeqCst)
    }

    /// A request was answered.
    pub fn answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Rests, or less when the end comes first.
    pub fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(until - Instant::now().min(until)));
        }
    }

    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &str, number: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what.to_owned()).or_default() += number;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A promise was not kept.
    pub fn breaks(&self, what: &str) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.len() < BROKEN_MAX {
            self.say(&format!("BROKEN: {what}"));
            broken.push(what.to_owned());
        }
    }

    pub fn broken(&self) -> Vec<String> {
        self.broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn has_failed_hopelessly(&self) -> bool {
        self.broken().len() >= BROKEN_MAX
    }

    /// Says how far it is, on stderr.
    pub fn say(&self, what: &str) {
        eprintln!("{:7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// A step that must succeed.
    pub fn must<T>(&self, what: &str, result: Result<T>) -> Option<T> {
        match result.with_context(|| what.to_owned()) {
            Ok(done) => Some(done),
            Err(error) => {
                self.breaks(&format!("{error:#}"));
                None
            }
        }
    }
}
