//! The database as a file: what may be opened at all, who may write it, and one server at a time.
//!
//! Everything here happens before SQLite sees the file, so that a file which is not ours is left as it
//! was. The lock is `flock`, which dies with the process and lives apart from the `fcntl` locks that
//! SQLite takes on the same file.
//!
//! Invariant: closing any descriptor of a file drops all `fcntl` locks of the process on it
//! (<https://sqlite.org/howtocorrupt.html>, 2.2), so a [`FileLock`] outlives every connection.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::error::OpenError;
use super::schema;

/// Read and write for the owner, nothing for anybody else; the umask may take more away.
pub(super) const MODE: u32 = 0o600;

/// The part of a SQLite file that says what it is (<https://sqlite.org/fileformat2.html>, 1.3).
const HEADER_BYTES: usize = 100;

/// With what a journal begins.
const JOURNAL_MARK: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// How long to wait for a lock that an admin command may hold while it creates or migrates the file.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Pause between two tries to lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// What the file's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing was written yet.
    Empty,
    /// A cachesrv database of this schema version.
    Ours {
        /// `user_version` in the header; the log may hold a newer one.
        schema_version: u32,
    },
}

/// The exclusive lock on a database file; held as long as this value lives.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
}

impl FileLock {
    /// Opens the file at `path` (creating it if asked to), and locks it.
    pub fn acquire(path: &Path, create: bool) -> Result<Self, OpenError> {
        let mut file = open(path, create)?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(Self { file }),
                // `restore` put another in its place meanwhile: the lock is on a file without a name.
                Ok(()) => file = open(path, create)?,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_owned())),
                Err(TryLockError::Error(source)) => return Err(io("lock", path, source)),
            }
        }
    }

    /// Locks the file at `path`, which must be there, unless somebody else has it. Only for processes that
    /// have no connection open (see the invariant above).
    pub fn try_acquire(path: &Path) -> Result<Option<Self>, OpenError> {
        let file = open(path, false)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(io("lock", path, source)),
        }
    }

    /// Looks at the file's first bytes.
    pub fn content(&self, path: &Path) -> Result<Content, OpenError> {
        content(&self.file, path)
    }
}

/// Looks at the first bytes of the file at `path` without locking it. Only for processes that have no
/// connection open (see the invariant above).
pub(super) fn inspect(path: &Path) -> Result<Content, OpenError> {
    content(&open(path, false)?, path)
}

/// The same for a file that this process may not be able to write, and that nobody has to guard.
pub(super) fn inspect_still(path: &Path) -> Result<Content, OpenError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(OpenError::NotAFile(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(OpenError::Missing(path.to_owned()));
        }
        _ => {}
    }
    let file = File::open(path).map_err(|source| io("open", path, source))?;
    content(&file, path)
}

fn open(path: &Path, create: bool) -> Result<File, OpenError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(OpenError::NotAFile(path.to_owned())),
        Ok(metadata) if metadata.mode() & 0o022 != 0 => {
            let mode = metadata.mode() & 0o7777;
            return Err(OpenError::WritableByOthers {
                path: path.to_owned(),
                mode,
            });
        }
        Ok(metadata) if metadata.nlink() > 1 => {
            return Err(OpenError::SeveralNames(path.to_owned()));
        }
        Ok(_) if is_mounted_alone(path) => {
            return Err(OpenError::MountedAlone(path.to_owned()));
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !create => {
            return Err(OpenError::Missing(path.to_owned()));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE);
    let fail = |source| io(if path.exists() { "open" } else { "create" }, path, source);
    if create {
        // Alone this way follows no link, so that what is handed over is a file that was not there.
        match options.clone().create_new(true).open(path) {
            Ok(file) => {
                hand_over(&file, path);
                return Ok(file);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail(error)),
        }
    }
    options.create(create).open(path).map_err(fail)
}

/// Whether the file, and not a directory around it, was mounted here (`docker run -v cachesrv.db:…`).
fn is_mounted_alone(path: &Path) -> bool {
    let looked = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
    let mount_root = StatxAttributes::MOUNT_ROOT;
    looked.is_ok_and(|file| file.stx_attributes.contains(mount_root))
}

/// Gives a new file that root made to the owner of its directory, who could put any other in its place: a
/// server that runs as another user must be able to open what an administrator's first command made. SQLite
/// does the same for its log.
pub(super) fn hand_over(file: &File, path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Ok(owner) = std::fs::metadata(directory) {
        // Where even root may not, the server says that it cannot open the file.
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Whether this is the file that has the name.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// What the first bytes of an open file say.
pub(super) fn content(file: &File, path: &Path) -> Result<Content, OpenError> {
    let mut header = [0; HEADER_BYTES];
    let length_bytes = read_begin(file, &mut header).map_err(|source| io("read", path, source))?;
    let header = &header[..length_bytes];
    // Zeros are what power left that was lost while the first pages were on their way to the disk.
    let is_blank = header.iter().all(|&byte| byte == 0);
    if header.is_empty() || (is_blank && is_being_made(path)) {
        return Ok(Content::Empty);
    }
    let is_sqlite = header.len() == HEADER_BYTES && header.starts_with(b"SQLite format 3\0");
    if !is_sqlite || field(header, 68) != schema::APPLICATION_ID {
        return Err(OpenError::NotOurs(path.to_owned()));
    }
    Ok(Content::Ours {
        schema_version: field(header, 60),
    })
}

/// Whether a journal says that the file was empty before the change that was cut short: SQLite will make it so again
/// (<https://sqlite.org/fileformat2.html>, 3).
fn is_being_made(path: &Path) -> bool {
    let mut header = [0; JOURNAL_MARK.len() + 12];
    let read = File::open(sibling(path, "-journal"))
        .and_then(|journal| journal.read_exact_at(&mut header, 0));
    read.is_ok() && header.starts_with(&JOURNAL_MARK) && field(&header, 16) == 0
}

/// Reads what there is of the first bytes, however often the system interrupts it; how much that is.
fn read_begin(file: &File, into: &mut [u8]) -> std::io::Result<usize> {
    let mut length_bytes = 0;
    while length_bytes < into.len() {
        match file.read_at(&mut into[length_bytes..], length_bytes as u64) {
            Ok(0) => break,
            Ok(count) => length_bytes += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length_bytes)
}

/// How long the file should be by its header, in bytes; 0 where the header does not say.
pub(super) fn promised_bytes(file: &File) -> std::io::Result<u64> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    // The count of pages is valid where it was written with the last change.
    let is_valid = field(&header, 24) == field(&header, 92);
    let page_bytes = match u64::from(field(&header, 16) >> 16) {
        1 => 65536,
        bytes => bytes,
    };
    Ok(u64::from(is_valid) * page_bytes * u64::from(field(&header, 28)))
}

/// The big-endian number at `offset` of the header.
fn field(header: &[u8], offset: usize) -> u32 {
    header[offset..offset + 4]
        .iter()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The path of the write-ahead log of the database at `path`: beside the file itself, as SQLite has it, and not
/// beside a link to it.
pub fn log_path(path: &Path) -> PathBuf {
    sibling(&followed(path), "-wal")
}

/// Where a link leads to; the path as it is where it is none.
pub(super) fn followed(path: &Path) -> PathBuf {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.is_symlink() => std::fs::canonicalize(path),
        _ => Ok(path.to_owned()),
    }
    .unwrap_or_else(|_| path.to_owned())
}

/// The path that is `path` with this end.
pub(super) fn sibling(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}
