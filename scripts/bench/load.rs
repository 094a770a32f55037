//! The load: so many connections, one thread each, that ask as fast as they are answered for a slice of time.
//!
//! Connections are opened one after another, each with a request of its own before the next, so that every
//! server has its threads ready and tiny_http does not strand one (design/http.md).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use twox_hash::XxHash3_64;

use crate::client::Client;
use crate::histogram::Histogram;
use crate::servers::Server;

/// When a slice is over: after `time` and `requests_min`, or at `requests_max`.
#[derive(Clone, Copy)]
pub struct Slice {
    pub time: Duration,
    pub requests_min: u64,
    pub requests_max: u64,
}

/// What a slice has shown.
pub struct Outcome {
    pub elapsed: Duration,
    pub bytes: u64,
    pub latencies: Histogram,
}

impl Outcome {
    pub fn requests_per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64()
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }
}

/// Hands out turns until the slice is over.
pub struct Turns {
    slice: Slice,
    started: Instant,
    taken: AtomicU64,
}

impl Turns {
    pub fn new(slice: Slice) -> Self {
        Self {
            slice,
            started: Instant::now(),
            taken: AtomicU64::new(0),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The number of the next request, if there is to be one.
    pub fn next(&self) -> Option<u64> {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let enough = turn >= self.slice.requests_min && self.started.elapsed() >= self.slice.time;
        (turn < self.slice.requests_max && !enough).then_some(turn)
    }
}

/// Artifacts of one size with random content, any two of which differ.
pub struct Bodies {
    noise: Vec<u8>,
    pub size_bytes: usize,
}

impl Bodies {
    /// Bodies are windows into the same noise, shifted by this at least.
    const SHIFT_BYTES: usize = 64;
    const SHIFTS: usize = 1024;

    pub fn new(size_bytes: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15 ^ size_bytes as u64;
        let words = (size_bytes + Self::SHIFT_BYTES * Self::SHIFTS).div_ceil(8);
        let noise = (0..words)
            .flat_map(|_| next_random(&mut state).to_le_bytes())
            .collect();
        Self { noise, size_bytes }
    }

    pub fn get(&self, number: u64) -> &[u8] {
        let start = (number as usize % Self::SHIFTS) * Self::SHIFT_BYTES;
        &self.noise[start..start + self.size_bytes]
    }
}

/// xorshift64: fast, and nothing compresses it.
pub fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A hash nobody has used, in decimal as Nx writes them.
pub fn fresh_hash() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_string()
}

/// Stores the artifacts that GETs will ask for.
pub fn preload(server: &Server, hashes: &[String], bodies: &Bodies) -> Result<()> {
    let mut client = Client::connect(server.address, &server.token)?;
    for (number, hash) in hashes.iter().enumerate() {
        client.put(hash, bodies.get(number as u64), server.put_status())?;
    }
    Ok(())
}

/// GETs of stored artifacts, in turn.
pub fn gets(
    server: &Server,
    connections: usize,
    slice: Slice,
    hashes: &[String],
    bodies: &Bodies,
) -> Result<Outcome> {
    let size = bodies.size_bytes as u64;
    let pick = |turn: u64| turn as usize % hashes.len();
    let warm_up = |client: &mut Client, connection: usize| {
        if connection > 0 {
            return client.miss(&fresh_hash());
        }
        let checksum = client.get_checksum(&hashes[0], size)?;
        ensure!(
            checksum == XxHash3_64::oneshot(bodies.get(0)),
            "GET {} returned other bytes",
            hashes[0]
        );
        Ok(())
    };
    let request = |client: &mut Client, turn: u64| client.get(&hashes[pick(turn)], size);
    run(server, connections, slice, size, warm_up, request)
}

/// PUTs of new artifacts.
pub fn puts(server: &Server, connections: usize, slice: Slice, bodies: &Bodies) -> Result<Outcome> {
    let status = server.put_status();
    let request =
        |client: &mut Client, turn: u64| client.put(&fresh_hash(), bodies.get(turn), status);
    run(
        server,
        connections,
        slice,
        bodies.size_bytes as u64,
        warm_up_with_miss,
        request,
    )
}

/// GETs of what nobody has stored.
pub fn misses(server: &Server, connections: usize, slice: Slice) -> Result<Outcome> {
    run(
        server,
        connections,
        slice,
        0,
        warm_up_with_miss,
        |client, _| client.miss(&fresh_hash()),
    )
}

fn warm_up_with_miss(client: &mut Client, _connection: usize) -> Result<()> {
    client.miss(&fresh_hash())
}

fn run(
    server: &Server,
    connections: usize,
    slice: Slice,
    size_bytes: u64,
    warm_up: impl Fn(&mut Client, usize) -> Result<()>,
    request: impl Fn(&mut Client, u64) -> Result<()> + Sync,
) -> Result<Outcome> {
    let describe = || format!("{}, {connections} connections", server.kind.title());
    let mut clients = Vec::with_capacity(connections);
    for connection in 0..connections {
        let mut client = Client::connect(server.address, &server.token).with_context(describe)?;
        warm_up(&mut client, connection).with_context(describe)?;
        clients.push(client);
    }
    let barrier = Barrier::new(connections);
    let turns = OnceLock::new();
    let work = |mut client: Client| {
        barrier.wait();
        let turns = turns.get_or_init(|| Turns::new(slice));
        serve_turns(turns, |turn| request(&mut client, turn))
    };
    let parts: Result<Vec<(Histogram, Instant)>> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || work(client)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_>>| {
            thread
                .join()
                .map_err(|_| anyhow!("a connection thread panicked"))?
        };
        threads.into_iter().map(join).collect()
    });
    let parts = parts.with_context(describe)?;
    let started = turns.get().context("nobody took a turn")?.started;
    Ok(sum_up(&parts, started, size_bytes))
}

/// One connection's share of a slice.
fn serve_turns(
    turns: &Turns,
    mut request: impl FnMut(u64) -> Result<()>,
) -> Result<(Histogram, Instant)> {
    let mut latencies = Histogram::new();
    let mut before = Instant::now();
    while let Some(turn) = turns.next() {
        request(turn)?;
        let now = Instant::now();
        latencies.record(now - before);
        before = now;
    }
    Ok((latencies, before))
}

fn sum_up(parts: &[(Histogram, Instant)], started: Instant, size_bytes: u64) -> Outcome {
    let mut latencies = Histogram::new();
    for (part, _) in parts {
        latencies.merge(part);
    }
    let ended = parts
        .iter()
        .map(|(_, ended)| *ended)
        .max()
        .unwrap_or(started);
    Outcome {
        elapsed: ended - started,
        bytes: latencies.count() * size_bytes,
        latencies,
    }
}
