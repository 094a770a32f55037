//! The write-ahead log: the server folds it into the file a second after writes pause, unless somebody reads
//! from it and does not end. Then it grows, and a copy of the file alone is not complete.

use std::collections::BTreeSet;
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

/// From one look at who reads to the next: whoever is met nearly each time does not end.
const BETWEEN_LOOKS_AT_READERS: Duration = Duration::from_millis(100);

/// One look in so many may miss who is there: the kernel lists locks page by page, while they change.
const LOOKS_FOR_A_MISS: usize = 10;

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
    /// Who held a snapshot all the while.
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
        let mut met = Vec::new();
        while began.elapsed() < BETWEEN_LOOKS {
            met.push(readers_of(db));
            thread::sleep(BETWEEN_LOOKS_AT_READERS);
        }
        let second = look();
        Self {
            shrinks: first != second || second.is_none_or(|(bytes, _)| bytes <= LONG_BYTES),
            reader: steady(&met).find(|reader| Some(reader.pid) != server),
        }
    }
}

/// Whom nearly every look has met.
fn steady(looks: &[Vec<Holder>]) -> impl Iterator<Item = Holder> {
    let missed = |reader: &Holder| looks.iter().filter(|met| !met.contains(reader)).count();
    let readers: BTreeSet<&Holder> = looks.iter().flatten().collect();
    let steady = readers
        .into_iter()
        .filter(move |reader| missed(reader) * LOOKS_FOR_A_MISS <= looks.len());
    steady.cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_missed_now_and_then_is_steady_and_who_came_and_went_is_not() {
        let holder = |pid| Holder { pid, name: None };
        let mut looks = vec![vec![holder(1), holder(2)]; 40];
        looks[7] = vec![holder(3)];
        looks[39] = Vec::new();
        for look in &mut looks[20..25] {
            look.pop();
        }
        assert_eq!(steady(&looks).collect::<Vec<_>>(), [holder(1)]);
        assert_eq!(steady(&[]).count(), 0);
    }
}
