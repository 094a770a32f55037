//! What the kernel says about a process: its own memory, its threads, its descriptors. A watch looks all the time
//! and ends a process that takes too much, so that a server which does not hold the bound cannot take the machine
//! along.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// What a process holds that an attack might make it keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    pub threads: usize,
    pub descriptors: usize,
}

impl Holds {
    pub fn of(pid: u32) -> Self {
        let count =
            |folder| fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
        Self {
            threads: count("task"),
            descriptors: count("fd"),
        }
    }

    pub fn is_within(self, other: Self) -> bool {
        self.threads <= other.threads && self.descriptors <= other.descriptors
    }
}

/// Memory of the process itself. Pages of files belong to the page cache: the kernel takes them back when it likes.
fn own_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name| {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    let kibibytes = |name| field(name).unwrap_or(0);
    (kibibytes("RssAnon:") + kibibytes("RssShmem:")) * 1024
}

/// How long a process has worked so far, on all processors. The kernel counts hundredths of a second.
pub fn worked(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything, user and system time are the 12th and 13th field.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(
        ticks
            .filter_map(|field| field.parse::<u64>().ok())
            .sum::<u64>()
            * 10,
    )
}

/// Looks at the memory of a process until dropped.
pub struct Watch {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Ends the process once it holds more than `bound_bytes`.
    pub fn over(pid: u32, bound_bytes: u64) -> Self {
        let (peak, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (shared, stopped) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let now = own_bytes(pid);
                shared.fetch_max(now, Ordering::Relaxed);
                if now > bound_bytes {
                    end(pid);
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            peak,
            stop,
            thread: Some(thread),
        }
    }

    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn end(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
