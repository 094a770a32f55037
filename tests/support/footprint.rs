//! What the kernel says that a process has: memory of its own, descriptors, threads. Tests and the soak compare two
//! of them to find what leaks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What a process has at one moment.
#[derive(Debug, Clone, Default)]
pub struct Footprint {
    /// Resident memory of its own, in bytes: the mapped file belongs to the page cache and is not in it.
    pub own_bytes: u64,
    /// How many descriptors there are of each file, or kind of socket.
    pub descriptors: BTreeMap<String, usize>,
    /// How many threads there are of each name; those of connections have one name.
    pub threads: BTreeMap<String, usize>,
}

impl Footprint {
    /// That of a process; nothing at all if there is none.
    pub fn of(pid: u32) -> Self {
        let process = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{process}/status")).unwrap_or_default();
        let own = status.lines().find_map(|line| {
            let (number, _) = line.strip_prefix("RssAnon:")?.trim().split_once(' ')?;
            number.parse::<u64>().ok()
        });
        // `socket:[4711]`
        let target = |path: &Path| {
            let target = fs::read_link(path).ok()?.to_string_lossy().into_owned();
            let kind = target.split_once(":[").map(|(kind, _)| kind.to_owned());
            Some(kind.unwrap_or(target))
        };
        // `conn-17`
        let name = |path: &Path| {
            let name = fs::read_to_string(path.join("comm")).ok()?;
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '\n');
            Some(name.to_owned())
        };
        Self {
            own_bytes: own.unwrap_or(0) * 1024,
            descriptors: counted(&format!("{process}/fd"), target),
            threads: counted(&format!("{process}/task"), name),
        }
    }

    pub fn descriptor_count(&self) -> u64 {
        self.descriptors.values().sum::<usize>() as u64
    }

    pub fn thread_count(&self) -> u64 {
        self.threads.values().sum::<usize>() as u64
    }

    /// Whether no client has a thread.
    pub fn is_alone(&self) -> bool {
        !self.threads.keys().any(|name| name.starts_with("conn-"))
    }

    /// Whether a file is open in whose path this is.
    pub fn has_open(&self, part: &str) -> bool {
        self.descriptors.keys().any(|path| path.contains(part))
    }

    /// Whether the other one has the same descriptors and threads.
    pub fn has_the_same_handles(&self, other: &Self) -> bool {
        self.descriptors == other.descriptors && self.threads == other.threads
    }
}

/// The entries of a directory by what `key` says of them; those that are gone by then are left out.
fn counted(directory: &str, key: impl Fn(&Path) -> Option<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Some(key) = key(&entry.path()) {
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}
