//! An attack from inside: the attacker is a process of its own, so that it shares no lock, no allocator and no
//! descriptors with the witness. It is this test binary once more, told by a variable what to do. It says on stdout
//! when the attack is at its height and how it ended, and hears on stdin when it is over.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, nice, setrlimit};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use socket2::{Domain, Socket, Type};

use super::vitals::{self, Holds};
use crate::support::{Answer, Raw, client};

/// What an attack finds out: nothing, or what the server should not have done.
pub type Verdict = Result<(), Box<dyn Error>>;

/// What stands before everything that an attacker says, for the test harness prints on stdout, too.
const MARK: &str = "attacker> ";
const HEIGHT: &str = "at its height";
const DONE: &str = "done";

/// Names an attack; the others are what a [`Scene`] is made of.
const ATTACK: &str = "CACHESRV_TEST_ATTACK";
const ADDRESS: &str = "CACHESRV_TEST_ATTACK_ADDRESS";
const PID: &str = "CACHESRV_TEST_ATTACK_PID";
const SECRET: &str = "CACHESRV_TEST_ATTACK_SECRET";
const ROOTS: &str = "CACHESRV_TEST_ATTACK_ROOTS";
const PATIENCE_MS: &str = "CACHESRV_TEST_ATTACK_PATIENCE";

/// What an attacker knows.
pub struct Scene {
    pub address: SocketAddr,
    /// The process that is attacked.
    pub pid: u32,
    /// A token that may write.
    pub secret: String,
    /// Who issued the certificate of a server with TLS.
    pub roots: Option<PathBuf>,
    /// How long the server may take for what it must do.
    pub patience: Duration,
    is_over: Arc<AtomicBool>,
}

impl Scene {
    pub fn new(address: SocketAddr, pid: u32, secret: &str, patience: Duration) -> Self {
        Self {
            address,
            pid,
            secret: secret.to_owned(),
            roots: None,
            patience,
            is_over: Arc::default(),
        }
    }

    /// The scene that this process was started for, and the name of its attack.
    pub fn given() -> Option<(String, Self)> {
        let variable = |name| std::env::var(name).expect("a variable of the attack");
        let attack = std::env::var(ATTACK).ok()?;
        let number = |name| variable(name).parse().expect("a number");
        let scene = Self {
            address: variable(ADDRESS).parse().expect("an address"),
            pid: variable(PID).parse().expect("a process"),
            secret: variable(SECRET),
            roots: std::env::var_os(ROOTS).map(PathBuf::from),
            patience: Duration::from_millis(number(PATIENCE_MS)),
            is_over: Arc::default(),
        };
        if super::is_timed() {
            // A real attacker is another machine: on the same processors he must not cost the witness his own time.
            // What the server does for him, it does at its usual priority.
            let _ = nice(19);
        }
        let is_over = Arc::clone(&scene.is_over);
        thread::spawn(move || {
            // A word, or the end of the test.
            let _ = io::stdin().read(&mut [0]);
            is_over.store(true, Ordering::SeqCst);
        });
        take_descriptors();
        Some((attack, scene))
    }

    /// Tells how it ended.
    pub fn tell(verdict: &Verdict) {
        match verdict {
            Ok(()) => println!("{MARK}{DONE}"),
            Err(error) => println!("{MARK}{error}"),
        }
    }

    /// Tells that the attack is all there.
    pub fn height() {
        println!("{MARK}{HEIGHT}");
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Stays until the test has seen enough.
    pub fn hold(&self) {
        while !self.is_over() {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Does something again and again, with a rest, `least` times and until the test has seen enough.
    pub fn repeat(
        &self,
        least: usize,
        rest: Duration,
        mut each: impl FnMut(usize) -> Verdict,
    ) -> Verdict {
        for turn in 0.. {
            if turn == least {
                Self::height();
            }
            if turn >= least && self.is_over() {
                break;
            }
            each(turn)?;
            thread::sleep(rest);
        }
        Ok(())
    }

    /// Waits until the server has done something.
    pub fn until(
        &self,
        what: &str,
        mut is_done: impl FnMut() -> Result<bool, Box<dyn Error>>,
    ) -> Verdict {
        let began = Instant::now();
        while !is_done()? {
            if began.elapsed() > self.patience {
                return Err(format!("waited in vain: {what}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the server holds no more than it did before.
    pub fn until_it_holds(&self, before: Holds, what: &str) -> Verdict {
        self.until(what, || Ok(Holds::of(self.pid).is_within(before)))
    }

    /// Waits until the server works for no more than a quarter of the time, which the witness may need:
    /// what it was asked for at once is done.
    pub fn until_it_rests(&self) -> Verdict {
        const LOOK_AGAIN: Duration = Duration::from_millis(200);
        let mut worked = vitals::worked(self.pid);
        self.until("the server has nothing to do", || {
            thread::sleep(LOOK_AGAIN);
            let before = std::mem::replace(&mut worked, vitals::worked(self.pid));
            Ok(worked.saturating_sub(before) <= LOOK_AGAIN / 4)
        })
    }

    pub fn holds(&self) -> Holds {
        Holds::of(self.pid)
    }

    pub fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.address, self.patience)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    pub fn raw(&self) -> io::Result<Raw> {
        let raw = Raw::over(self.connect()?)?;
        raw.socket().set_read_timeout(Some(self.patience))?;
        Ok(raw)
    }

    /// Connections that were all begun before the first was looked at, and whether or not they were taken.
    pub fn crowd(&self, count: usize) -> io::Result<Vec<TcpStream>> {
        (0..count).map(|_| self.begin_to_connect(None)).collect()
    }

    /// A socket that does not block, with this much room for what it does not read.
    pub fn begin_to_connect(&self, room_bytes: Option<usize>) -> io::Result<TcpStream> {
        const IN_PROGRESS: i32 = 115;
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if let Some(room_bytes) = room_bytes {
            socket.set_recv_buffer_size(room_bytes)?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
            _ => Ok(socket.into()),
        }
    }

    /// The head of a GET with a valid token.
    pub fn get(&self, hash: &str) -> String {
        self.head("GET", hash, "")
    }

    /// The head of a PUT with a valid token.
    pub fn put(&self, hash: &str, length: u64) -> String {
        self.head("PUT", hash, &format!("Content-Length: {length}\r\n"))
    }

    fn head(&self, method: &str, hash: &str, lines: &str) -> String {
        let (path, secret) = (client::path(hash), &self.secret);
        format!(
            "{method} {path} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {secret}\r\n{lines}\r\n"
        )
    }

    /// Clients that trust whoever issued the certificate of the server, and speak these versions.
    pub fn trusted(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
        let config = self.trusted_by(rustls::crypto::ring::default_provider(), versions)?;
        Ok(Arc::new(config))
    }

    /// The same with some of the ciphers only.
    pub fn trusted_by(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ClientConfig, Box<dyn Error>> {
        let path = self.roots.as_ref().ok_or("a server without TLS")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(path)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(config)
    }
}

/// What an answer was not.
pub fn is(answer: &Answer, status: u16) -> Verdict {
    if answer.status == status {
        return Ok(());
    }
    Err(format!("{status} was expected: {}", answer.head).into())
}

/// An attacker needs a descriptor for each of its connections.
fn take_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// An attacker as the test sees it.
pub struct Attacker {
    child: Child,
    stdin: Option<ChildStdin>,
    said: mpsc::Receiver<String>,
    patience: Duration,
}

impl Attacker {
    /// Starts this test binary as the attacker; `entry` is the test in it that hands over to the attack.
    pub fn start(entry: &str, attack: &str, scene: &Scene) -> Self {
        let this = std::env::current_exe().expect("this test binary");
        let mut command = Command::new(this);
        command
            .args(["--exact", entry, "--nocapture", "--test-threads=1"])
            .env(ATTACK, attack)
            .env(ADDRESS, scene.address.to_string())
            .env(PID, scene.pid.to_string())
            .env(SECRET, &scene.secret)
            .env(PATIENCE_MS, scene.patience.as_millis().to_string());
        if let Some(roots) = &scene.roots {
            command.env(ROOTS, roots);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this test binary starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, word)) = line.split_once(MARK) {
                    let _ = sender.send(word.to_owned());
                }
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            said,
            patience: scene.patience * 4,
        }
    }

    /// Waits until the attack is all there.
    pub fn await_height(&self) -> Result<(), String> {
        self.expect(HEIGHT)
    }

    /// Tells the attacker that it is over; what it has found out.
    pub fn end(&mut self) -> Result<(), String> {
        if let Some(mut stdin) = self.stdin.take() {
            // Where it has ended by itself, nobody reads this.
            let _ = stdin.write_all(b"x");
        }
        self.expect(DONE)
    }

    fn expect(&self, word: &str) -> Result<(), String> {
        match self.said.recv_timeout(self.patience) {
            Ok(said) if said == word => Ok(()),
            Ok(said) => Err(said),
            Err(_) => Err(format!("the attacker never said '{word}'")),
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
