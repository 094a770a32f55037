//! A temporary directory with a database in it, and the command line run there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

use rusqlite::Connection;
use tempfile::TempDir;

use super::PATIENCE;
use super::evidence::Evidence;

/// The executable that cargo built for these tests.
pub const BINARY: &str = env!("CARGO_BIN_EXE_cachesrv");

/// A directory of its own for each test; the database in it has its default name.
///
/// When it is dropped, no secret may be in it, in a log or in an output, and its files are private.
pub struct Dir {
    root: TempDir,
    evidence: Arc<Evidence>,
}

/// What a run left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A token that was made by the real command.
#[derive(Clone)]
pub struct Token {
    pub secret: String,
    pub id: String,
}

impl Outcome {
    /// Asserts that a command failed with exactly this, and printed nothing on stdout.
    #[track_caller]
    pub fn failed(&self, code: i32, stderr: &str) {
        let expected = Self {
            code: Some(code),
            stdout: String::new(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(*self, expected);
    }

    /// What a command that succeeded printed on stdout.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

impl Dir {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir())
    }

    /// The same where nothing waits for a disk, if there is such a place: for tests of thousands of commits.
    pub fn in_memory() -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()))
    }

    fn at(root: std::io::Result<TempDir>) -> Self {
        let root = root.expect("a temporary directory");
        let evidence = Evidence::of_dir(root.path());
        Self { root, evidence }
    }

    /// Where else secrets are looked for, and where they may be.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub fn db(&self) -> PathBuf {
        self.join("cachesrv.db")
    }

    /// A command in this directory with nothing in its environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the real binary to its end.
    pub fn cli(&self, args: &[&str]) -> Outcome {
        run(self.command(BINARY).args(args))
    }

    /// Runs a line of shell, with the binary as `$cachesrv`.
    pub fn shell(&self, line: &str) -> Outcome {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = self.command("sh");
        run(command
            .args(["-c", line])
            .env("cachesrv", BINARY)
            .env("PATH", path))
    }

    /// Makes a token: `write` or `read`.
    pub fn token(&self, access: &str) -> Token {
        self.token_with(&[&format!("--{access}")])
    }

    /// Makes a token with these options of `token create`.
    #[track_caller]
    pub fn token_with(&self, options: &[&str]) -> Token {
        let args = [&["token", "create"], options].concat();
        let stdout = self.cli(&args).done();
        let secret = stdout.trim_end().to_owned();
        let id = secret[5..17].to_owned();
        Token { secret, id }
    }

    /// The database, opened beside whoever uses it.
    pub fn sqlite(&self) -> Connection {
        sqlite(&self.db())
    }

    /// The one number that a query yields.
    pub fn number(&self, sql: &str) -> i64 {
        number(&self.sqlite(), sql)
    }

    /// The names of the files in the directory, in order.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("the directory is readable");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !thread::panicking() {
            let findings = self.evidence.findings();
            assert!(findings.is_empty(), "{findings:#?}");
        }
    }
}

/// Runs a command to its end; one that has none, such as a server that should not have started, fails.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().expect("the program starts");
    let kill = format!("kill -KILL {}", child.id());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        let _ = Command::new("sh").args(["-c", &kill]).status();
        panic!("{command:?} does not end");
    };
    let output = output.expect("its output is read");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let outcome = Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    if let Some(evidence) = Evidence::of_command(command) {
        evidence.output(command, &outcome.stdout, &outcome.stderr);
    }
    outcome
}

/// Opens a database that exists.
pub fn sqlite(path: &Path) -> Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags(path, flags).expect("the database opens");
    let wait = std::time::Duration::from_secs(20);
    connection.busy_timeout(wait).expect("a timeout");
    connection
}

/// The one number that a query yields.
#[track_caller]
pub fn number(connection: &Connection, sql: &str) -> i64 {
    connection
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}
