//! Backups that the server makes by itself: when, under which names, and which of them are kept.
//!
//! When the next one is due follows from the names in the directory, so a restart shifts nothing. Only files
//! whose names are exactly those of such backups are ever deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::shell::quoted;
use super::{Failure, Hint, backup, time};
use crate::config::{Backup, Config};
use crate::store::{
    BackupError, BackupMade, BackupRequest, Backups, now_ms, remove_leftovers, try_directory,
};
use crate::telemetry::{Log, Value};

/// The pause after the first failure; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_mins(1);

/// The longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_hours(1);

/// How often the clock is looked at, which others may set.
const LOOK: Duration = Duration::from_mins(1);

/// The thread that makes backups; ends when dropped, and abandons the backup that it is making.
pub(super) struct Schedule {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    is_set: Arc<AtomicBool>,
    /// Guards nothing but the moment between looking and waiting.
    gate: Mutex<()>,
    changed: Condvar,
}

/// What the thread works with.
struct Maker {
    directory: PathBuf,
    every: Duration,
    keep: usize,
    floor_bytes: u64,
    backups: Backups,
    log: Arc<Log>,
    stop: Arc<Stop>,
    /// Backups of this process that lack damaged entries.
    incomplete: Vec<String>,
}

/// Refuses a directory that no backup could be written to, before the server starts.
pub(super) fn check(config: &Backup) -> anyhow::Result<()> {
    let Some(directory) = &config.dir else {
        return Ok(());
    };
    let shown = directory.display();
    if !directory.is_dir() {
        let failure = Failure::new(format!("backup.dir: '{shown}' is not a directory"));
        let command = format!("mkdir -p -m 700 {}", quoted(directory));
        return Err(failure.hint(command).into());
    }
    // Permissions alone do not say it: the disk may be read-only.
    try_directory(directory)
        .with_context(|| format!("backup.dir: cannot write to '{shown}'"))
        .hint(format!("ls -ld {}", quoted(directory)))
}

impl Schedule {
    /// Starts the thread, if backups are wanted.
    pub(super) fn start(
        config: &Config,
        backups: Backups,
        log: &Arc<Log>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(directory) = &config.backup.dir else {
            return Ok(None);
        };
        let stop = Arc::new(Stop::default());
        let mut maker = Maker {
            directory: directory.clone(),
            every: config.backup.every,
            keep: config.backup.keep as usize,
            floor_bytes: config.eviction.min_free_disk_bytes,
            backups,
            log: Arc::clone(log),
            stop: Arc::clone(&stop),
            incomplete: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("backup".to_owned())
            .spawn(move || maker.run())
            .context("cannot start the thread that makes backups")?;
        Ok(Some(Self {
            stop,
            thread: Some(thread),
        }))
    }

    /// Tells the thread to end, and does not wait.
    pub(super) fn ask_to_stop(&self) {
        self.stop.set();
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Maker {
    fn run(&mut self) {
        let mut failures = 0;
        loop {
            let failed_at = Instant::now();
            loop {
                let left = match failures {
                    0 => self.time_left(),
                    _ => self
                        .pause_after(failures)
                        .saturating_sub(failed_at.elapsed()),
                };
                if self.stop.wait(left.min(LOOK)) {
                    return;
                }
                if left.is_zero() {
                    break;
                }
            }
            failures = match self.make() {
                Ok(()) => 0,
                Err(BackupError::Interrupted) => {
                    self.log.info("backup abandoned by the stop", &[]);
                    return;
                }
                Err(error) => {
                    let retry = self.pause_after(failures + 1).as_secs();
                    self.log.error(
                        "backup failed",
                        &[
                            ("error", Value::Shown(&error)),
                            ("retry_in_seconds", Value::Number(retry)),
                        ],
                    );
                    failures + 1
                }
            };
        }
    }

    /// Until the next backup is due.
    fn time_left(&self) -> Duration {
        let newest = names(&self.directory).pop();
        let Some(made_ms) = newest.and_then(|name| made_at_ms(&name)) else {
            return Duration::ZERO;
        };
        let age_ms = u64::try_from(now_ms() - made_ms).unwrap_or(0);
        self.every.saturating_sub(Duration::from_millis(age_ms))
    }

    fn pause_after(&self, failures: u32) -> Duration {
        let doubled = RETRY_MIN.saturating_mul(1 << (failures - 1).min(16));
        doubled.min(RETRY_MAX).min(self.every)
    }

    fn make(&mut self) -> Result<(), BackupError> {
        let began = Instant::now();
        remove_leftovers(&self.directory, |name| made_at_ms(name).is_some());
        let name = backup::file_name(now_ms());
        let destination = self.directory.join(&name);
        let request = BackupRequest {
            destination: &destination,
            replace: false,
            floor_bytes: self.floor_bytes,
        };
        let made = self.backups.make(request, &self.stop.is_set)?;
        self.tell(&made, &destination, began.elapsed());
        self.retire(name, made.damaged.is_empty());
        Ok(())
    }

    fn tell(&self, made: &BackupMade, destination: &Path, took: Duration) {
        let path = destination.display();
        let facts = [
            ("path", Value::Shown(&path)),
            ("file_bytes", Value::Number(made.size_bytes)),
            ("entries", Value::Number(made.copied.entries)),
            ("left_out", Value::Number(made.left_out)),
            ("seconds", Value::Number(took.as_secs())),
        ];
        self.log.info("backup made", &facts);
        if !made.damaged.is_empty() {
            let damaged = made.damaged.len() as u64;
            self.log.error(
                "damaged artifacts are not in the backup; `cachesrv verify` names them",
                &[("artifacts", Value::Number(damaged))],
            );
        }
        if let Some(error) = &made.unrecorded {
            self.log.warn(
                "the database does not remember the backup",
                &[("error", Value::Shown(error))],
            );
        }
    }

    /// Deletes the oldest backups, never the one just made. While that lacks damaged entries, an older one may
    /// be all that has them: then only others that lack some go.
    fn retire(&mut self, made: String, is_whole: bool) {
        let mut names = names(&self.directory);
        names.retain(|name| *name != made);
        let excess = (names.len() + 1).saturating_sub(self.keep);
        self.incomplete.retain(|name| names.contains(name));
        if !is_whole {
            names.retain(|name| self.incomplete.contains(name));
            self.incomplete.push(made);
        }
        for name in names.iter().take(excess) {
            let path = self.directory.join(name);
            if let Err(error) = fs::remove_file(&path) {
                self.log.warn(
                    "cannot delete an old backup",
                    &[
                        ("path", Value::Shown(&path.display())),
                        ("error", Value::Shown(&error)),
                    ],
                );
            }
        }
    }
}

impl Stop {
    fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits for `time` or for the stop; whether it is set.
    fn wait(&self, time: Duration) -> bool {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unset = |(): &mut ()| !self.is_set.load(Ordering::Relaxed);
        drop(self.changed.wait_timeout_while(gate, time, is_unset));
        self.is_set.load(Ordering::Relaxed)
    }
}

/// The names of the backups in a directory, oldest first; without those from the future, which a clock that was
/// wrong has made: they say nothing about when the next one is due, and nobody knows which of them is old.
fn names(directory: &Path) -> Vec<String> {
    let now_ms = now_ms();
    let is_made = |name: &String| made_at_ms(name).is_some_and(|at_ms| at_ms <= now_ms);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(is_made).collect();
    // Times in them are of one width, so this is the order in which they were made.
    names.sort();
    names
}

/// When the backup of this name was made; `None` if it is the name of anything else.
fn made_at_ms(name: &str) -> Option<i64> {
    let text = name.strip_prefix("cachesrv-")?.strip_suffix(".db")?;
    let at_ms = time::parse_compact(text)?;
    (backup::file_name(at_ms) == name).then_some(at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_at_a_directory_writes_to_nothing_that_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = dir.path().join("kept");
        fs::write(&kept, b"bytes").expect("a file");
        // What somebody who knows the number of the process would lay there.
        let link = format!(".cachesrv-probe-{}", std::process::id());
        let link = dir.path().join(link);
        std::os::unix::fs::symlink(&kept, &link).expect("a link");
        let mut backup = crate::config::Config::defaults().expect("a default").backup;
        backup.dir = Some(dir.path().to_owned());
        check(&backup).expect("a directory");
        assert_eq!(fs::read(&kept).expect("a file"), b"bytes");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 2);
    }

    #[test]
    fn only_names_that_a_backup_is_given_are_those_of_backups() {
        let at_ms = 1_795_389_609_000;
        let name = backup::file_name(at_ms);
        assert_eq!(name, "cachesrv-20261122T232009Z.db");
        assert_eq!(made_at_ms(&name), Some(at_ms));
        for name in [
            "cachesrv.db",
            "cachesrv-20261122T232009Z.db.tmp.01234567",
            "cachesrv-20261122T232009Z.db-wal",
            "cachesrv-20261122T232009.db",
            "cachesrv-20261122T2320Z.db",
            "cachesrv-20261322T232009Z.db",
            "cachesrv-20261122T232009Z",
            "my-cachesrv-20261122T232009Z.db",
            "cachesrv-20261122T232009Z.db ",
            "cachesrv-+0261122T232009Z.db",
            "cachesrv- 0261122T232009Z.db",
        ] {
            assert_eq!(made_at_ms(name), None, "{name}");
        }
    }
}
