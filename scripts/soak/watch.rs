//! What the kernel says of the server, while it works and when it rests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::process;
use crate::wire::Wire;
use crate::world::World;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a server may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most that was seen.
#[derive(Default)]
pub struct Peaks {
    pub memory_bytes: AtomicU64,
    pub descriptors: AtomicU64,
    pub threads: AtomicU64,
    pub log_bytes: AtomicU64,
    pub file_bytes: AtomicU64,
}

/// What a process has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Memory of its own: the mapped file is not in it.
    pub memory_bytes: u64,
    pub descriptors: u64,
    pub threads: u64,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let entries = |what: &str| {
            let directory = std::fs::read_dir(format!("/proc/{pid}/{what}"));
            directory.map_or(0, |entries| entries.count() as u64)
        };
        Self {
            memory_bytes: process::memory(&[pid]).anonymous_bytes,
            descriptors: entries("fd"),
            threads: entries("task"),
        }
    }
}

pub fn start<'scope>(world: &'scope World, scope: &'scope Scope<'scope, '_>, peaks: &'scope Peaks) {
    scope.spawn(move || {
        while !world.is_stopping() {
            look(world, peaks);
            world.rest(LOOK_EVERY);
        }
    });
}

fn look(world: &World, peaks: &Peaks) {
    let now = Footprint::of(world.pid.load(Ordering::SeqCst));
    let length = |path| std::fs::metadata(path).map_or(0, |file| file.len());
    let mut log = world.db().into_os_string();
    log.push("-wal");
    peaks
        .memory_bytes
        .fetch_max(now.memory_bytes, Ordering::Relaxed);
    peaks
        .descriptors
        .fetch_max(now.descriptors, Ordering::Relaxed);
    peaks.threads.fetch_max(now.threads, Ordering::Relaxed);
    peaks
        .log_bytes
        .fetch_max(length(log.into()), Ordering::Relaxed);
    peaks
        .file_bytes
        .fetch_max(length(world.db()), Ordering::Relaxed);
}

/// The server when nobody has asked it anything for a while: the least of what it has within some time, for what
/// it did last may still end.
pub fn at_rest(world: &World) -> Footprint {
    // What is opened for the first request counts as its own.
    let _ = Wire::new(world).get(&world.reader, "none");
    let pid = world.pid.load(Ordering::SeqCst);
    let (began, mut least) = (Instant::now(), Footprint::of(pid));
    let (mut changed, quiet) = (Instant::now(), Duration::from_secs(3));
    while changed.elapsed() < quiet && began.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_EVERY);
        let now = Footprint::of(pid);
        if (now.descriptors, now.threads) != (least.descriptors, least.threads) {
            changed = Instant::now();
        }
        least = now;
    }
    least
}
