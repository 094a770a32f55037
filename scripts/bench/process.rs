//! What the kernel says about the processes of a server: memory, CPU time, bytes written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Linux counts CPU time for /proc in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory, summed over processes. Mapped file pages belong to the page cache: the kernel takes
/// them back when it likes, so they are counted apart.
#[derive(Default, Clone, Copy)]
pub struct Memory {
    pub anonymous_bytes: u64,
    pub file_bytes: u64,
}

/// A process and its children (nginx: the master and its workers).
pub fn family(pid: u32) -> Vec<u32> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        sum.anonymous_bytes += field_bytes(&status, "RssAnon:");
        sum.file_bytes += field_bytes(&status, "RssFile:") + field_bytes(&status, "RssShmem:");
    }
    sum
}

fn field_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// User and system time of the processes so far.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| cpu_ticks(*pid)).sum::<u64>() as f64 / TICKS_PER_SECOND
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields after it.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    next() + next()
}

/// Bytes handed to `write`, of any kind: a sign of life.
fn bytes_written(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let field = io
            .lines()
            .find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
        field.unwrap_or(0)
    };
    pids.iter().map(of).sum()
}

/// Whether a thread of the processes waits for the disk, which costs no CPU but is work.
fn waits_for_disk(pids: &[u32]) -> bool {
    let threads = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    threads.flatten().flatten().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|fields| fields.starts_with(" D"))
    })
}

/// How long the processes still work after the last answer, until they have been quiet for a while and
/// their log, if they keep one, is folded in. Only time in which they use the CPU, write or wait for the
/// disk counts: waiting for a timer does not.
pub fn settle(pids: &[u32], log: Option<&Path>) -> Duration {
    const STEP: Duration = Duration::from_millis(10);
    const QUIET: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(10);
    let log_is_empty = || log.is_none_or(|log| fs::metadata(log).map_or(0, |log| log.len()) == 0);
    let started = Instant::now();
    let (mut busy, mut quiet) = (Duration::ZERO, Duration::ZERO);
    let mut before = (cpu_seconds(pids), bytes_written(pids));
    while (quiet < QUIET || !log_is_empty()) && started.elapsed() < PATIENCE {
        let step_started = Instant::now();
        std::thread::sleep(STEP);
        let now = (cpu_seconds(pids), bytes_written(pids));
        if now != before || waits_for_disk(pids) {
            busy += step_started.elapsed();
            quiet = Duration::ZERO;
        } else {
            quiet += step_started.elapsed();
        }
        before = now;
    }
    busy
}

/// Watches something in the background until dropped, and keeps the largest value seen.
pub struct Peak {
    values: Arc<[AtomicU64; 3]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    /// Samples memory of `pids` and the length of the file `log` every 20 ms.
    pub fn watch(pids: Vec<u32>, log: Option<PathBuf>) -> Self {
        let values: Arc<[AtomicU64; 3]> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&values), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let now = memory(&pids);
                shared[0].fetch_max(now.anonymous_bytes, Ordering::Relaxed);
                shared[1].fetch_max(now.file_bytes, Ordering::Relaxed);
                let length = log
                    .as_ref()
                    .and_then(|log| fs::metadata(log).ok())
                    .map_or(0, |log| log.len());
                shared[2].fetch_max(length, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            values,
            stop,
            thread: Some(thread),
        }
    }

    pub fn memory(&self) -> Memory {
        Memory {
            anonymous_bytes: self.values[0].load(Ordering::Relaxed),
            file_bytes: self.values[1].load(Ordering::Relaxed),
        }
    }

    pub fn log_bytes(&self) -> u64 {
        self.values[2].load(Ordering::Relaxed)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
