//! The table that a run ends with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ending::Ended;
use crate::watch::{Footprint, Peaks};
use crate::world::World;

fn line(name: &str, value: impl std::fmt::Display) {
    println!("{name:58} {value:>14}");
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub fn print(
    world: &World,
    before: &Footprint,
    after: &Footprint,
    peaks: &Peaks,
    ended: &Ended,
    load: Duration,
) {
    let peak = |value: &AtomicU64| value.load(Ordering::Relaxed);
    println!();
    line("seed", world.seed);
    line("seconds, checks included", load.as_secs());
    for (what, number) in world.counts() {
        line(&what, number);
    }
    for (kind, reason, entries, bytes) in &ended.evictions {
        line(
            &format!("evicted, {kind}, by {reason}"),
            format!("{entries}, {}", mib(*bytes as u64)),
        );
    }
    line("backups that the database remembers", ended.backups);
    line(
        "memory of its own at the beginning",
        mib(before.memory_bytes),
    );
    line(
        "memory of its own at the most",
        mib(peak(&peaks.memory_bytes)),
    );
    line("memory of its own at the end", mib(after.memory_bytes));
    let descriptors = (
        before.descriptors,
        peak(&peaks.descriptors),
        after.descriptors,
    );
    line(
        "descriptors at the beginning, most, end",
        format!("{descriptors:?}"),
    );
    let threads = (before.threads, peak(&peaks.threads), after.threads);
    line(
        "threads at the beginning, most, end",
        format!("{threads:?}"),
    );
    line("write-ahead log at the most", mib(peak(&peaks.log_bytes)));
    line("database file at the most", mib(peak(&peaks.file_bytes)));
    line("database file at the end", mib(ended.file_bytes));
    line("broken promises", world.broken().len());
    for what in world.broken() {
        println!("BROKEN: {what}");
    }
}
