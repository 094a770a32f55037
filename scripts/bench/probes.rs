//! What the matrix does not show: small requests beside large uploads, memory under large uploads, the cost
//! of a miss, the length of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::client::Client;
use crate::histogram::Histogram;
use crate::load::{self, Bodies, Slice, fresh_hash};
use crate::plan::Plan;
use crate::process::{Memory, Peak, cpu_seconds, memory, settle};
use crate::report::{Table, megabytes, ratio, seconds, three_digits};
use crate::servers::{Kind, Server};

const UPLOADS: usize = 8;

/// All uploads together, when they are as fast as a gigabit network and not as fast as the machine.
const PACED_BYTES_PER_SECOND: f64 = 100e6;

/// Latencies of small requests in one situation.
struct Small {
    get: Histogram,
    put: Histogram,
    upload_bytes_per_second: f64,
}

/// Everything seen of one server.
pub struct Probed {
    pub kind: Kind,
    quiet: Small,
    paced: Small,
    full: Small,
    idle_memory: Memory,
    upload_memory: Memory,
    miss_micros: [f64; 2],
    pub log_bytes: u64,
}

impl Probed {
    /// p99 of small PUTs beside uploads at full speed, in seconds.
    pub fn put_beside_uploads(&self) -> f64 {
        self.full.put.quantile(0.99)
    }

    /// How much longer the p99 of small GETs is beside uploads at full speed.
    pub fn get_beside_uploads(&self) -> f64 {
        self.full.get.quantile(0.99) / self.quiet.get.quantile(0.99)
    }

    /// As above, with the uploads at network speed.
    pub fn get_beside_paced_uploads(&self) -> f64 {
        self.paced.get.quantile(0.99) / self.quiet.get.quantile(0.99)
    }

    pub fn upload_anonymous_bytes(&self) -> u64 {
        self.upload_memory.anonymous_bytes
    }

    /// CPU time of a miss in µs, on one connection.
    pub fn miss_micros(&self) -> f64 {
        self.miss_micros[0]
    }
}

pub fn run(plan: &Plan, kind: Kind) -> Result<Probed> {
    plan.progress(&format!("small requests beside uploads, {}", kind.title()));
    let (small, mixed_log_bytes) = beside_uploads(plan, kind)?;
    let [quiet, paced, full] = small;
    plan.progress(&format!("eight large uploads, {}", kind.title()));
    let (idle_memory, upload_memory, upload_log_bytes) = large_uploads(plan, kind)?;
    plan.progress(&format!("misses, {}", kind.title()));
    Ok(Probed {
        kind,
        quiet,
        paced,
        full,
        idle_memory,
        upload_memory,
        miss_micros: misses(plan, kind)?,
        log_bytes: mixed_log_bytes.max(upload_log_bytes),
    })
}

/// Small requests on one connection: alone, beside uploads at network speed, beside uploads at full speed.
fn beside_uploads(plan: &Plan, kind: Kind) -> Result<([Small; 3], u64)> {
    let server = Server::start(kind, &plan.setup)?;
    let (small, large) = (Bodies::new(1 << 10), Bodies::new(16 << 20));
    let hashes: Vec<String> = (0..100).map(|_| fresh_hash()).collect();
    load::preload(&server, &hashes, &small)?;
    let probe = || {
        let slice = plan.slice(4, 50, u64::MAX);
        let get = load::gets(&server, 1, slice, &hashes, &small)?.latencies;
        let put = load::puts(&server, 1, slice, &small)?.latencies;
        anyhow::Ok((get, put))
    };
    let (get, put) = probe()?;
    let quiet = Small {
        get,
        put,
        upload_bytes_per_second: 0.0,
    };
    let watch = Peak::watch(server.pids(), server.log());
    let paced = during_uploads(&server, &large, Some(PACED_BYTES_PER_SECOND), probe)?;
    settle(&server.pids(), server.log().as_deref());
    let full = during_uploads(&server, &large, None, probe)?;
    Ok(([quiet, paced, full], watch.log_bytes()))
}

fn during_uploads(
    server: &Server,
    bodies: &Bodies,
    pace: Option<f64>,
    probe: impl FnOnce() -> Result<(Histogram, Histogram)>,
) -> Result<Small> {
    let stop = AtomicBool::new(false);
    let upload = |number: usize| {
        let mut client = Client::connect(server.address, &server.token)?;
        client.miss(&fresh_hash())?;
        let mut sent_bytes = 0;
        while !stop.load(Ordering::Relaxed) {
            let (hash, body) = (fresh_hash(), bodies.get(number as u64));
            client.put_paced(
                &hash,
                body,
                server.put_status(),
                pace.map(|all| all / UPLOADS as f64),
            )?;
            server.discard(&hash);
            sent_bytes += body.len();
        }
        anyhow::Ok(sent_bytes)
    };
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        let uploads: Vec<_> = (0..UPLOADS)
            .map(|number| scope.spawn(move || upload(number)))
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let probed = probe();
        stop.store(true, Ordering::Relaxed);
        let mut sent_bytes = 0;
        for upload in uploads {
            sent_bytes += upload.join().map_err(|_| anyhow!("an upload panicked"))??;
        }
        let (get, put) = probed?;
        Ok(Small {
            get,
            put,
            upload_bytes_per_second: sent_bytes as f64 / started.elapsed().as_secs_f64(),
        })
    })
}

/// Memory before and while eight 200 MB uploads run at once, and the longest log.
fn large_uploads(plan: &Plan, kind: Kind) -> Result<(Memory, Memory, u64)> {
    let mut server = Server::start(kind, &plan.setup)?;
    let idle = memory(&server.pids());
    let watch = Peak::watch(server.pids(), server.log());
    let bodies = Bodies::new(200 << 20);
    let slice = Slice {
        time: Duration::ZERO,
        requests_min: UPLOADS as u64,
        requests_max: UPLOADS as u64,
    };
    let outcome = load::puts(&server, UPLOADS, slice, &bodies);
    server.check_alive()?;
    outcome?;
    Ok((idle, watch.memory(), watch.log_bytes()))
}

/// CPU time of the server for each miss in µs, on one connection and on eight.
fn misses(plan: &Plan, kind: Kind) -> Result<[f64; 2]> {
    let server = Server::start(kind, &plan.setup)?;
    let mut micros = [0.0; 2];
    for (micros, connections) in micros.iter_mut().zip([1, 8]) {
        load::misses(&server, connections, plan.slice(1, 1, 1000))?;
        let before = cpu_seconds(&server.pids());
        let outcome = load::misses(&server, connections, plan.slice(2, 20_000, u64::MAX))?;
        *micros = (cpu_seconds(&server.pids()) - before) * 1e6 / outcome.latencies.count() as f64;
    }
    Ok(micros)
}

pub fn print(probed: &[Probed], plan: &Plan) {
    let headers = [
        "server",
        "uploads",
        "MB/s",
        "GET p50",
        "p99",
        "against quiet",
        "PUT p50",
        "p99",
        "PUTs",
    ];
    let mut table = Table::new(
        "1 KB requests on one connection beside eight 16 MB uploads",
        &headers,
    );
    for each in probed {
        let quiet_p99 = each.quiet.get.quantile(0.99);
        for (name, small) in [
            ("none", &each.quiet),
            ("gigabit", &each.paced),
            ("full speed", &each.full),
        ] {
            table.row(vec![
                each.kind.title().to_owned(),
                name.to_owned(),
                megabytes(small.upload_bytes_per_second),
                seconds(small.get.quantile(0.5)),
                seconds(small.get.quantile(0.99)),
                ratio(small.get.quantile(0.99) / quiet_p99),
                seconds(small.put.quantile(0.5)),
                seconds(small.put.quantile(0.99)),
                small.put.count().to_string(),
            ]);
        }
    }
    table.note(
        "The uploading clients use the same two cores: what nginx shows here is the noise floor.",
    );
    table.print(plan.markdown);

    let headers = [
        "server",
        "idle: anonymous + file MB",
        "eight 200 MB uploads",
        "miss, 1 conn µs CPU",
        "8 conns",
        "log MB",
    ];
    let mut table = Table::new("Memory, misses and the log", &headers);
    for each in probed {
        let show = |memory: Memory| {
            format!(
                "{} + {}",
                megabytes(memory.anonymous_bytes as f64),
                megabytes(memory.file_bytes as f64)
            )
        };
        let log = if each.kind == Kind::Cachesrv {
            megabytes(each.log_bytes as f64)
        } else {
            "-".to_owned()
        };
        table.row(vec![
            each.kind.title().to_owned(),
            show(each.idle_memory),
            show(each.upload_memory),
            three_digits(each.miss_micros[0]),
            three_digits(each.miss_micros[1]),
            log,
        ]);
    }
    table.print(plan.markdown);
}
