//! Room on the disk, promised before the first byte of an upload is read.
//!
//! The promise is against other uploads of this process; the disk can still fill up from elsewhere, and
//! then SQLite says so and the upload is refused at its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;
use super::writer::LOG_BYTES_MAX;

/// What running uploads have been promised.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    reserved_bytes: AtomicU64,
    /// Bytes of the file that hold nothing and will be written again first.
    reusable_bytes: AtomicU64,
}

/// Room for one upload; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
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
            reserved_bytes: AtomicU64::new(0),
            reusable_bytes: AtomicU64::new(0),
        })
    }

    /// Says how much of the file is free pages.
    pub fn set_reusable_bytes(&self, bytes: u64) {
        self.reusable_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Promises room for `bytes`, or says that there is none.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, StoreError> {
        let free_bytes = self.free_bytes();
        let add = |reserved_bytes| {
            let total_bytes = bytes.checked_add(reserved_bytes)?;
            self.fits(total_bytes, free_bytes).then_some(total_bytes)
        };
        self.reserved_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| StoreError::DiskFull)?;
        Ok(Reservation {
            space: Arc::clone(self),
            bytes,
        })
    }

    fn fits(&self, total_bytes: u64, free_bytes: u64) -> bool {
        // What is written goes through the log first, and the log is bounded.
        let log_bytes = total_bytes.min(LOG_BYTES_MAX);
        let reusable_bytes = self.reusable_bytes.load(Ordering::Relaxed).min(total_bytes);
        (total_bytes - reusable_bytes).saturating_add(log_bytes) <= free_bytes
    }

    /// Bytes that this process may still write to the disk; all of them where the system does not say.
    fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.directory)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

impl Reservation {
    /// Says that `bytes` of what was promised are on the disk, where they no longer count as free.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.space
            .reserved_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space
            .reserved_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Arc<Space> {
        Space::new(Path::new("x.db"))
    }

    #[test]
    fn what_is_promised_does_not_fit_again_until_it_is_given_back() {
        let space = space();
        let most = (1..63)
            .map(|bit| 1_u64 << bit)
            .rfind(|&bytes| space.reserve(bytes).is_ok());
        let most = most.expect("some room on this disk");
        let first = space.reserve(most).expect("it fitted before");
        assert!(matches!(space.reserve(most), Err(StoreError::DiskFull)));
        drop(first);
        assert!(space.reserve(most).is_ok());
    }

    #[test]
    fn what_is_written_is_no_longer_promised() {
        let space = space();
        let mut reservation = space.reserve(1000).expect("room");
        reservation.written(600);
        assert_eq!(space.reserved_bytes.load(Ordering::Relaxed), 400);
        reservation.written(600);
        assert_eq!(space.reserved_bytes.load(Ordering::Relaxed), 0);
        drop(reservation);
        assert_eq!(space.reserved_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_promise_that_is_refused_leaves_no_trace() {
        let space = space();
        assert!(space.reserve(u64::MAX).is_err());
        assert_eq!(space.reserved_bytes.load(Ordering::Relaxed), 0);
    }
}
