//! What a disk may hold after power is lost between any two events of a [`Trace`].
//!
//! On the disk is what a sync that has ended covers. Of everything later, each write may be there, or not, or any of
//! its sectors; a new length may be there without the bytes, which are zeros then; and names may be as they were.
//! That is more than any one file system does: what holds here holds on each of them that honours a sync, and
//! leaves alone what was not written (SQLite calls that powersafe overwrite).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::Random;
use super::trace::{Event, Trace};

/// Names and the files behind them.
type Names = BTreeMap<String, usize>;

/// What changes at once in the directory: a rename is one change of two names.
type Change = Vec<(String, Option<usize>)>;

/// A disk with its cache, at some event of the trace.
pub struct Disk<'t> {
    trace: &'t Trace,
    at: usize,
    files: Vec<Contents>,
    by_inode: HashMap<u64, usize>,
    names: Names,
    /// The names that a sync of the directory made safe, and the changes since.
    safe_names: Names,
    changes: Vec<Change>,
    /// How many of those changes are safe where the order of changes is kept, because some file was synced since.
    changes_in_order: usize,
    /// Syncs that go on: what each of them covers.
    syncs: HashMap<usize, Sync>,
    deaf: Option<&'static str>,
}

/// A file: what is safe of it, and the events since.
#[derive(Default)]
struct Contents {
    safe: Vec<u8>,
    since: Vec<usize>,
    /// How many events are in `safe`.
    safe_count: usize,
}

struct Sync {
    /// `None`: the directory.
    file: Option<usize>,
    /// How many events of the file it covers.
    covers: usize,
    /// How many changes of names came before it, in all.
    changes: usize,
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the process was killed, the kernel goes on.
    Nothing,
    /// All that is not surely on the disk.
    All,
    /// Of each file everything from some moment on.
    Tails,
    /// Any writes, any sectors of writes.
    Any,
}

/// Which names are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Changes come to the disk in their order, and before a sync of any file ends, as with ext4 and xfs.
    InOrder,
    /// Only a sync of the directory makes them safe, and until then any of them may be lost.
    Any,
}

impl<'t> Disk<'t> {
    /// An empty directory before the first event. Syncs of files whose names end in `deaf` do nothing; `/` is the
    /// directory.
    pub fn new(trace: &'t Trace, deaf: Option<&'static str>) -> Self {
        Self {
            trace,
            at: 0,
            files: Vec::new(),
            by_inode: HashMap::new(),
            names: Names::new(),
            safe_names: Names::new(),
            changes: Vec::new(),
            changes_in_order: 0,
            syncs: HashMap::new(),
            deaf,
        }
    }

    /// Goes on until so many events have happened.
    pub fn go_to(&mut self, at: usize) {
        while self.at < at {
            self.step(self.trace.events[self.at]);
            self.at += 1;
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Write { file, .. } | Event::Length { file, .. } => {
                let file = self.by_inode[&file];
                self.files[file].since.push(self.at);
            }
            Event::Names { list } => self.rename(self.trace.names(list)),
            Event::SyncBegins { file } => {
                let file = self.by_inode.get(&file).copied();
                let sync = Sync {
                    file,
                    covers: file.map_or(0, |file| self.files[file].count()),
                    changes: self.changes.len(),
                };
                self.syncs.insert(self.at, sync);
            }
            Event::SyncEnds { began } => {
                let sync = self.syncs.remove(&began).expect("a sync began");
                if !self.is_deaf(sync.file) {
                    self.keep(&sync);
                }
            }
        }
    }

    fn is_deaf(&self, file: Option<usize>) -> bool {
        let name = |&(_, &named): &(&String, &usize)| Some(named) == file;
        let name = self.names.iter().find(name).map(|(name, _)| name.as_str());
        self.deaf.is_some_and(|deaf| match file {
            None => deaf == "/",
            Some(_) => name.is_some_and(|name| name.ends_with(deaf)),
        })
    }

    /// Makes safe what a sync covers.
    fn keep(&mut self, sync: &Sync) {
        self.changes_in_order = self.changes_in_order.max(sync.changes);
        let Some(file) = sync.file else {
            // Another sync of the directory may have ended in between.
            for change in self.changes.drain(..sync.changes.min(self.changes.len())) {
                apply(&mut self.safe_names, &change);
            }
            for other in self.syncs.values_mut() {
                other.changes = other.changes.saturating_sub(sync.changes);
            }
            self.changes_in_order = self.changes_in_order.saturating_sub(sync.changes);
            self.forget_files();
            return;
        };
        let contents = &mut self.files[file];
        let count = sync.covers.saturating_sub(contents.safe_count);
        contents.safe_count += count;
        let events: Vec<usize> = contents.since.drain(..count).collect();
        let mut safe = std::mem::take(&mut contents.safe);
        for event in events {
            self.write(&mut safe, event);
        }
        self.files[file].safe = safe;
    }

    /// Forgets the bytes of files that will never be found again.
    fn forget_files(&mut self) {
        for (file, contents) in self.files.iter_mut().enumerate() {
            let has = |names: &Names| names.values().any(|&named| named == file);
            let is_changed = |change: &Change| change.iter().any(|(_, to)| *to == Some(file));
            let may_be_found =
                has(&self.names) || has(&self.safe_names) || self.changes.iter().any(is_changed);
            if !may_be_found {
                contents.safe = Vec::new();
                contents.safe_count += contents.since.len();
                contents.since.clear();
            }
        }
    }

    fn rename(&mut self, listing: Vec<(String, u64)>) {
        // An inode that no name had is that of a new file, even if a file that is gone had it.
        let had: Vec<usize> = self.names.values().copied().collect();
        let mut names = Names::new();
        for (name, inode) in listing {
            let known = self.by_inode.get(&inode).copied();
            let file = known.filter(|file| had.contains(file)).unwrap_or_else(|| {
                self.files.push(Contents::default());
                self.files.len() - 1
            });
            self.by_inode.insert(inode, file);
            names.insert(name, file);
        }
        let mut change = Change::new();
        for name in self.names.keys() {
            if !names.contains_key(name) {
                change.push((name.clone(), None));
            }
        }
        for (name, &file) in &names {
            if self.names.get(name) != Some(&file) {
                change.push((name.clone(), Some(file)));
            }
        }
        self.names = names;
        if !change.is_empty() {
            self.changes.push(change);
        }
    }

    /// Writes what is left of the disk into an empty directory.
    pub fn lose(&self, loss: Loss, naming: Naming, random: &mut Random, into: &Path) {
        for (name, file) in self.names_left(loss, naming, random) {
            let bytes = self.bytes_left(&self.files[file], loss, random);
            let path = into.join(name);
            std::fs::write(&path, bytes).expect("a file");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, private).expect("a private file");
        }
    }

    fn names_left(&self, loss: Loss, naming: Naming, random: &mut Random) -> Names {
        let mut names = self.safe_names.clone();
        let safe = match naming {
            Naming::InOrder => self.changes_in_order,
            Naming::Any => 0,
        };
        let until = safe + random.below((self.changes.len() - safe) as u64 + 1) as usize;
        for (index, change) in self.changes.iter().enumerate() {
            let is_there = match loss {
                Loss::Nothing => true,
                _ if index < safe => true,
                Loss::All => false,
                Loss::Any if naming == Naming::Any => random.below(2) == 0,
                Loss::Tails | Loss::Any => index < until,
            };
            if is_there {
                apply(&mut names, change);
            }
        }
        names
    }

    fn bytes_left(&self, contents: &Contents, loss: Loss, random: &mut Random) -> Vec<u8> {
        let mut bytes = contents.safe.clone();
        let until = random.below(contents.since.len() as u64 + 1) as usize;
        // Between nearly nothing and nearly everything.
        let percent = [3, 50, 97][random.below(3) as usize];
        let sector = [512, 4096][random.below(2) as usize];
        for (index, &event) in contents.since.iter().enumerate() {
            match loss {
                Loss::All => {}
                Loss::Tails if index > until => {}
                Loss::Tails if index == until => {
                    self.tear(&mut bytes, event, sector, random);
                }
                Loss::Nothing | Loss::Tails => self.write(&mut bytes, event),
                Loss::Any => match random.below(10) {
                    0 => self.tear(&mut bytes, event, sector, random),
                    _ if random.below(100) < percent => {
                        self.write(&mut bytes, event);
                    }
                    _ => self.grow(&mut bytes, event, random),
                },
            }
        }
        bytes
    }

    /// Writes some sectors of what an event wrote.
    fn tear(&self, bytes: &mut Vec<u8>, event: usize, sector: usize, random: &mut Random) {
        let Event::Write {
            offset,
            bytes: span,
            ..
        } = self.trace.events[event]
        else {
            return;
        };
        let (first, end) = (offset as usize, offset as usize + span.length);
        bytes.resize(bytes.len().max(end), 0);
        let before = bytes[first..end].to_vec();
        self.write(bytes, event);
        let mut from = first;
        while from < end {
            let until = (from / sector * sector + sector).min(end);
            if random.below(2) == 0 {
                bytes[from..until].copy_from_slice(&before[from - first..until - first]);
            }
            from = until;
        }
    }

    /// At times the length of a write that is lost.
    fn grow(&self, bytes: &mut Vec<u8>, event: usize, random: &mut Random) {
        if let Event::Write {
            offset,
            bytes: written,
            ..
        } = self.trace.events[event]
            && random.below(4) == 0
        {
            let end = offset as usize + written.length;
            bytes.resize(bytes.len().max(end), 0);
        }
    }

    /// Does what an event did.
    fn write(&self, bytes: &mut Vec<u8>, event: usize) {
        match self.trace.events[event] {
            Event::Length { length, .. } => bytes.resize(length as usize, 0),
            Event::Write {
                offset,
                bytes: span,
                ..
            } => {
                let (from, end) = (offset as usize, offset as usize + span.length);
                bytes.resize(bytes.len().max(end), 0);
                bytes[from..end].copy_from_slice(&self.trace.bytes(span));
            }
            _ => unreachable!("no event of a file"),
        }
    }
}

impl Contents {
    /// How many events there were.
    fn count(&self) -> usize {
        self.safe_count + self.since.len()
    }
}

fn apply(names: &mut Names, change: &Change) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}
