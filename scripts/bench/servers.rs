//! The servers under test, each started in an empty directory and stopped when dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::process;

/// A column of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Cachesrv,
    Nginx,
    TinyHttp,
    Sqlite,
}

impl Kind {
    pub fn title(self) -> &'static str {
        match self {
            Self::Cachesrv => "cachesrv",
            Self::Nginx => "nginx",
            Self::TinyHttp => "tiny_http",
            Self::Sqlite => "SQLite",
        }
    }

    /// SQLite alone speaks no HTTP.
    pub fn is_server(self) -> bool {
        self != Self::Sqlite
    }
}

/// What every server is started with.
pub struct Setup {
    pub cachesrv: PathBuf,
    pub work_dir: PathBuf,
    /// A queue of its own for each nginx worker, or one for all.
    pub nginx_reuseport: bool,
}

impl Setup {
    /// A directory that goes with its owner.
    pub fn empty_dir(&self) -> Result<TempDir> {
        let prefix = format!("bench-{}-", std::process::id());
        Ok(tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.work_dir)?)
    }

    /// Removes what interrupted runs have left behind.
    pub fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.work_dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name
                .strip_prefix("bench-")
                .and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// One running server.
pub struct Server {
    pub kind: Kind,
    pub address: SocketAddr,
    pub token: String,
    child: Child,
    dir: TempDir,
    cachesrv: PathBuf,
}

impl Server {
    pub fn start(kind: Kind, setup: &Setup) -> Result<Self> {
        let dir = setup.empty_dir()?;
        let started = match kind {
            Kind::Cachesrv => start_cachesrv(&setup.cachesrv, dir.path()),
            Kind::Nginx => start_nginx(dir.path(), setup.nginx_reuseport),
            Kind::TinyHttp => start_tiny_http(dir.path()),
            Kind::Sqlite => bail!("SQLite alone is not a server"),
        };
        let (child, address, token) =
            started.with_context(|| format!("starting {}", kind.title()))?;
        Ok(Self {
            kind,
            address,
            token,
            child,
            dir,
            cachesrv: setup.cachesrv.clone(),
        })
    }

    /// Stops cachesrv and starts it again on the same file with other settings.
    pub fn restart(&mut self, settings: &[String]) -> Result<()> {
        self.stop();
        (self.child, self.address) = serve_cachesrv(&self.cachesrv, self.dir.path(), settings)?;
        Ok(())
    }

    /// The command line of cachesrv on its file, for what runs beside it.
    pub fn command(&self) -> Command {
        command(&self.cachesrv, self.dir.path())
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("cachesrv.db")
    }

    /// What a successful PUT is answered with.
    pub fn put_status(&self) -> u16 {
        if self.kind == Kind::Nginx { 201 } else { 200 }
    }

    /// Its processes: for nginx the master and the workers.
    pub fn pids(&self) -> Vec<u32> {
        process::family(self.child.id())
    }

    /// Frees the space of an artifact where that is a matter of deleting a file.
    pub fn discard(&self, hash: &str) {
        if self.kind != Kind::Cachesrv {
            let _ = fs::remove_file(self.dir.path().join("v1/cache").join(hash));
        }
    }

    /// The write-ahead log, if it has one.
    pub fn log(&self) -> Option<PathBuf> {
        (self.kind == Kind::Cachesrv).then(|| self.dir.path().join("cachesrv.db-wal"))
    }

    /// Ends the run if the server died of what it was asked.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            bail!(
                "{} ended during the run with {status}: {tail:?}",
                self.kind.title()
            );
        }
        Ok(())
    }
}

impl Server {
    /// A clean stop; after ten seconds, an unclean one. Nothing to do for one that has ended.
    pub fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!(
            "bench: {} did not stop within 10 s of SIGTERM",
            self.kind.title()
        );
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

type Started = (Child, SocketAddr, String);

fn command(binary: &Path, dir: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .current_dir(dir)
        .env("CACHESRV_DB", dir.join("cachesrv.db"))
        .env("CACHESRV_LISTEN", "127.0.0.1:0")
        .env("CACHESRV_LOG_REQUESTS", "false");
    command
}

fn start_cachesrv(binary: &Path, dir: &Path) -> Result<Started> {
    let created = command(binary, dir)
        .args(["token", "create", "--write"])
        .output()?;
    ensure!(
        created.status.success(),
        "`{} token create --write` failed: {}{}",
        binary.display(),
        String::from_utf8_lossy(&created.stderr),
        created.status
    );
    let token = String::from_utf8(created.stdout)?.trim().to_owned();
    ensure!(!token.is_empty(), "`token create --write` printed no token");
    // Nothing goes in a comparison with servers that keep everything.
    let (child, address) = serve_cachesrv(binary, dir, &["eviction.max_size=1TiB".to_owned()])?;
    Ok((child, address, token))
}

fn serve_cachesrv(binary: &Path, dir: &Path, settings: &[String]) -> Result<(Child, SocketAddr)> {
    let mut child = command(binary, dir)
        .arg("serve")
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take().context("no stderr")?;
    let mut lines = BufReader::new(stderr);
    let address = address_logged(&mut lines).inspect_err(|_| drop(child.kill()))?;
    keep_stderr(lines, dir.join("stderr"));
    Ok((child, address))
}

/// Reads the log up to the line that says where the server listens.
fn address_logged(lines: &mut impl BufRead) -> Result<SocketAddr> {
    let mut seen = String::new();
    loop {
        let start = seen.len();
        ensure!(
            lines.read_line(&mut seen)? > 0,
            "it ended before it listened: {seen}"
        );
        let line = &seen[start..];
        let Some((_, rest)) = line
            .split_once("address=")
            .filter(|_| line.contains("listening"))
        else {
            continue;
        };
        let address = rest
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .trim_matches('"');
        return address
            .parse()
            .with_context(|| format!("no address in {line:?}"));
    }
}

/// Empties the pipe, or the server would block on it; what it said is kept for a person to read.
fn keep_stderr(mut lines: impl Read + Send + 'static, path: PathBuf) {
    std::thread::spawn(move || {
        let Ok(mut file) = fs::File::create(path) else {
            return;
        };
        let _ = std::io::copy(&mut lines, &mut file);
    });
}

/// A token of the length of ours: what nginx and tiny_http compare.
const STATIC_TOKEN: &str =
    "csv_w_0123456789ab_0123456789abcdefghijklmnopqrstuvwxyz0123456789_0123456";

fn start_tiny_http(dir: &Path) -> Result<Started> {
    let root = dir.join("v1/cache");
    fs::create_dir_all(&root)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("serve-tiny-http")
        .arg(&root)
        .arg(STATIC_TOKEN)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(dir.join("stderr"))?)
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
    Ok((child, line.trim().parse()?, STATIC_TOKEN.to_owned()))
}

fn start_nginx(dir: &Path, reuseport: bool) -> Result<Started> {
    for each in ["v1/cache", "tmp"] {
        fs::create_dir_all(dir.join(each))?;
    }
    let address = free_address()?;
    let config = dir.join("nginx.conf");
    fs::write(&config, nginx_config(dir, address, reuseport))?;
    let mut child = Command::new("nginx")
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(dir.join("stderr"))
        .stderr(Stdio::null())
        .spawn()
        .context("nginx (scripts/bench.sh installs it when run as root)")?;
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        if started.elapsed() > Duration::from_secs(5) || child.try_wait()?.is_some() {
            let log = fs::read_to_string(dir.join("stderr")).unwrap_or_default();
            let _ = child.kill();
            bail!("nginx does not listen on {address}: {log}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((child, address, STATIC_TOKEN.to_owned()))
}

/// A port that was free a moment ago: nginx cannot choose one itself.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// nginx as somebody would set it up who wants it to win: one worker per core with a queue of its own
/// (with one queue for all, one worker takes most connections; measured, it is no faster on the whole),
/// sendfile with full packets, descriptors of hot files kept open, no access log, connections never
/// closed; uploads buffered on the file system they are renamed on.
fn nginx_config(dir: &Path, address: SocketAddr, reuseport: bool) -> String {
    let dir = dir.display();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let reuseport = if reuseport { "reuseport" } else { "" };
    let user = if is_root { "user root;" } else { "" };
    format!(
        r#"{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {dir}/nginx.pid;
error_log {dir}/stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    open_file_cache max=20000 inactive=300s;
    open_file_cache_valid 300s;
    open_file_cache_min_uses 1;
    client_max_body_size 0;
    client_body_buffer_size 256k;
    client_body_temp_path {dir}/tmp;
    proxy_temp_path {dir}/tmp;
    fastcgi_temp_path {dir}/tmp;
    uwsgi_temp_path {dir}/tmp;
    scgi_temp_path {dir}/tmp;
    server {{
        listen {address} {reuseport} backlog=4096;
        root {dir};
        if ($http_authorization != "Bearer {STATIC_TOKEN}") {{ return 401; }}
        location /v1/cache/ {{ dav_methods PUT; dav_access user:rw; }}
    }}
}}
"#
    )
}
