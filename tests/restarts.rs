//! A restart fails no build: ten of them under load from real Nx and from raw clients.
//!
//! Guaranteed while somebody else holds the listening socket (systemd by its unit, here the test): the server
//! may be stopped and started again at any time, and no request is refused, reset or answered otherwise than
//! it would have been. What is in flight is finished, what comes meanwhile waits in the socket, and what was
//! acknowledged is there. A server that is killed is another promise (crash.rs): its requests in flight
//! die, and builds with them.

mod support;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use support::passed::{is_open, listener, queued, start};
use support::{Client, Dir, Random, Raw, Server, Token, client, eventually, noise};
use tempfile::TempDir;

const RESTARTS: usize = 10;

/// The version of Nx that builds; `e2e-nx.sh` has several.
const NX: &str = "22.7.12";

/// The tasks that are built: they depend on nothing. So many are changed before each build.
const PROJECTS: &str = "unit0*,unit1*";
const TASKS: usize = 20;
const CHANGED: usize = 5;

/// Builds at the least: the first one stores, the others restore, too.
const BUILDS_MIN: usize = 4;

/// Raw clients: one connection for a request, or one for many.
const CLIENTS: u64 = 4;

/// What raw clients store: in a row of the database, in a chunk, in several batches.
const SIZES: [usize; 3] = [300, 100_000, 3_000_000];

/// Requests that each raw client has answered before the next restart.
const REQUESTS_BETWEEN: u64 = 3;

/// What is half sent, and half read, whenever the server is stopped; more than the sockets hold.
const HELD_BYTES: usize = 8 << 20;

/// An artifact that a client stored, and its answer was 200.
struct Stored {
    hash: String,
    seed: u64,
    size: usize,
}

impl Stored {
    fn bytes(&self) -> Vec<u8> {
        noise(self.seed, self.size)
    }
}

/// How far a client is.
#[derive(Default)]
struct Progress {
    asked: AtomicU64,
    answered: AtomicU64,
    stop: AtomicBool,
}

/// A client that stores and reads without pause, and retries nothing. Before it writes on a connection that was
/// idle it looks whether the server has closed it, as clients of real builds do.
struct Worker {
    address: SocketAddr,
    token: Token,
    number: u64,
    idle: Option<Raw>,
    progress: Arc<Progress>,
}

impl Worker {
    fn run(mut self) -> Vec<Stored> {
        let mut all: Vec<Stored> = Vec::new();
        while !self.progress.stop.load(Ordering::SeqCst) {
            let seed = self.number << 32 | all.len() as u64;
            let hash = format!("raw-{}-{}", self.number, all.len());
            let size = SIZES[all.len() % SIZES.len()];
            let stored = Stored { hash, seed, size };
            let answer = self.ask("PUT", &stored.hash, &stored.bytes());
            assert_eq!(answer.status, 200, "PUT {}: {}", stored.hash, answer.head);
            all.push(stored);
            let before = &all[all.len() / 2];
            let answer = self.ask("GET", &before.hash, &[]);
            assert_eq!(answer.status, 200, "GET {}: {}", before.hash, answer.head);
            assert!(answer.body == before.bytes(), "GET {}", before.hash);
        }
        all
    }

    fn ask(&mut self, method: &str, hash: &str, body: &[u8]) -> support::Answer {
        self.progress.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.try_ask(method, hash, body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {hash}: {error}"));
        self.progress.answered.fetch_add(1, Ordering::SeqCst);
        answer
    }

    fn try_ask(&mut self, method: &str, hash: &str, body: &[u8]) -> io::Result<support::Answer> {
        let mut raw = match self.idle.take() {
            Some(raw) if is_open(&raw)? => raw,
            _ => Raw::try_connect(self.address)?,
        };
        let keeps = self.number.is_multiple_of(2);
        let (path, secret, length) = (client::path(hash), &self.token.secret, body.len());
        let connection = if keeps { "keep-alive" } else { "close" };
        raw.try_send(format!(
            "{method} {path} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {secret}\r\n\
             Connection: {connection}\r\nContent-Length: {length}\r\n\r\n"
        ))?;
        raw.try_send(body)?;
        let answer = raw.try_answer(true)?;
        self.idle = (keeps && !answer.closes()).then_some(raw);
        Ok(answer)
    }
}

/// The raw clients at work.
struct Workers(Vec<(Arc<Progress>, JoinHandle<Vec<Stored>>)>);

impl Workers {
    fn start(address: SocketAddr, token: &Token) -> Self {
        let worker = |number| {
            let progress = Arc::new(Progress::default());
            let worker = Worker {
                address,
                token: token.clone(),
                number,
                idle: None,
                progress: Arc::clone(&progress),
            };
            (progress, thread::spawn(move || worker.run()))
        };
        Self((0..CLIENTS).map(worker).collect())
    }

    fn answered(&self) -> Vec<u64> {
        let each = self.0.iter();
        each.map(|(progress, _)| progress.answered.load(Ordering::SeqCst))
            .collect()
    }

    /// One that has failed is the end.
    fn are_alive(&self) {
        let failed = self.0.iter().any(|(_, thread)| thread.is_finished());
        assert!(!failed, "a raw client has failed, see above");
    }

    fn stop(self) -> Vec<Stored> {
        for (progress, _) in &self.0 {
            progress.stop.store(true, Ordering::SeqCst);
        }
        let ended = self.0.into_iter().map(|(_, thread)| thread.join());
        ended
            .flat_map(|all| all.expect("no client failed"))
            .collect()
    }
}

/// A real workspace in which real Nx builds, again and again, a few tasks changed each time.
struct Builds {
    place: TempDir,
    url: String,
    token: Token,
    random: Random,
    changes: usize,
}

/// How the builds went.
#[derive(Default)]
struct Built {
    builds: usize,
    stored: usize,
    restored: usize,
}

impl Builds {
    fn new(address: SocketAddr, token: &Token) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/e2e-nx.sh");
        let mut make = Command::new("bash");
        make.arg(script)
            .arg("--workspace")
            .arg(place.path())
            .arg(NX);
        let outcome = make.stdin(Stdio::null()).output().expect("bash starts");
        assert!(outcome.status.success(), "{outcome:?}");
        for name in ["home", "tmp"] {
            std::fs::create_dir(place.path().join(name)).expect("a directory");
        }
        Self {
            place,
            url: format!("http://{address}"),
            token: token.clone(),
            random: Random::seeded(),
            changes: 0,
        }
    }

    fn workspace(&self) -> PathBuf {
        self.place.path().join("workspace")
    }

    /// Builds until it is told to stop. Every build must succeed, with each task that was built before restored.
    fn run(mut self, stop: &AtomicBool) -> Built {
        let mut built = Built::default();
        while built.builds < BUILDS_MIN || !stop.load(Ordering::SeqCst) {
            let changed = if built.builds == 0 { TASKS } else { CHANGED };
            if built.builds > 0 {
                self.change_some();
            }
            self.forget();
            let output = self.build();
            let restored = output.matches("[remote cache]").count();
            assert_eq!(restored, TASKS - changed, "{output}");
            built.builds += 1;
            built.stored += changed;
            built.restored += restored;
        }
        built
    }

    /// Changes the sources of a few tasks, so that they are built and stored.
    fn change_some(&mut self) {
        let first = self.random.below((TASKS - CHANGED) as u64) as usize;
        for task in first..first + CHANGED {
            let source = format!("burst/unit{task:02}/src/source.txt");
            let mut file = std::fs::File::create(self.workspace().join(source)).expect("a source");
            writeln!(file, "change {} of {task}", self.changes).expect("it is written");
            self.changes += 1;
        }
    }

    /// Removes what Nx remembers and what tasks made: all else comes from the server.
    fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.workspace().join(".nx"));
        for task in 0..TASKS {
            let made = format!("burst/unit{task:02}/dist");
            let _ = std::fs::remove_dir_all(self.workspace().join(made));
        }
    }

    fn build(&self) -> String {
        let mut nx = Command::new("node_modules/.bin/nx");
        nx.args([
            "run-many",
            "-t",
            "unit",
            "--outputStyle=static",
            "--parallel=8",
        ])
        .args(["--projects", PROJECTS])
        .current_dir(self.workspace())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", self.place.path().join("home"))
        .env("TMPDIR", self.place.path().join("tmp"))
        .envs([
            ("CI", "true"),
            ("NX_NO_CLOUD", "true"),
            ("NX_DAEMON", "false"),
        ])
        .env("NX_TUI", "false")
        .env("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", &self.url)
        .env(
            "NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN",
            &self.token.secret,
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        let child: Child = nx.spawn().expect("Nx starts");
        let output = child.wait_with_output().expect("its output is read");
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        let text = text.join("\n");
        assert!(output.status.success(), "a build failed:\n{text}");
        text
    }
}

/// An upload and a download that are under way while the server stops.
struct Held {
    upload: Client,
    download: Client,
    stored: Stored,
}

impl Held {
    /// Half of the upload is in the database, and the download has begun.
    fn begin(dir: &Dir, server: &Server, token: &Token, number: usize) -> Self {
        let stored = Stored {
            hash: format!("held-{number}"),
            seed: number as u64,
            size: HELD_BYTES,
        };
        let (mut upload, mut download) = (server.client(token), server.client(token));
        upload.begin_put(&stored.hash, HELD_BYTES);
        upload.raw.send(&stored.bytes()[..HELD_BYTES / 2]);
        download.begin("GET", &client::path("large"), &[]);
        let row = format!(
            "SELECT count(*) FROM artifacts WHERE hash = '{}'",
            stored.hash
        );
        eventually("a part of the upload is stored", || {
            (dir.number(&row) > 0).then_some(())
        });
        let begun = download.raw.socket().peek(&mut [0]);
        assert_eq!(begun.expect("a download"), 1);
        Self {
            upload,
            download,
            stored,
        }
    }

    /// Lets go of both; the server must still be there for them.
    fn finish(mut self) -> Stored {
        self.upload.raw.send(&self.stored.bytes()[HELD_BYTES / 2..]);
        let answer = self.upload.raw.answer();
        assert_eq!(answer.status, 200, "{}", answer.head);
        let answer = self.download.raw.answer();
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert!(answer.body == large(), "another body");
        self.stored
    }
}

fn large() -> Vec<u8> {
    noise(7, HELD_BYTES)
}

/// What Nx did, by the lines of all servers: nothing but hits, misses and uploads, and no upload twice. Nx
/// says nothing of an upload that it repeats.
fn nx_was_answered_well(logs: &str) {
    let mut uploads: Vec<&str> = Vec::new();
    for line in logs.lines().filter(|line| line.contains("token_name=nx")) {
        let field = |key| line.split(' ').find_map(|field| field.strip_prefix(key));
        let method = field("method=").expect("a method");
        let status = field("status=").expect("a status");
        let is_fine = status == "200" || (method == "GET" && status == "404");
        assert!(is_fine, "{line}");
        if method == "PUT" {
            uploads.extend(field("path="));
        }
    }
    let all = uploads.len();
    uploads.sort_unstable();
    uploads.dedup();
    assert_eq!(uploads.len(), all, "an upload was repeated");
}

#[test]
fn ten_restarts_under_load_fail_no_request_of_nx_or_of_a_raw_client() {
    let dir = Dir::new();
    let (token, nx_token) = (
        dir.token("write"),
        dir.token_with(&["--write", "--name", "nx"]),
    );
    let listener = listener();
    let mut server = start(&dir, &listener);
    assert_eq!(server.client(&token).put("large", &large()).status, 200);
    let workers = Workers::start(server.address(), &token);
    let builds = Builds::new(server.address(), &nx_token);
    let stop_building = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stop_building);
    let builds = thread::spawn(move || builds.run(&stop));
    let (mut stored, mut logs) = (Vec::new(), String::new());
    for number in 0..RESTARTS {
        let before = workers.answered();
        let all_are_served = || {
            workers.are_alive();
            assert!(!builds.is_finished(), "a build has failed, see above");
            let now = workers.answered();
            let raw = now
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + REQUESTS_BETWEEN);
            (raw && server.log().contains("token_name=nx")).then_some(())
        };
        eventually("this server has served everybody", all_are_served);
        let held = Held::begin(&dir, &server, &token, number);
        server.terminate();
        server.wait_for_line(" shutting down");
        stored.push(held.finish());
        let ended = server.wait();
        assert_eq!(ended.code(), Some(0), "{}", ended.log);
        assert!(!ended.log.contains("requests were cut"), "{}", ended.log);
        logs.push_str(&ended.log);
        eventually("raw clients and Nx wait in the socket", || {
            workers.are_alive();
            assert!(!builds.is_finished(), "a build has failed, see above");
            (queued(&listener) > CLIENTS as usize).then_some(())
        });
        server = start(&dir, &listener);
    }
    stop_building.store(true, Ordering::SeqCst);
    let built = builds.join().expect("no build failed");
    stored.extend(workers.stop());
    let mut client = server.client(&token);
    for stored in &stored {
        let answer = client.get(&stored.hash);
        assert_eq!(answer.status, 200, "{} is gone", stored.hash);
        assert!(answer.body == stored.bytes(), "{} is another", stored.hash);
    }
    logs.push_str(&server.stop().log);
    nx_was_answered_well(&logs);
    println!(
        "{RESTARTS} restarts; {} artifacts of raw clients; {} builds by Nx {NX}, {} tasks stored, {} restored",
        stored.len(),
        built.builds,
        built.stored,
        built.restored
    );
}
