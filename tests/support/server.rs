//! A running `cachesrv serve`: started in a directory, known by its log, ended by a signal. Its log and its
//! files are evidence of the directory (see `evidence`).

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use super::dir::{BINARY, Dir, Token};
use super::evidence::Evidence;
use super::raw::Raw;
use super::{Client, PATIENCE, eventually};

/// A server; killed when dropped. Its log is printed when the test panics.
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: Log,
    stdout: Log,
    evidence: Option<Arc<Evidence>>,
    ended: bool,
}

/// What the server has written on stderr (or stdout) so far, and whether that was all.
#[derive(Clone, Default)]
struct Log(Arc<(Mutex<(String, bool)>, Condvar)>);

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// How often Argon2 ran, by the last line of a log in text or JSON.
    #[track_caller]
    pub fn argon2_runs(&self) -> u64 {
        let last = self.log.lines().last().unwrap_or_default();
        let (_, number) = last
            .split_once(" info stopped argon2_runs=")
            .or_else(|| last.split_once("\"message\":\"stopped\",\"argon2_runs\":"))
            .unwrap_or_else(|| panic!("the server did not say what it did: {}", self.log));
        let number = number.trim_end_matches('}');
        number.parse().expect("a number")
    }
}

impl Server {
    pub fn start(dir: &Dir) -> Self {
        Self::start_with(dir, &[])
    }

    /// Starts with further arguments, such as `--set limits.database_wait=1s`.
    pub fn start_with(dir: &Dir, args: &[&str]) -> Self {
        let mut command = dir.command(BINARY);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args);
        Self::start_command(&mut command)
    }

    /// Starts whatever ends in a server that listens on a free port.
    pub fn start_command(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let log = Log::follow(child.stderr.take().expect("stderr is a pipe"));
        let stdout = Log::follow(child.stdout.take().expect("stdout is a pipe"));
        let evidence = Evidence::of_command(command);
        if let Some(evidence) = &evidence {
            for (what, text) in [("log", &log), ("stdout", &stdout)] {
                let (what, text) = (format!("the {what} of {command:?}"), text.clone());
                evidence.text_by_then(&what, move || text.text());
            }
        }
        let mut server = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            log,
            stdout,
            evidence,
            ended: false,
        };
        let line = server.wait_for_line("listening");
        server.address = address_in(&line);
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client with this token.
    pub fn client(&self, token: &Token) -> Client {
        Client::new(self.address, Some(&token.secret))
    }

    /// A client without a token.
    pub fn stranger(&self) -> Client {
        Client::new(self.address, None)
    }

    pub fn connect(&self) -> Raw {
        Raw::connect(self.address)
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How many lines of the log contain `text` by now.
    pub fn lines_with(&self, text: &str) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// The first line of the log that contains `text`, waited for.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str) -> String {
        let found = self.log.wait(|log| {
            let line = log.split_inclusive('\n').find(|line| line.contains(text))?;
            line.strip_suffix('\n').map(str::to_owned)
        });
        found.unwrap_or_else(|| panic!("'{text}' is not in the log:\n{}", self.log()))
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let done = Command::new("sh").args(["-c", &kill]).status();
        assert!(done.expect("sh starts").success(), "{kill}");
    }

    /// Asks the server to stop, and does not wait. Files that will be gone then must be private, too.
    pub fn terminate(&self) {
        let evidence = self.evidence.iter();
        let public: Vec<_> = evidence.flat_map(|all| all.public_files()).collect();
        assert!(public.is_empty(), "{public:#?}");
        self.signal("TERM");
    }

    /// Stops the server as an operator does and waits for its end.
    pub fn stop(self) -> Ended {
        self.terminate();
        self.wait()
    }

    /// Ends the server without a warning (SIGKILL).
    pub fn kill(mut self) -> Ended {
        self.child.kill().expect("the server runs");
        self.wait()
    }

    /// Waits for the end that something has caused.
    pub fn wait(mut self) -> Ended {
        let status = eventually("the server ends", || {
            self.child.try_wait().expect("a child")
        });
        self.ended = true;
        self.log.wait_for_end();
        self.stdout.wait_for_end();
        let log = self.log();
        Ended { status, log }
    }

    /// Whether the process is there.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }
}

/// The address in the line of a log that says where the server listens, in text or JSON.
fn address_in(line: &str) -> SocketAddr {
    let text = line.split_once(" listening address=");
    let json = || line.split_once("\"listening\",\"address\":\"");
    let (_, rest) = text.or_else(json).expect("an address");
    let address = rest.split([' ', '"']).next().unwrap_or_default();
    address.parse().expect("an address in the log")
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the log of the server:\n{}", self.log());
        }
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
            // All of it is evidence.
            self.log.wait_for_end();
            self.stdout.wait_for_end();
        }
    }
}

impl Log {
    fn follow(pipe: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let this = log.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line).into_owned();
                this.0.0.lock().unwrap().0.push_str(&text);
                this.0.1.notify_all();
                line.clear();
            }
            this.0.0.lock().unwrap().1 = true;
            this.0.1.notify_all();
        });
        log
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().0.clone()
    }

    fn wait_for_end(&self) {
        self.wait(|_| None::<()>);
    }

    /// Waits until `look` finds something, or there is nothing more to come.
    fn wait<T>(&self, look: impl Fn(&str) -> Option<T>) -> Option<T> {
        let state = self.0.0.lock().unwrap();
        let unfound = |state: &mut (String, bool)| look(&state.0).is_none() && !state.1;
        let waited = self.0.1.wait_timeout_while(state, PATIENCE, unfound);
        look(&waited.unwrap().0.0)
    }
}
