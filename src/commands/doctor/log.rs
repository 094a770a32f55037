//! The write-ahead log: the server folds it into the file a second after writes pause, unless somebody reads
//! from it and does not end. Then it grows, and a copy of the file alone is not complete.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::finding::{Finding, Findings};
use super::quoted;
use crate::store::{Holder, log_path, readers_of, server_of};
use crate::units::print_size_roughly;

const CHECK: &str = "log";

/// A log that is longer than this is looked at twice.
const LONG_BYTES: u64 = 4 * 1024 * 1024;

/// Between the two looks: more than the server waits before it folds a quiet log.
const BETWEEN_LOOKS: Duration = Duration::from_secs(4);

/// From one look at who reads to the next: whoever is met each time does not end.
const BETWEEN_LOOKS_AT_READERS: Duration = Duration::from_millis(100);

/// Looks at the log beside the database at `db`, which had `log_bytes` a moment ago.
pub(super) fn check(db: &Path, log_bytes: u64, is_in_use: bool, findings: &mut Findings) {
    let log = log_path(db);
    let (name, length) = (log.display(), print_size_roughly(log_bytes));
    if log_bytes == 0 {
        findings.add(Finding::ok(CHECK, "empty, the one file is complete"));
        return;
    }
    if log_bytes <= LONG_BYTES {
        findings.add(Finding::ok(CHECK, format!("'{name}' has {length}")));
        return;
    }
    if !is_in_use {
        let next = "a server was killed, and the next start folds it";
        findings.add(Finding::ok(CHECK, format!("'{name}' has {length}: {next}")));
        return;
    }
    let looked = Looked::at(db, &log);
    let problem = match (looked.shrinks, looked.reader) {
        (true, None) => {
            let fine = format!("'{name}' is being written and folded");
            findings.add(Finding::ok(CHECK, fine));
            return;
        }
        (true, Some(reader)) => format!(
            "cannot be folded: {reader} reads the database and does not end; at 252 MiB uploads wait"
        ),
        (false, reader) => {
            let reader = reader.map_or_else(|| "some process".to_owned(), |it| it.to_string());
            format!(
                "does not shrink though nobody writes: {reader} reads the database and does not end"
            )
        }
    };
    let finding = Finding::problem(CHECK, format!("'{name}' has {length} and {problem}"))
        .with_command(format!("fuser -v {}", quoted(db)))
        .with_advice("end whatever that names beside cachesrv serve");
    findings.add(finding);
}

/// What is seen of a long log in a while.
struct Looked {
    /// It became short, or is written.
    shrinks: bool,
    /// Who held a snapshot at each look.
    reader: Option<Holder>,
}

impl Looked {
    fn at(db: &Path, log: &Path) -> Self {
        let look = || {
            let log = log.metadata().ok()?;
            Some((log.len(), log.modified().ok()))
        };
        let (first, began) = (look(), Instant::now());
        let server = server_of(db).map(|server| server.pid);
        let mut readers = readers_of(db);
        readers.retain(|reader| Some(reader.pid) != server);
        while began.elapsed() < BETWEEN_LOOKS {
            thread::sleep(BETWEEN_LOOKS_AT_READERS);
            let now = readers_of(db);
            readers.retain(|reader| now.contains(reader));
        }
        let second = look();
        Self {
            shrinks: first != second || second.is_none_or(|(bytes, _)| bytes <= LONG_BYTES),
            reader: readers.into_iter().next(),
        }
    }
}
