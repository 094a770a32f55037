//! Room on the disk, promised before the first byte of an upload is read.
//!
//! The promise is against other uploads of this process; the disk can still fill up from elsewhere, and
//! then SQLite says so and the upload is refused at its end.
//!
//! A part of the disk stays free, the floor: what would take of it is refused, and old entries go
//! (`eviction`). Free pages of the file count as free: they are written again first, and eviction that did
//! not see them would go on for as long as other programs fill the disk.
//!
//! What isolated uploads announce is no trusted one's concern, and they leave more of the disk free: pull
//! requests cannot fill it to the floor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::eviction::FilePages;
use super::file;
use super::model::ScopeKind;
use super::writer::LOG_BYTES_MAX;

/// What isolated uploads leave of the disk, beside the floor.
const ISOLATED_FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// Eviction for the disk goes on to this part of the floor above it, so that it is seldom.
const HEADROOM_PARTS: u64 = 8;

/// What running uploads have been promised.
#[derive(Debug)]
pub(super) struct Space {
    database: PathBuf,
    /// What stays free.
    floor_bytes: u64,
    trusted_bytes: AtomicU64,
    isolated_bytes: AtomicU64,
    /// Bytes of the file that hold nothing and will be written again first.
    reusable_bytes: AtomicU64,
    /// The largest trusted upload that found no room since the disk was last looked at.
    wanted_bytes: AtomicU64,
}

/// The disk at a moment.
#[allow(clippy::struct_field_names)] // units are last everywhere
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    /// What this process may still write.
    pub free_bytes: u64,
    /// What stays free.
    pub floor_bytes: u64,
    /// What an upload wants beside it.
    pub wanted_bytes: u64,
    /// The file, as it is without its log.
    pub file_bytes: u64,
    /// Its log.
    pub log_bytes: u64,
}

impl Disk {
    /// Looks at the disk of the database.
    pub fn look(database: &Path, floor_bytes: u64) -> Self {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        Self {
            free_bytes: free_bytes(database),
            floor_bytes,
            wanted_bytes: 0,
            file_bytes: length(database),
            log_bytes: length(&file::log_path(database)),
        }
    }

    /// How many bytes must go until the floor holds and what is wanted fits, where the cleaner is about to
    /// free `condemned_bytes`.
    pub fn lack_bytes(&self, file: FilePages, condemned_bytes: u64) -> u64 {
        let needed_bytes = self.floor_bytes.saturating_add(self.wanted_bytes);
        if self.floor_bytes == 0 {
            return 0;
        }
        let available_bytes = self
            .soon_free_bytes(file)
            .saturating_add(file.free * PAGE_SIZE_BYTES)
            .saturating_add(condemned_bytes);
        if available_bytes >= needed_bytes {
            return 0;
        }
        needed_bytes + self.floor_bytes / HEADROOM_PARTS - available_bytes
    }
}

/// What the log may hold already when an upload comes for which room was made.
const LOG_SPARE_BYTES: u64 = 8 * 1024 * 1024;

impl Disk {
    /// How many bytes of the file must go back to the disk so that the log can be written: free pages are no
    /// room for it, and without it nothing is stored in them.
    pub fn log_lack_bytes(&self, file: FilePages) -> u64 {
        // What is in the log already counts against an upload, and some is written every few seconds.
        let wanted_bytes = match self.wanted_bytes {
            0 => 0,
            wanted_bytes => wanted_bytes.saturating_add(LOG_SPARE_BYTES),
        };
        let needed_bytes = self.floor_bytes.max(wanted_bytes).min(LOG_BYTES_MAX);
        needed_bytes.saturating_sub(self.soon_free_bytes(file))
    }

    /// What is free on the disk once the log is folded: it is given back, but for those of its pages by which the
    /// file grows then, and the file is cut to its pages.
    fn soon_free_bytes(&self, file: FilePages) -> u64 {
        let pages_bytes = file.all * PAGE_SIZE_BYTES;
        let grows_bytes = pages_bytes.saturating_sub(self.file_bytes);
        let cut_bytes = self.file_bytes.saturating_sub(pages_bytes);
        self.free_bytes
            .saturating_add(self.log_bytes.saturating_sub(grows_bytes))
            .saturating_add(cut_bytes)
    }
}

/// Bytes that this process may still write to the disk of a file; all of them where the system does not say.
pub(super) fn free_bytes(file: &Path) -> u64 {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    rustix::fs::statvfs(directory)
        .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Room for one upload; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    kind: ScopeKind,
    bytes: u64,
}

impl Space {
    /// For the database at `path`, on a disk of which `floor_bytes` stay free.
    pub fn new(path: &Path, floor_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            database: path.to_owned(),
            floor_bytes,
            trusted_bytes: AtomicU64::new(0),
            isolated_bytes: AtomicU64::new(0),
            reusable_bytes: AtomicU64::new(0),
            wanted_bytes: AtomicU64::new(0),
        })
    }

    /// Looks at the disk.
    pub fn disk(&self) -> Disk {
        Disk::look(&self.database, self.floor_bytes)
    }

    /// Looks at the disk, with what uploads wanted since the last such look.
    pub fn take_wants(&self) -> Disk {
        Disk {
            wanted_bytes: self.wanted_bytes.swap(0, Ordering::Relaxed),
            ..self.disk()
        }
    }

    /// Says how much of the file is free pages.
    pub fn set_reusable_bytes(&self, bytes: u64) {
        self.reusable_bytes.store(bytes, Ordering::Relaxed);
    }

    /// How much of the file is free pages, as it was last said.
    pub fn reusable_bytes(&self) -> u64 {
        self.reusable_bytes.load(Ordering::Relaxed)
    }

    /// Promises room for `bytes`, or says that there is none; `log_bytes` are in the log and not in the file
    /// yet.
    pub fn reserve(
        self: &Arc<Self>,
        kind: ScopeKind,
        bytes: u64,
        log_bytes: u64,
    ) -> Result<Reservation, StoreError> {
        let free_bytes = free_bytes(&self.database);
        let (beside_bytes, floor_bytes) = match kind {
            ScopeKind::Trusted => (0, self.floor_bytes),
            ScopeKind::Isolated => (
                self.trusted_bytes.load(Ordering::Relaxed),
                self.floor_bytes.saturating_add(ISOLATED_FREE_BYTES_MIN),
            ),
        };
        let add = |reserved_bytes: u64| {
            let of_kind_bytes = reserved_bytes.checked_add(bytes)?;
            let total_bytes = of_kind_bytes.checked_add(beside_bytes)?;
            self.fits(total_bytes, log_bytes, free_bytes, floor_bytes)
                .then_some(of_kind_bytes)
        };
        let reserved =
            self.reserved_bytes(kind)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        if reserved.is_err() {
            // What isolated uploads want makes no trusted entry go.
            if kind == ScopeKind::Trusted {
                self.wanted_bytes.fetch_max(bytes, Ordering::Relaxed);
            }
            return Err(StoreError::DiskFull);
        }
        Ok(Reservation {
            space: Arc::clone(self),
            kind,
            bytes,
        })
    }

    fn reserved_bytes(&self, kind: ScopeKind) -> &AtomicU64 {
        match kind {
            ScopeKind::Trusted => &self.trusted_bytes,
            ScopeKind::Isolated => &self.isolated_bytes,
        }
    }

    fn fits(&self, total_bytes: u64, log_bytes: u64, free_bytes: u64, floor_bytes: u64) -> bool {
        let reusable_bytes = self.reusable_bytes.load(Ordering::Relaxed);
        let leaves_the_floor =
            total_bytes.saturating_add(floor_bytes) <= free_bytes.saturating_add(reusable_bytes);
        // What is written goes through the log first, and the log is bounded. Folding it may lengthen the
        // file by all of it: on a disk without room for that the log would stay for ever.
        let passes_bytes = total_bytes.min(LOG_BYTES_MAX).saturating_add(log_bytes);
        let grows_bytes = total_bytes.saturating_sub(reusable_bytes);
        leaves_the_floor && grows_bytes.saturating_add(passes_bytes) <= free_bytes
    }

    /// Bytes that this process may still write to the disk; all of them where the system does not say.
    pub fn free_bytes(&self) -> u64 {
        free_bytes(&self.database)
    }
}

impl Reservation {
    /// Says that `bytes` of what was promised are on the disk, where they no longer count as free.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.space
            .reserved_bytes(self.kind)
            .fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space
            .reserved_bytes(self.kind)
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::ScopeKind::{Isolated, Trusted};
    use super::*;

    fn space() -> Arc<Space> {
        Space::new(Path::new("x.db"), 0)
    }

    #[test]
    fn what_is_promised_does_not_fit_again_until_it_is_given_back() {
        let space = space();
        let most = (1..63)
            .map(|bit| 1_u64 << bit)
            .rfind(|&bytes| space.reserve(Trusted, bytes, 0).is_ok());
        let most = most.expect("some room on this disk");
        let first = space.reserve(Trusted, most, 0).expect("it fitted before");
        assert!(matches!(
            space.reserve(Trusted, most, 0),
            Err(StoreError::DiskFull)
        ));
        drop(first);
        assert!(space.reserve(Trusted, most, 0).is_ok());
    }

    #[test]
    fn what_is_written_is_no_longer_promised() {
        let space = space();
        let mut reservation = space.reserve(Trusted, 1000, 0).expect("room");
        reservation.written(600);
        assert_eq!(space.trusted_bytes.load(Ordering::Relaxed), 400);
        reservation.written(600);
        assert_eq!(space.trusted_bytes.load(Ordering::Relaxed), 0);
        drop(reservation);
        assert_eq!(space.trusted_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_promise_that_is_refused_leaves_no_trace() {
        let space = space();
        assert!(space.reserve(Trusted, u64::MAX, 0).is_err());
        assert_eq!(space.trusted_bytes.load(Ordering::Relaxed), 0);
    }

    /// The most of a kind that fits, to the byte.
    fn most(space: &Arc<Space>, kind: ScopeKind) -> u64 {
        let (mut fits, mut too_much) = (0, 1 << 62);
        while too_much - fits > 1 {
            let middle = fits + (too_much - fits) / 2;
            if space.reserve(kind, middle, 0).is_ok() {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        fits
    }

    const MIB: u64 = 1 << 20;

    /// A disk with a floor of 8 MiB.
    fn disk(free_bytes: u64) -> Disk {
        Disk {
            free_bytes,
            floor_bytes: 8 * MIB,
            wanted_bytes: 0,
            file_bytes: 32 * MIB,
            log_bytes: 0,
        }
    }

    #[test]
    fn eviction_for_the_disk_sees_all_that_will_be_free_and_goes_on_a_little() {
        let mib = |number: u64| number * MIB / PAGE_SIZE_BYTES;
        let file = FilePages {
            all: mib(32),
            free: 0,
        };
        let some_free = FilePages {
            free: mib(2),
            ..file
        };
        assert_eq!(disk(8 * MIB).lack_bytes(file, 0), 0);
        assert_eq!(disk(8 * MIB - 1).lack_bytes(file, 0), MIB + 1);
        assert_eq!(disk(6 * MIB).lack_bytes(some_free, 0), 0);
        assert_eq!(disk(6 * MIB).lack_bytes(file, 2 * MIB), 0);
        assert_eq!(disk(3 * MIB).lack_bytes(some_free, 2 * MIB), 2 * MIB);
        // The log is given back, but for what it adds to the file.
        let with_log = Disk {
            log_bytes: 5 * MIB,
            ..disk(3 * MIB)
        };
        assert_eq!(with_log.lack_bytes(file, 0), 0);
        let longer = FilePages {
            all: mib(36),
            ..file
        };
        assert_eq!(with_log.lack_bytes(longer, 0), 5 * MIB);
        // An upload that found no room.
        let wanted = Disk {
            wanted_bytes: 4 * MIB,
            ..disk(9 * MIB)
        };
        assert_eq!(wanted.lack_bytes(file, 0), 4 * MIB);
        // Nobody asked for a floor.
        let none = Disk {
            floor_bytes: 0,
            ..wanted
        };
        assert_eq!(none.lack_bytes(file, 0), 0);
    }

    #[test]
    fn the_floor_is_left_by_everybody_and_free_pages_count() {
        let space = Space::new(Path::new("x.db"), 0);
        let all_bytes = free_bytes(Path::new("x.db"));
        let slack_bytes = 512 << 20;
        let floored = Space::new(Path::new("x.db"), all_bytes - slack_bytes);
        assert!(space.reserve(Trusted, 2 * slack_bytes, 0).is_ok());
        assert!(floored.reserve(Trusted, 2 * slack_bytes, 0).is_err());
        assert_eq!(floored.take_wants().wanted_bytes, 2 * slack_bytes);
        assert_eq!(floored.take_wants().wanted_bytes, 0, "told once");
        assert!(floored.reserve(Isolated, 2 * slack_bytes, 0).is_err());
        assert_eq!(
            floored.take_wants().wanted_bytes,
            0,
            "not for isolated ones"
        );
        floored.set_reusable_bytes(3 * slack_bytes);
        assert!(floored.reserve(Trusted, 2 * slack_bytes, 0).is_ok());
    }

    #[test]
    fn what_isolated_uploads_announce_is_no_concern_of_trusted_ones() {
        let space = space();
        // Others write to this disk, too: a few bytes more or less decide nothing here.
        let slack_bytes = 512 << 20;
        let trusted_bytes = most(&space, Trusted);
        let isolated_bytes = most(&space, Isolated);
        let kept_bytes = trusted_bytes - isolated_bytes;
        assert!(kept_bytes.abs_diff(ISOLATED_FREE_BYTES_MIN) < slack_bytes);
        let announced = space.reserve(Isolated, isolated_bytes - slack_bytes, 0);
        assert!(announced.is_ok());
        assert!(space.reserve(Isolated, 2 * slack_bytes, 0).is_err());
        assert!(
            space
                .reserve(Trusted, trusted_bytes - slack_bytes, 0)
                .is_ok()
        );
        drop(announced);
        let trusted = space.reserve(Trusted, trusted_bytes - slack_bytes, 0);
        assert!(trusted.is_ok());
        assert!(space.reserve(Isolated, 1, 0).is_err());
    }
}
