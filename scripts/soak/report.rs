//! The table that a run ends with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ending::Ended;
use crate::watch::{Life, Peaks};
use crate::world::World;

/// What a day is: 2,000 builds with 60 tasks each that are looked up, of which one in five is built and stored.
const BUILDS_A_DAY: u64 = 2_000;
const TASKS_A_BUILD: u64 = 60;
const STORED_ONE_IN: u64 = 5;
const REQUESTS_A_DAY: u64 =
    BUILDS_A_DAY * TASKS_A_BUILD + BUILDS_A_DAY * TASKS_A_BUILD / STORED_ONE_IN;

fn line(name: &str, value: impl std::fmt::Display) {
    println!("{name:58} {value:>14}");
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub fn print(world: &World, life: &Life, peaks: &Peaks, ended: &Ended, load: Duration) {
    let peak = |value: &AtomicU64| value.load(Ordering::Relaxed);
    println!();
    line("seed", world.seed);
    line("seconds, checks included", load.as_secs());
    line("requests answered", world.answered());
    line(
        "requests answered by the last process after its warm-up",
        life.answered,
    );
    line(
        "days of a team: 2,000 builds of 60 tasks, 4 of 5 are hits",
        format!("{:.1}", world.answered() as f64 / REQUESTS_A_DAY as f64),
    );
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
    let (before, after) = (&life.before.footprint, &life.after.footprint);
    line("memory of its own after the warm-up", mib(before.own_bytes));
    line(
        "memory of its own at the most",
        mib(peak(&peaks.memory_bytes)),
    );
    line("memory of its own at the end", mib(after.own_bytes));
    let descriptors = (
        before.descriptor_count(),
        peak(&peaks.descriptors),
        after.descriptor_count(),
    );
    line(
        "descriptors after the warm-up, most, end",
        format!("{descriptors:?}"),
    );
    let threads = (
        before.thread_count(),
        peak(&peaks.threads),
        after.thread_count(),
    );
    line(
        "threads after the warm-up, most, end",
        format!("{threads:?}"),
    );
    line("write-ahead log at the end", mib(life.after.log_bytes));
    line("write-ahead log at the most", mib(peak(&peaks.log_bytes)));
    line("database file at the most", mib(peak(&peaks.file_bytes)));
    line("database file at the end", mib(ended.file_bytes));
    line("broken promises", world.broken().len());
    for what in world.broken() {
        println!("BROKEN: {what}");
    }
}
