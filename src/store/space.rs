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
        let reserved_bytes = self.reserved_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let reservation = Reservation {
            space: Arc::clone(self),
            bytes,
        };
        // What is written goes through the log first, and the log is bounded.
        let log_bytes = reserved_bytes.min(LOG_BYTES_MAX);
        let reusable_bytes = self
            .reusable_bytes
            .load(Ordering::Relaxed)
            .min(reserved_bytes);
        if reserved_bytes - reusable_bytes + log_bytes > self.free_bytes() {
            return Err(StoreError::DiskFull);
        }
        Ok(reservation)
    }

    /// Bytes that this process may still write to the disk; all of them where the system does not say.
    fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.directory)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space
            .reserved_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
