//! Gives free pages of the file back to the disk, in small steps.
//!
//! Freed pages are written again first, so the file is shrunk only when much of it is free: each page that is
//! given back moves another one from the end of the file into its place. Or when the disk has no room for the log,
//! through which everything goes: then free pages are of no use where they are.

use rusqlite::Connection;

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::eviction::FilePages;
use super::space::Disk;

/// Below that it is not worth the while: 64 MiB.
const FREE_PAGES_MIN: u64 = 64 * 1024 * 1024 / PAGE_SIZE_BYTES;

/// Shrinking begins when more than this part of the file is free.
const BEGIN_PARTS: u64 = 5;

/// It ends when this part of the file is free: uploads that follow find room at once.
const END_PARTS: u64 = 10;

/// Pages that one step gives back at the most: 2 MiB, a batch of an upload.
const STEP_PAGES: u64 = 128;

/// How many pages should be given back: what is more than a tenth of the file, once that has begun, or what the disk
/// lacks for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    spare: u64,
    for_disk: u64,
}

impl Due {
    /// By what the file and the disk are; `before` is what was due at the last look.
    pub fn of(file: FilePages, disk: &Disk, before: Self) -> Self {
        let begins = file.free > FREE_PAGES_MIN && file.free > file.all / BEGIN_PARTS;
        let spare = file.free.saturating_sub(file.all / END_PARTS);
        let lacking = disk.log_lack_bytes(file).div_ceil(PAGE_SIZE_BYTES);
        Self {
            spare: if begins || before.spare > 0 { spare } else { 0 },
            for_disk: lacking.min(file.free),
        }
    }

    /// Nothing.
    pub const NONE: Self = Self {
        spare: 0,
        for_disk: 0,
    };

    /// Gives back a few of the pages in the transaction at hand; the file as it is then. The file itself is cut when
    /// the log is folded.
    pub fn step(self, connection: &Connection) -> Result<FilePages, StoreError> {
        let pages = self.spare.max(self.for_disk).min(STEP_PAGES);
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = vacuum.query([])?;
        // One page a row.
        while rows.next()?.is_some() {}
        FilePages::of(connection)
    }
}
