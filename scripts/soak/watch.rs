//! What the kernel says of the server, while it works and when it rests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::footprint::Footprint;
use crate::wire::Wire;
use crate::world::World;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a server may take to come to rest.
const PATIENCE: Duration = Duration::from_mins(1);

/// What memory of its own may be more than after the warm-up: the page caches of 16 readers (1 MiB each at the most),
/// and holes in the arenas of malloc. A leak of 200 bytes a request is more after 100,000 of them.
const OWN_SLACK_BYTES: u64 = 16 << 20;

/// The most that was seen.
#[derive(Default)]
pub struct Peaks {
    pub memory_bytes: AtomicU64,
    pub descriptors: AtomicU64,
    pub threads: AtomicU64,
    pub log_bytes: AtomicU64,
    pub file_bytes: AtomicU64,
}

/// The server at rest, at the beginning and at the end of a long life.
pub struct Life {
    pub before: Rest,
    pub after: Rest,
    /// Requests that were answered in between.
    pub answered: u64,
}

/// What the server has when nobody uses it.
pub struct Rest {
    pub footprint: Footprint,
    /// The least that was seen: what nobody reads goes by its age then, too, and that is written.
    pub log_bytes: u64,
}

impl Life {
    /// It ends with what it began with.
    pub fn check(&self, world: &World) {
        let (before, after) = (&self.before.footprint, &self.after.footprint);
        if !after.has_the_same_handles(before) {
            world.breaks(&format!(
                "descriptors or threads leak: {before:?}, then {after:?}"
            ));
        }
        if after.own_bytes > before.own_bytes + OWN_SLACK_BYTES {
            let kib = [before.own_bytes >> 10, after.own_bytes >> 10];
            world.breaks(&format!("memory leaks: {kib:?} KiB of its own"));
        }
        for log_bytes in [self.before.log_bytes, self.after.log_bytes] {
            if log_bytes > 0 {
                world.breaks(&format!("the log at rest has {log_bytes} bytes"));
            }
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
    let file_bytes = std::fs::metadata(world.db()).map_or(0, |file| file.len());
    for (peak, value) in [
        (&peaks.memory_bytes, now.own_bytes),
        (&peaks.descriptors, now.descriptor_count()),
        (&peaks.threads, now.thread_count()),
        (&peaks.log_bytes, log_bytes(world)),
        (&peaks.file_bytes, file_bytes),
    ] {
        peak.fetch_max(value, Ordering::Relaxed);
    }
}

fn log_bytes(world: &World) -> u64 {
    let mut log = world.db().into_os_string();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |log| log.len())
}

/// The server when nobody has asked it anything for a while: its descriptors and threads have not changed for some
/// seconds, its log was folded, and it makes no backup. After some time what there is then.
pub fn at_rest(world: &World) -> Rest {
    // What is opened for the first request counts as its own.
    let _ = Wire::new(world).get(&world.reader, "none");
    let pid = world.pid.load(Ordering::SeqCst);
    let (began, mut last) = (Instant::now(), Footprint::of(pid));
    let mut least_log_bytes = log_bytes(world);
    let (mut changed, quiet) = (Instant::now(), Duration::from_secs(3));
    while changed.elapsed() < quiet && began.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_EVERY);
        let now = Footprint::of(pid);
        least_log_bytes = least_log_bytes.min(log_bytes(world));
        let is_idle = now.is_alone() && !now.has_open("/scheduled/") && least_log_bytes == 0;
        if !is_idle || !now.has_the_same_handles(&last) {
            changed = Instant::now();
        }
        last = now;
    }
    Rest {
        footprint: last,
        log_bytes: least_log_bytes,
    }
}
