//! Folds the write-ahead log into the file, so that no request's commit ever has to, and keeps it bounded.
//!
//! Under load the log is folded while writers go on; only the little that they add meanwhile is folded
//! with the writer paused, which lets the next commit begin the log anew. When writes pause, the log is
//! folded and truncated to nothing, so that the one file is complete (and copying it is a backup).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;

use super::connection::PAGE_SIZE_BYTES;
use super::error::StoreError;
use super::file;
use super::writer::{LOG_BULK_BYTES_MAX, LOG_BYTES_MAX, Shared};

/// A log of this length is folded even while writes go on. Folding at 16 MiB halves the p99 of a 16 MB
/// upload (70 ms, not 140 ms) and costs a tenth of the throughput (scripts/bench.sh --parts put).
const FOLD_BYTES: u64 = 64 * 1024 * 1024;

/// How much more a log must grow before the next try, when readers kept it in use.
const RETRY_BYTES: u64 = 16 * 1024 * 1024;

/// From one try to the next while the log is so long that bulk jobs wait: the little that still grows it
/// may never be as much as [`RETRY_BYTES`].
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// From one try to the next while readers keep the log in use, however slowly it grows: once they end, it is folded,
/// and whoever watches learns it.
const RETRY_BLOCKED_AFTER: Duration = Duration::from_secs(10);

/// What is left to be folded when the writer is paused: a few milliseconds of work.
const REMAINDER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Rounds of folding before the writer is paused whatever is left.
const ROUNDS_MAX: u32 = 4;

/// Writes have paused when the log did not change for so long.
const QUIET: Duration = Duration::from_secs(1);

/// How often the log is looked at when the writer does not call.
const TICK: Duration = Duration::from_millis(250);

/// How long the paused writer waits for readers of the old log to end: they read a chunk at a time.
const READERS_WAIT: Duration = Duration::from_millis(50);

/// Where the pages of the log are to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As far as readers allow, beside the writer.
    Passive,
    /// All of it, so that the next commit begins the log anew.
    Restart,
    /// The same, and give the log's space back.
    Truncate,
}

/// What a write by anybody, in this process or another, changes: length and time of the log file.
type LogFile = (u64, Option<SystemTime>);

/// The thread that folds the log; ends when dropped.
pub(super) struct Checkpointer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Folder {
    connection: Connection,
    writer: Arc<Shared>,
    log_path: PathBuf,
    /// The log file as it was last seen, and since when it has not changed.
    seen: (LogFile, Instant),
    /// When it was last tried to fold under load.
    tried_at: Instant,
}

impl Checkpointer {
    /// Starts the thread on `connection`.
    pub fn start(
        connection: Connection,
        writer: &Arc<Shared>,
        database: &std::path::Path,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut folder = Folder {
            connection,
            writer: Arc::clone(writer),
            log_path: file::log_path(database),
            seen: ((0, None), Instant::now()),
            tried_at: Instant::now(),
        };
        let should_stop = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("checkpointer".to_owned())
            .spawn(move || {
                while !should_stop.load(Ordering::Relaxed) {
                    folder.tick();
                    std::thread::park_timeout(TICK);
                }
            })?;
        writer.set_checkpointer(thread.thread().clone());
        writer.wake_at(FOLD_BYTES);
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it was printed by the panic hook; the log is folded by the next start.
            let _ = thread.join();
        }
    }
}

impl Folder {
    fn tick(&mut self) {
        let waited = self.tried_at.elapsed();
        let holds_up = self.writer.log_bytes() >= LOG_BULK_BYTES_MAX && waited >= RETRY_AFTER;
        let is_blocked = self.writer.blocked_for().is_some() && waited >= RETRY_BLOCKED_AFTER;
        if self.writer.log_is_long() || holds_up || is_blocked {
            self.fold_under_load();
        } else if self.is_quiet() {
            self.fold_all();
        }
    }

    /// Whether there is a log and nobody, here or in another process, has written to it for a while.
    fn is_quiet(&mut self) -> bool {
        let log = std::fs::metadata(&self.log_path);
        let log = log.map_or((0, None), |log| (log.len(), log.modified().ok()));
        if log != self.seen.0 {
            self.seen = (log, Instant::now());
        }
        log.0 > 0 && self.seen.1.elapsed() >= QUIET
    }

    /// Folds while writers go on, then the rest while the writer stands still.
    fn fold_under_load(&mut self) {
        for round in 0..ROUNDS_MAX {
            // The first round is long and takes everybody along; the next ones must catch up.
            self.writer.hold_bulk(round > 0);
            let Ok(folded_bytes) = self.checkpoint(Mode::Passive) else {
                break;
            };
            if self.writer.log_bytes().saturating_sub(folded_bytes) <= REMAINDER_BYTES_MAX {
                break;
            }
        }
        let begins_anew = self.restart(Mode::Restart);
        self.writer.hold_bulk(false);
        self.tried_at = Instant::now();
        // A reader that is stuck in the log keeps it growing; try again after some more, not always.
        let next_fold_bytes = if begins_anew {
            FOLD_BYTES
        } else {
            (self.writer.log_bytes() + RETRY_BYTES).min(LOG_BYTES_MAX)
        };
        self.writer.wake_at(next_fold_bytes);
    }

    fn fold_all(&mut self) {
        if self.restart(Mode::Truncate) {
            self.writer.wake_at(FOLD_BYTES);
        }
        self.seen.1 = Instant::now();
    }

    /// Folds all that is left with the writer paused; whether the log begins anew.
    fn restart(&self, mode: Mode) -> bool {
        self.writer.paused(|| {
            let done = self.checkpoint(mode).is_ok();
            self.writer.note_try(!done);
            if done {
                self.writer.log_begins_anew();
            }
            done
        })
    }

    /// Bytes of the log that are in the file now. `Busy` where readers kept the log in use.
    fn checkpoint(&self, mode: Mode) -> Result<u64, StoreError> {
        let sql = match mode {
            Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Mode::Restart => "PRAGMA wal_checkpoint(RESTART)",
            Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        self.connection.busy_timeout(READERS_WAIT)?;
        let (busy, pages) = self.connection.prepare_cached(sql)?.query_row([], |row| {
            Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(2)?))
        })?;
        if busy {
            return Err(StoreError::Busy);
        }
        Ok(u64::try_from(pages).unwrap_or(0) * PAGE_SIZE_BYTES)
    }
}
