//! A file that comes to its name whole or not at all: written beside it under a name of its own, private from
//! its first byte, synced and then renamed.
//!
//! What a crash leaves is `NAME.tmp.` with eight hexadecimal digits. It is locked (`flock`) by whoever writes
//! it, so that the next one for the same name can tell what was left from what is being written.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::RngExt;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::{OpenError, StoreError};
use super::file::{FileLock, MODE, sibling};
use super::writer::LOG_BYTES_MAX;
use crate::units::print_size_roughly;

/// Between a name and the digits that make it one of ours.
const MARK: &str = ".tmp.";

/// How many digits there are.
const DIGITS: usize = 8;

/// What stays free above the floor of the disk is this part of it: as much as eviction for the disk makes.
const HEADROOM_PARTS: u64 = 8;

/// Why a file cannot come to its place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is there already.
    #[error("'{0}' exists")]
    Exists(PathBuf),
    /// It would replace what is being copied.
    #[error("'{0}' is the database itself")]
    Itself(PathBuf),
    /// A server works with the file that would be replaced.
    #[error("'{0}' is a database in use by a cachesrv server")]
    InUse(PathBuf),
    /// SQLite would take the log for that of the new file.
    #[error("'{}' is beside '{}': that is a database in use, or one that was not closed", log.display(), path.display())]
    HasLog {
        /// What would be replaced, or copied.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// There is nothing to put it into.
    #[error("there is no directory '{0}'")]
    NoDirectory(PathBuf),
    /// A device, a socket.
    #[error("'{0}' is not a regular file")]
    NotAFile(PathBuf),
    /// The disk is too small.
    #[error(
        "no room for '{}': up to {} are needed, {} are free", path.display(),
        print_size_roughly(*needed_bytes), print_size_roughly(*free_bytes)
    )]
    NoRoom {
        /// What is to be written.
        path: PathBuf,
        /// How long it may become, with what must stay free, in bytes.
        needed_bytes: u64,
        /// What this process may still write, in bytes.
        free_bytes: u64,
    },
    /// It is in its place, and whether it stays there is not known.
    #[error("'{}' is in its place, but a loss of power may undo that: {error}", path.display())]
    NotDurable {
        /// Where it is.
        path: PathBuf,
        /// What the sync of the directory said.
        error: Box<PlaceError>,
    },
    /// What the system said.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was tried: `create`, `rename to`, …
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A file on its way to its name; gone when dropped before [`Beside::place`].
#[derive(Debug)]
pub(super) struct Beside {
    /// Locked, and open until every connection to the file is closed.
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_placed: bool,
}

impl Beside {
    /// Makes an empty private file beside `target`, and removes what crashes left there.
    pub fn create(target: &Path) -> Result<Self, PlaceError> {
        sweep(directory_of(target), |name| {
            leftover_of(name) == target.file_name().and_then(|name| name.to_str())
        });
        let path = sibling(
            target,
            &format!("{MARK}{:08x}", rand::rng().random::<u32>()),
        );
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&path)
            .map_err(|source| io("create", &path, source))?;
        let beside = Self {
            file,
            path,
            target: target.to_owned(),
            is_placed: false,
        };
        // It is new, so only a sweep that runs at this moment can hold it.
        beside
            .file
            .lock()
            .map_err(|source| io("lock", &beside.path, source))?;
        Ok(beside)
    }

    /// Where it is until it is placed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Sends what was written to the disk, so that it does not go there all at once.
    pub fn sync_some(&self) -> Result<(), PlaceError> {
        let synced = self.file.sync_data();
        synced.map_err(|source| io("write", &self.path, source))
    }

    /// Puts the file in its place, durably: in the place of another file only if `replace`. `last` runs when
    /// everything is on the disk but the name.
    pub fn place(
        mut self,
        replace: bool,
        last: impl FnOnce() -> Result<(), PlaceError>,
    ) -> Result<(), PlaceError> {
        // The switch to write-ahead mode leaves a journal that holds nothing.
        remove_logs(&self.path);
        let synced = self.file.sync_all();
        synced.map_err(|source| io("write", &self.path, source))?;
        last()?;
        self.rename(replace).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => PlaceError::Exists(self.target.clone()),
            _ => io("rename to", &self.target, error),
        })?;
        self.is_placed = true;
        sync_directory(&self.target).map_err(|error| PlaceError::NotDurable {
            path: self.target.clone(),
            error: Box::new(error),
        })
    }

    fn rename(&self, replace: bool) -> std::io::Result<()> {
        if replace {
            return fs::rename(&self.path, &self.target);
        }
        match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE) {
            // Some file systems cannot look and rename in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !self.target.exists() => {
                fs::rename(&self.path, &self.target)
            }
            renamed => renamed.map_err(Into::into),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_placed {
            // What cannot be removed now is removed by the next one for the same name.
            let _ = remove(&self.path);
        }
    }
}

/// Refuses to write to `target` where that would harm a database or what somebody keeps there; `database` is
/// being copied.
pub(super) fn check_target(
    database: &Path,
    target: &Path,
    replace: bool,
) -> Result<(), PlaceError> {
    let directory = directory_of(target);
    if !directory.is_dir() {
        return Err(PlaceError::NoDirectory(directory.to_owned()));
    }
    for log in ["-wal", "-journal"].map(|end| sibling(target, end)) {
        if log.exists() && !is_same_file(database, target) {
            let path = target.to_owned();
            return Err(PlaceError::HasLog { path, log });
        }
    }
    let Ok(metadata) = fs::metadata(target) else {
        // What is not there, or a link to nothing, which a rename replaces.
        return match fs::symlink_metadata(target) {
            Ok(_) if !replace => Err(PlaceError::Exists(target.to_owned())),
            _ => Ok(()),
        };
    };
    if is_same_file(database, target) || belongs_to(database, target) {
        return Err(PlaceError::Itself(target.to_owned()));
    }
    if !replace {
        return Err(PlaceError::Exists(target.to_owned()));
    }
    if !metadata.is_file() {
        return Err(PlaceError::NotAFile(target.to_owned()));
    }
    match FileLock::acquire(target, false) {
        Err(OpenError::InUse(path)) => Err(PlaceError::InUse(path)),
        // What it is does not matter: it is to be replaced.
        _ => Ok(()),
    }
}

/// Refuses to begin what the disk has no room for, with what must stay free.
pub(super) fn check_room(
    target: &Path,
    copy_bytes: u64,
    reserve_bytes: u64,
) -> Result<(), PlaceError> {
    let free_bytes = super::space::free_bytes(target);
    let needed_bytes = copy_bytes.saturating_add(reserve_bytes);
    if needed_bytes > free_bytes {
        return Err(PlaceError::NoRoom {
            path: target.to_owned(),
            needed_bytes,
            free_bytes,
        });
    }
    Ok(())
}

/// What must stay free on the disk of `target`, in bytes, where that is the disk of the database: room for its
/// log, and more than the floor below which its entries would go to make room for a copy of them.
pub(super) fn reserve_bytes(database: &Path, target: &Path, floor_bytes: u64) -> u64 {
    match (fs::metadata(database), fs::metadata(directory_of(target))) {
        (Ok(database), Ok(directory)) if database.dev() == directory.dev() => floor_bytes
            .saturating_add(floor_bytes / HEADROOM_PARTS)
            .max(LOG_BYTES_MAX),
        _ => 0,
    }
}

/// Whether two paths lead to one file.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Whether this is the log of the database, or the index of its log.
fn belongs_to(database: &Path, path: &Path) -> bool {
    let logs = ["-wal", "-shm", "-journal"].map(|end| sibling(database, end));
    logs.iter().any(|log| is_same_file(log, path))
}

/// Removes what crashes left in a directory of those names that `is_ours` knows.
fn sweep(directory: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(&is_ours) {
            continue;
        }
        let path = entry.path();
        // Whoever still writes it holds the lock.
        let is_left = open_file(&path).is_ok_and(|file| file.try_lock().is_ok());
        if is_left {
            let _ = remove(&path);
        }
    }
}

/// Opens a regular file, and waits for nobody: a pipe of such a name would be waited for until somebody writes.
fn open_file(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    Ok(file)
}

/// Makes a file in a directory and removes it again.
pub fn try_directory(directory: &Path) -> Result<(), PlaceError> {
    Beside::create(&directory.join("cachesrv-probe")).map(drop)
}

/// Removes what crashes left of files of those names that `is_ours` knows.
pub fn remove_leftovers(directory: &Path, is_ours: impl Fn(&str) -> bool) {
    sweep(directory, |name| leftover_of(name).is_some_and(&is_ours));
}

/// The name for which this one was being written.
fn leftover_of(name: &str) -> Option<&str> {
    let (target, digits) = name.rsplit_once(MARK)?;
    let is_digits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digits.then_some(target)
}

fn remove(path: &Path) -> std::io::Result<()> {
    remove_logs(path);
    fs::remove_file(path)
}

/// What SQLite made beside a file that no connection uses any more. What is not there cannot be removed.
pub(super) fn remove_logs(path: &Path) {
    for log in ["-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(sibling(path, log));
    }
}

/// The directory in which a path is.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes durable what was renamed or removed beside `path`.
pub(super) fn sync_directory(path: &Path) -> Result<(), PlaceError> {
    let directory = directory_of(path);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| io("write the directory", directory, source))
}

pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> PlaceError {
    PlaceError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

impl PlaceError {
    /// What SQLite reported while it wrote the file at `path`.
    pub(super) fn written(path: &Path, error: StoreError) -> Self {
        let source = match error {
            StoreError::DiskFull => ErrorKind::StorageFull.into(),
            error => std::io::Error::other(error),
        };
        io("write", path, source)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_bears_the_name_of_a_leftover_and_is_no_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let [pipe, link, left] = ["00000000", "00000001", "00000002"]
            .map(|digits| dir.path().join(format!("x.db{MARK}{digits}")));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        fs::write(dir.path().join("kept"), b"bytes").expect("a file");
        std::os::unix::fs::symlink("kept", &link).expect("a link");
        fs::write(&left, b"half").expect("a file");
        let (done, wait) = mpsc::channel();
        let target = dir.path().join("x.db");
        std::thread::spawn(move || done.send(Beside::create(&target).map(drop).is_ok()));
        let made = wait.recv_timeout(Duration::from_secs(20));
        assert_eq!(made, Ok(true), "it waits for the pipe");
        assert!(pipe.exists() && link.exists() && !left.exists());
    }
}
