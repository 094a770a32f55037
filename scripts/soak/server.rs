//! The server process: started on the socket that the soak holds, stopped or killed, its log followed.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running server.
pub struct Server {
    child: Child,
    log: Option<JoinHandle<Log>>,
}

/// What was remarkable in its log.
#[derive(Default)]
pub struct Log {
    pub lines: u64,
    pub warnings: Vec<String>,
    pub errors: Vec<String>,
    pub panics: Vec<String>,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub fn start(
        binary: &Path,
        db: &Path,
        listener: &TcpListener,
        settings: &[String],
    ) -> Result<Self> {
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
            .arg(binary)
            .args(["serve", "--db"])
            .arg(db)
            .args(settings)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.fd_mappings(vec![FdMapping {
            parent_fd: listener.try_clone()?.into(),
            child_fd: 3,
        }])?;
        let mut child = command.spawn()?;
        let (sender, listens) = mpsc::channel();
        let stderr = child.stderr.take().context("a pipe")?;
        let log = thread::spawn(move || follow(stderr, &sender));
        if listens.recv_timeout(PATIENCE).is_err() {
            let _ = child.kill();
            let log = log.join().unwrap_or_default();
            bail!(
                "the server does not start: {:?} {:?}",
                log.errors,
                log.panics
            );
        }
        Ok(Self {
            child,
            log: Some(log),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> Result<(ExitStatus, Log)> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                self.child.kill()?;
                bail!("the server does not stop within {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.end()
    }

    /// Ends it without a warning.
    pub fn kill(mut self) -> Result<(ExitStatus, Log)> {
        self.child.kill()?;
        self.end()
    }

    fn end(mut self) -> Result<(ExitStatus, Log)> {
        let status = self.child.wait()?;
        let log = self.log.take().and_then(|log| log.join().ok());
        Ok((status, log.unwrap_or_default()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended already this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stderr: ChildStderr, listens: &mpsc::Sender<()>) -> Log {
    let mut log = Log::default();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        log.lines += 1;
        let level = line.split(' ').nth(1).unwrap_or_default();
        if line.contains(" info listening ") {
            let _ = listens.send(());
        } else if line.contains("panicked") {
            log.panics.push(line);
        } else if level == "error" || line.starts_with("error:") {
            log.errors.push(line);
        } else if level == "warn" {
            log.warnings.push(line);
        }
    }
    log
}
