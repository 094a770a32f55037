//! Gives free pages of the file back to the disk, in small steps.
//!
//! Freed pages are written again first, so the file is shrunk only when much of it is free: each page that is
//! given back moves another one from the end of the file into its place.

use rusqlite::Connection;

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::eviction::FilePages;

/// Below that it is not worth the while: 64 MiB.
const FREE_PAGES_MIN: u64 = 64 * 1024 * 1024 / PAGE_SIZE_BYTES;

/// Shrinking begins when more than this part of the file is free.
const BEGIN_PARTS: u64 = 5;

/// It ends when this part of the file is free: uploads that follow find room at once.
const END_PARTS: u64 = 10;

/// Pages that one step gives back at the most: 2 MiB, a batch of an upload.
const STEP_PAGES: u64 = 128;

/// Whether shrinking should begin.
pub(super) fn is_due(file: FilePages) -> bool {
    file.free > FREE_PAGES_MIN && file.free > file.all / BEGIN_PARTS
}

/// Gives back a few pages in the transaction at hand; whether there is more to give back. The file itself is
/// cut when the log is folded.
pub(super) fn step(connection: &Connection) -> Result<bool, StoreError> {
    let file = FilePages::of(connection)?;
    let spare = file.free.saturating_sub(file.all / END_PARTS);
    let pages = spare.min(STEP_PAGES);
    if pages > 0 {
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = vacuum.query([])?;
        // One page a row.
        while rows.next()?.is_some() {}
    }
    Ok(spare > STEP_PAGES)
}
