//! Room on the disk, promised before the first byte of an upload is read.
//!
//! The promise is against other uploads of this process; the disk can still fill up from elsewhere, and
//! then SQLite says so and the upload is refused at its end.
//!
//! What isolated uploads announce is no trusted one's concern, and they leave a part of the disk free:
//! pull requests cannot fill it to the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;
use super::model::ScopeKind;
use super::writer::LOG_BYTES_MAX;

/// What isolated uploads leave of the disk.
const ISOLATED_FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// What running uploads have been promised.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    trusted_bytes: AtomicU64,
    isolated_bytes: AtomicU64,
    /// Bytes of the file that hold nothing and will be written again first.
    reusable_bytes: AtomicU64,
}

/// Room for one upload; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    kind: ScopeKind,
    bytes: u64,
}

impl Space {
    /// For the database at `path`.
    pub fn new(path: &Path) -> Arc<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Arc::new(Self {
            directory,
            trusted_bytes: AtomicU64::new(0),
            isolated_bytes: AtomicU64::new(0),
            reusable_bytes: AtomicU64::new(0),
        })
    }

    /// Says how much of the file is free pages.
    pub fn set_reusable_bytes(&self, bytes: u64) {
        self.reusable_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Promises room for `bytes`, or says that there is none.
    pub fn reserve(
        self: &Arc<Self>,
        kind: ScopeKind,
        bytes: u64,
    ) -> Result<Reservation, StoreError> {
        let free_bytes = self.free_bytes();
        let (beside_bytes, free_bytes) = match kind {
            ScopeKind::Trusted => (0, free_bytes),
            ScopeKind::Isolated => (
                self.trusted_bytes.load(Ordering::Relaxed),
                free_bytes.saturating_sub(ISOLATED_FREE_BYTES_MIN),
            ),
        };
        let add = |reserved_bytes: u64| {
            let of_kind_bytes = reserved_bytes.checked_add(bytes)?;
            let total_bytes = of_kind_bytes.checked_add(beside_bytes)?;
            self.fits(total_bytes, free_bytes).then_some(of_kind_bytes)
        };
        self.reserved_bytes(kind)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| StoreError::DiskFull)?;
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

    fn fits(&self, total_bytes: u64, free_bytes: u64) -> bool {
        // What is written goes through the log first, and the log is bounded.
        let log_bytes = total_bytes.min(LOG_BYTES_MAX);
        let reusable_bytes = self.reusable_bytes.load(Ordering::Relaxed).min(total_bytes);
        (total_bytes - reusable_bytes).saturating_add(log_bytes) <= free_bytes
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(&self.directory)
    }
}

/// Bytes that this process may still write to the disk of a directory; all where the system does not say.
pub(super) fn free_bytes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory)
        .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
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
        Space::new(Path::new("x.db"))
    }

    #[test]
    fn what_is_promised_does_not_fit_again_until_it_is_given_back() {
        let space = space();
        let most = (1..63)
            .map(|bit| 1_u64 << bit)
            .rfind(|&bytes| space.reserve(Trusted, bytes).is_ok());
        let most = most.expect("some room on this disk");
        let first = space.reserve(Trusted, most).expect("it fitted before");
        assert!(matches!(
            space.reserve(Trusted, most),
            Err(StoreError::DiskFull)
        ));
        drop(first);
        assert!(space.reserve(Trusted, most).is_ok());
    }

    #[test]
    fn what_is_written_is_no_longer_promised() {
        let space = space();
        let mut reservation = space.reserve(Trusted, 1000).expect("room");
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
        assert!(space.reserve(Trusted, u64::MAX).is_err());
        assert_eq!(space.trusted_bytes.load(Ordering::Relaxed), 0);
    }

    /// The most of a kind that fits, to the byte.
    fn most(space: &Arc<Space>, kind: ScopeKind) -> u64 {
        let (mut fits, mut too_much) = (0, 1 << 62);
        while too_much - fits > 1 {
            let middle = fits + (too_much - fits) / 2;
            if space.reserve(kind, middle).is_ok() {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        fits
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
        let announced = space.reserve(Isolated, isolated_bytes - slack_bytes);
        assert!(announced.is_ok());
        assert!(space.reserve(Isolated, 2 * slack_bytes).is_err());
        assert!(space.reserve(Trusted, trusted_bytes - slack_bytes).is_ok());
        drop(announced);
        let trusted = space.reserve(Trusted, trusted_bytes - slack_bytes);
        assert!(trusted.is_ok());
        assert!(space.reserve(Isolated, 1).is_err());
    }
}
