//! What the upkeep of a large database costs its clients: small GETs on one connection while it starts, is backed
//! up, verified and evicted from, beside what a person would do without these commands (`cp`, `VACUUM INTO`,
//! `PRAGMA integrity_check`). Client and server share the cores with whatever runs beside them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::client::Client;
use crate::histogram::Histogram;
use crate::load::{self, Bodies, Slice, fresh_hash};
use crate::plan::Plan;
use crate::process::Peak;
use crate::report::{Table, megabytes, ratio, seconds, three_digits};
use crate::servers::{Kind, Server};

/// What the small GETs ask for.
const HOT_ENTRIES: usize = 100;

/// Uploads that fill the database, at once.
const FILLERS: usize = 4;

/// The least time that a situation is watched for.
const WATCH_MIN: Duration = Duration::from_secs(3);

/// How long an eviction may take.
const EVICTION_MAX: Duration = Duration::from_mins(3);

/// GETs in one situation.
struct Situation {
    name: String,
    took: Duration,
    get: Histogram,
    server_bytes: u64,
    /// Of the command, where it is a process of its own.
    command_bytes: Option<u64>,
    log_bytes: u64,
}

/// Everything that was seen.
pub struct Upkeep {
    entries: u64,
    database_bytes: u64,
    starts: [(&'static str, Duration); 2],
    situations: Vec<Situation>,
}

/// The running server and what is asked of it meanwhile.
struct Bench {
    server: Server,
    hashes: Vec<String>,
    bodies: Bodies,
}

pub fn run(plan: &Plan) -> Result<Upkeep> {
    let mut bench = fill(plan)?;
    let database = bench.server.database();
    let database_bytes = fs::metadata(&database)?.len();
    plan.progress("starts");
    let starts = [("warm", bench.start(false)?), ("cold", bench.start(true)?)];
    let mut situations = Vec::new();
    let mut watch = |name: &str, work: &mut dyn FnMut(&Bench) -> Result<Option<u64>>| {
        plan.progress(name);
        situations.push(bench.beside(name, || work(&bench))?);
        anyhow::Ok(())
    };
    let copy = database.with_file_name("copy.db");
    let remove = |path: &Path| fs::remove_file(path).context("removing a copy");
    watch("nothing", &mut |_| Ok(None))?;
    watch("cachesrv backup", &mut |bench| {
        let memory = run_command(bench.server.command().arg("backup").arg(&copy))?;
        remove(&copy)?;
        Ok(Some(memory))
    })?;
    watch("VACUUM INTO", &mut |_| {
        sqlite(&database, &format!("VACUUM INTO '{}'", copy.display()))?;
        remove(&copy)?;
        Ok(None)
    })?;
    watch("cp (not a backup)", &mut |_| {
        let memory = run_command(Command::new("cp").arg(&database).arg(&copy))?;
        remove(&copy)?;
        Ok(Some(memory))
    })?;
    watch("cachesrv verify", &mut |bench| {
        Ok(Some(run_command(bench.server.command().arg("verify"))?))
    })?;
    watch("cachesrv verify --quick", &mut |bench| {
        Ok(Some(run_command(
            bench.server.command().args(["verify", "--quick"]),
        )?))
    })?;
    watch("PRAGMA integrity_check", &mut |_| {
        sqlite(&database, "PRAGMA integrity_check")?;
        Ok(None)
    })?;
    watch("nothing, once more", &mut |_| Ok(None))?;
    // Eviction begins at 95 % of a limit and ends at 90 %, so less than 6 % never go.
    for percent in [6, 25] {
        let name = format!("eviction of {percent} % of the entries");
        plan.progress(&name);
        let before = entries(&database)?;
        bench.evict(percent)?;
        let mut seen = bench.beside(&name, || settled(&database).map(|()| None))?;
        let gone = before - entries(&database)?;
        seen.name = format!("eviction, {gone} entries");
        situations.push(seen);
    }
    Ok(Upkeep {
        entries: plan.upkeep_entries,
        database_bytes,
        starts,
        situations,
    })
}

fn fill(plan: &Plan) -> Result<Bench> {
    plan.progress(&format!("{} entries for the upkeep", plan.upkeep_entries));
    let server = Server::start(Kind::Cachesrv, &plan.setup)?;
    let bodies = Bodies::new(1 << 10);
    let slice = Slice {
        time: Duration::ZERO,
        requests_min: plan.upkeep_entries,
        requests_max: plan.upkeep_entries,
    };
    load::puts(
        &server,
        FILLERS,
        slice,
        &Bodies::new(plan.upkeep_size_bytes),
    )?;
    // Last, so that eviction leaves them.
    let hashes: Vec<String> = (0..HOT_ENTRIES).map(|_| fresh_hash()).collect();
    load::preload(&server, &hashes, &bodies)?;
    Ok(Bench {
        server,
        hashes,
        bodies,
    })
}

impl Bench {
    /// How long a start takes until the first artifact is there.
    fn start(&mut self, is_cold: bool) -> Result<Duration> {
        self.server.stop();
        if is_cold {
            // The file is written out first: only clean pages can be dropped. Needs root.
            ensure!(Command::new("sync").status()?.success(), "sync failed");
            fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache")?;
        }
        let started = Instant::now();
        self.server.restart(&keep_all())?;
        let mut client = Client::connect(self.server.address, &self.server.token)?;
        client.get(&self.hashes[0], self.bodies.size_bytes as u64)?;
        Ok(started.elapsed())
    }

    /// Starts the server with a limit that lets about so many percent of what is stored go.
    fn evict(&mut self, percent: u64) -> Result<()> {
        let used_bytes = used_bytes(&self.server.database())?;
        // Eviction ends at 90 % of the limit.
        let limit_bytes = used_bytes / 100 * (100 - percent) / 90 * 100;
        self.server.restart(&[
            format!("eviction.max_size={limit_bytes}"),
            "eviction.isolated_share=0".to_owned(),
            "eviction.min_free_disk=0B".to_owned(),
        ])
    }

    /// GETs as fast as they are answered until `work` is done.
    fn beside(&self, name: &str, work: impl FnOnce() -> Result<Option<u64>>) -> Result<Situation> {
        let memory = Peak::watch(self.server.pids(), self.server.log());
        let done = std::sync::atomic::AtomicBool::new(false);
        let ask = || -> Result<Histogram> {
            let mut client = Client::connect(self.server.address, &self.server.token)?;
            let mut latencies = Histogram::new();
            let (begun, size) = (Instant::now(), self.bodies.size_bytes as u64);
            let is_over =
                || done.load(std::sync::atomic::Ordering::Relaxed) && begun.elapsed() >= WATCH_MIN;
            for hash in self.hashes.iter().cycle() {
                if is_over() {
                    break;
                }
                let asked = Instant::now();
                client.get(hash, size)?;
                latencies.record(asked.elapsed());
            }
            Ok(latencies)
        };
        std::thread::scope(|scope| {
            let asking = scope.spawn(ask);
            let begun = Instant::now();
            let worked = work();
            let took = begun.elapsed();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let get = asking
                .join()
                .map_err(|_| anyhow!("the client panicked"))??;
            Ok(Situation {
                name: name.to_owned(),
                took,
                get,
                server_bytes: memory.memory().anonymous_bytes,
                command_bytes: worked?,
                log_bytes: memory.log_bytes(),
            })
        })
    }
}

fn keep_all() -> Vec<String> {
    vec![
        "eviction.max_size=1TiB".to_owned(),
        "eviction.min_free_disk=0B".to_owned(),
    ]
}

/// Runs a command to its end; the most memory of its own that it had.
fn run_command(command: &mut Command) -> Result<u64> {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let memory = Peak::watch(vec![child.id()], None);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(memory.memory().anonymous_bytes)
}

fn open(database: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    Ok(connection)
}

/// A statement as a person would run it in the `sqlite3` shell.
fn sqlite(database: &Path, sql: &str) -> Result<()> {
    let connection = open(database)?;
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let word: String = row.get(0)?;
        ensure!(word == "ok", "{sql}: {word}");
    }
    Ok(())
}

fn entries(database: &Path) -> Result<i64> {
    let sum = "SELECT sum(entries) FROM trusted_usage";
    Ok(open(database)?.query_row(sum, [], |row| row.get(0))?)
}

fn used_bytes(database: &Path) -> Result<u64> {
    let sum = "SELECT sum(size_bytes + 512 * entries) FROM trusted_usage";
    Ok(open(database)?.query_row(sum, [], |row| row.get::<_, i64>(0))? as u64)
}

/// Waits until eviction has ended and what it took is freed.
fn settled(database: &Path) -> Result<()> {
    const STEP: Duration = Duration::from_millis(200);
    const QUIET_STEPS: u32 = 10;
    let connection = open(database)?;
    let sql = "SELECT (SELECT sum(entries) FROM trusted_usage),
                      EXISTS (SELECT 1 FROM artifacts WHERE state = 'condemned' AND state <> 'stored')";
    let (mut before, mut quiet) = (0, 0);
    let begun = Instant::now();
    while quiet < QUIET_STEPS {
        ensure!(
            begun.elapsed() < EVICTION_MAX,
            "eviction goes on after {EVICTION_MAX:?}"
        );
        let (now, is_pending): (i64, bool) =
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        quiet = if now == before && !is_pending {
            quiet + 1
        } else {
            0
        };
        before = now;
        std::thread::sleep(STEP);
    }
    Ok(())
}

pub fn print(upkeep: &Upkeep, plan: &Plan) {
    let mut table = Table::new(
        format!(
            "Upkeep of {} entries in {} GB: 1 KB GETs on one connection beside it",
            upkeep.entries,
            three_digits(upkeep.database_bytes as f64 / 1e9)
        ),
        &[
            "beside",
            "took",
            "GET p50",
            "p99",
            "longest",
            "against quiet",
            "server MB",
            "command MB",
            "log MB",
        ],
    );
    let quiet = upkeep.situations[0].get.quantile(0.99);
    for each in &upkeep.situations {
        table.row(vec![
            each.name.clone(),
            seconds(each.took.as_secs_f64()),
            seconds(each.get.quantile(0.5)),
            seconds(each.get.quantile(0.99)),
            seconds(each.get.quantile(1.0)),
            ratio(each.get.quantile(0.99) / quiet),
            megabytes(each.server_bytes as f64),
            each.command_bytes
                .map_or("-".to_owned(), |bytes| megabytes(bytes as f64)),
            megabytes(each.log_bytes as f64),
        ]);
    }
    for (name, took) in upkeep.starts {
        table.note(format!(
            "Start to the first artifact, {name} page cache: {}.",
            seconds(took.as_secs_f64())
        ));
    }
    table.print(plan.markdown);
}
