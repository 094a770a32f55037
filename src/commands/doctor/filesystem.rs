//! The file system under the database: one that SQLite's log and locks work on, by its type and by trying.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};

use super::finding::{Finding, Findings};
use super::quoted;

const CHECK: &str = "file system";

/// What a file system means for a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// Other machines may write it, too: SQLite's log needs memory that all its users share.
    Networked,
    /// Whoever serves it may be anything.
    Unknown,
    /// Gone with the container.
    OfContainer,
    /// Gone with the machine.
    InMemory,
}

/// File systems by the number that the kernel has for them (`linux/magic.h`, statfs(2)).
const KNOWN: &[(u32, &str, Nature)] = &[
    (0x6969, "NFS", Nature::Networked),
    (0x517b, "SMB", Nature::Networked),
    (0xff53_4d42, "CIFS", Nature::Networked),
    (0xfe53_4d42, "SMB2", Nature::Networked),
    (0x5346_414f, "AFS", Nature::Networked),
    (0x00c3_6400, "Ceph", Nature::Networked),
    (0x0bd0_0bd0, "Lustre", Nature::Networked),
    (0x0102_1997, "9p", Nature::Networked),
    (0x6573_5546, "FUSE", Nature::Unknown),
    (0x786f_4256, "vboxsf", Nature::Networked),
    (0x794c_7630, "overlay", Nature::OfContainer),
    (0x0102_1994, "tmpfs", Nature::InMemory),
    (0x8584_58f6, "ramfs", Nature::InMemory),
];

/// Looks at the file system of `directory`.
pub(super) fn check(directory: &Path, findings: &mut Findings) {
    let before = findings.count();
    let kind = kind(directory);
    if let Some((name, nature)) = kind {
        findings.add(by_nature(name, nature));
    }
    match try_locks(directory) {
        Ok(None) => {}
        Ok(Some(what)) => findings.add(
            Finding::problem(CHECK, what)
                .with_advice("put the database on a disk of this machine (ext4, XFS)"),
        ),
        Err(error) => {
            let what = format!("cannot write in '{}': {error}", directory.display());
            let command = format!("ls -ld {}", quoted(directory));
            findings.add(Finding::problem("permissions", what).with_command(command));
        }
    }
    if findings.are_fine_since(before) {
        findings.add(Finding::ok(CHECK, "local, and its locks work"));
    }
}

fn by_nature(name: &str, nature: Nature) -> Finding {
    match nature {
        Nature::Networked => Finding::problem(
            CHECK,
            format!("{name}: SQLite's log does not work over a network, and a broken lock damages the database"),
        )
        .with_advice("put the database on a disk of this machine, and backups on the network"),
        Nature::Unknown => Finding::warning(
            CHECK,
            format!("{name}: whether its locks hold depends on what is behind it"),
        )
        .with_advice("put the database on a disk of this machine, or set durability.mmap = false at least"),
        Nature::OfContainer => Finding::warning(
            CHECK,
            format!("{name}: the layer of a container, which goes with the container and is slow to write"),
        )
        .with_advice("mount a volume and put the database there"),
        Nature::InMemory => Finding::warning(
            CHECK,
            format!("{name}: in memory, gone when the machine restarts"),
        )
        .with_advice("put the database on a disk"),
    }
}

#[cfg(target_os = "linux")]
fn kind(directory: &Path) -> Option<(&'static str, Nature)> {
    let kind = rustix::fs::statfs(directory).ok()?.f_type;
    // Some architectures have signed numbers there.
    let known = KNOWN.iter().find(|(magic, ..)| *magic == kind as u32)?;
    Some((known.1, known.2))
}

#[cfg(not(target_os = "linux"))]
fn kind(_: &Path) -> Option<(&'static str, Nature)> {
    None
}

/// Takes both kinds of locks that a server uses, on a file of its own that has no name any more when it is
/// locked; what does not work.
fn try_locks(directory: &Path) -> io::Result<Option<String>> {
    let path = directory.join(format!(".cachesrv-doctor-{}", std::process::id()));
    let first = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let second = File::open(&path);
    std::fs::remove_file(&path)?;
    let second = second?;
    let holds = match (first.try_lock(), second.try_lock()) {
        (Ok(()), Err(TryLockError::WouldBlock)) => None,
        (Ok(()), _) => Some("flock is given twice: two servers could use one database".to_owned()),
        (Err(error), _) => Some(format!("flock does not work: {error}")),
    };
    let sqlites = fcntl_lock(&first, FlockOperation::NonBlockingLockExclusive)
        .err()
        .map(|error| format!("fcntl locks do not work: {error}"));
    Ok(holds.or(sqlites))
}
