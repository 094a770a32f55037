//! The write-ahead log: the server folds it into the file a second after writes pause, unless somebody reads
//! from it and does not end. Then it grows, and a copy of the file alone is not complete.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::files::beside;
use super::finding::{Finding, Findings};
use super::quoted;
use crate::units::print_size_roughly;

const CHECK: &str = "log";

/// A log that is longer than this is looked at twice.
const LONG_BYTES: u64 = 4 * 1024 * 1024;

/// Between the two looks: more than the server waits before it folds a quiet log.
const BETWEEN_LOOKS: Duration = Duration::from_secs(4);

/// Looks at the log beside the database at `db`, which had `log_bytes` a moment ago.
pub(super) fn check(db: &Path, log_bytes: u64, is_in_use: bool, findings: &mut Findings) {
    let log = beside(db, "-wal");
    let (name, length) = (log.display(), print_size_roughly(log_bytes));
    findings.add(if log_bytes == 0 {
        Finding::ok(CHECK, "empty, the one file is complete")
    } else if log_bytes <= LONG_BYTES {
        Finding::ok(CHECK, format!("'{name}' has {length}"))
    } else if !is_in_use {
        let next = "a server was killed, and the next start folds it";
        Finding::ok(CHECK, format!("'{name}' has {length}: {next}"))
    } else if shrinks(&log) {
        Finding::ok(CHECK, format!("'{name}' is being written and folded"))
    } else {
        let why = "does not shrink though nobody writes: some process reads the database and does not end";
        Finding::problem(CHECK, format!("'{name}' has {length} and {why}"))
            .with_command(format!("fuser -v {}", quoted(db)))
            .with_advice("end whatever that names beside cachesrv serve")
    });
}

/// Whether a long log becomes short, or is written, while we look.
fn shrinks(log: &Path) -> bool {
    let look = || {
        let log = log.metadata().ok()?;
        Some((log.len(), log.modified().ok()))
    };
    let first = look();
    thread::sleep(BETWEEN_LOOKS);
    let second = look();
    first != second || second.is_none_or(|(bytes, _)| bytes <= LONG_BYTES)
}
