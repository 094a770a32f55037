//! Checks a database, and changes nothing: beside a server at work, or a file that nobody uses.
//!
//! Artifacts are read in short steps (`survey`). SQLite's own check needs one snapshot for as long as it takes,
//! and a snapshot keeps the write-ahead log from beginning anew: it is given up before the log is so long that
//! uploads would have to wait.
//!
//! Invariant: each finding was true in one snapshot, so that what comes and goes meanwhile is none.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::backup::stored_bytes;
use super::catalog::{self, ScopeRecord};
use super::connection::{self, PAGE_SIZE_BYTES, Profile, Role, Synchronous};
use super::error::{OpenError, StoreError};
use super::facts::Counted;
use super::file::{self, Content, log_path, sibling};
use super::model::ScopeId;
use super::shape::{self, Difference};
use super::survey::{self, Flaw, Read, Row, Survey, Visitor, snapshot};
use super::{chunks, schema};

/// The log may grow to this length during SQLite's own check; at 192 MiB large uploads begin to wait.
pub const VERIFY_LOG_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Findings that are kept; a file that is damaged all over needs no longer list.
pub const FINDINGS_MAX: usize = 100;

/// SQLite's own check begins once the log is shorter than this, if it is so soon.
const LOG_BYTES_SHORT: u64 = VERIFY_LOG_BYTES_MAX / 2;

/// How long it is waited for.
const SHORT_WAIT: Duration = Duration::from_secs(2);

/// Pages, or jumps of a statement, between two looks: each page, which a slow disk may take long to read.
const CHECK_STEPS: i32 = 1;

/// The least time between two looks at the log.
const LOOK: Duration = Duration::from_millis(1);

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// What SQLite says about the file.
    File(String),
    /// Rows of the first table refer to rows of the second that are not there.
    Reference(String, String),
    /// This table, index or trigger is missing.
    Missing(String),
    /// This one is not as the migrations make it.
    Changed(String),
    /// This one is not of ours.
    Foreign(String),
    /// Something that holds for the whole file is not as it was made.
    Shape {
        /// In words after "the file".
        what: String,
        /// A backup can read what is stored.
        is_readable: bool,
    },
    /// A counter says something else than the entries do.
    Counter(String),
    /// The bytes of an entry are not what was stored.
    Damaged {
        /// Where it is.
        scope: ScopeRecord,
        /// What it goes by.
        hash: String,
        /// What is wrong.
        what: String,
    },
    /// There are chunks of an artifact, which is not there.
    Orphans(i64),
    /// There are more findings than are kept.
    More,
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The schema version.
    pub version: u32,
    /// The entries that are there, sound or not.
    pub stored: Read,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// SQLite's own check was given up, because the log grew.
    pub is_unfinished: bool,
}

impl Verdict {
    /// Whether all of it was checked and nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty() && !self.is_unfinished
    }

    fn add(&mut self, finding: Finding) {
        match self.findings.len() {
            FINDINGS_MAX.. => {}
            len if len + 1 == FINDINGS_MAX => self.findings.push(Finding::More),
            _ => self.findings.push(finding),
        }
    }
}

/// Why a database cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be read, for a reason that is not in the file.
    #[error("cannot read the database: {0}")]
    Read(#[from] StoreError),
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyProgress {
    /// SQLite checks the file; nobody knows for how long.
    File,
    /// Artifacts are read.
    Entries {
        /// What was read.
        done: Read,
        /// What there is, by the counters, in bytes.
        total_bytes: u64,
    },
}

/// A database that is to be checked.
pub struct Verifier {
    connection: Connection,
    /// After the connection: whoever closes a file loses the locks that SQLite has on it for the process.
    log: Arc<Log>,
    version: u32,
}

impl Verifier {
    /// Opens the database at `path` as it is, of this version or an older one. For a process that has no other
    /// connection to it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let fail = |error| schema::open_error(path, error);
        let profile = Profile {
            synchronous: Synchronous::Normal,
            mmap: false,
        };
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            // To open a pipe would be to wait for whoever reads it.
            return Err(OpenError::NotAFile(path.to_owned()));
        }
        let is_writable = OpenOptions::new().append(true).open(path).is_ok();
        if !is_writable && !log_path(path).exists() {
            // A backup on a disk that cannot be written, or of somebody else.
            return Self::open_still(path);
        }
        let content = match file::inspect(path) {
            // A backup that is kept by a link. It has no log by this name, so nobody uses it by this name.
            Err(OpenError::SeveralNames(_)) if !log_path(path).exists() => {
                return Self::open_still(path);
            }
            content => content?,
        };
        check_content(content, path)?;
        // The last to close the file folds its log, which a connection that may only read cannot.
        let connection = connection::open(path, Role::Admin, profile).map_err(fail)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(fail)?;
        let mut verifier = Self::with(connection, path)?;
        verifier.log = Arc::new(Log::open(path));
        Ok(verifier)
    }

    /// Opens a file that nobody changes, and leaves nothing beside it.
    pub(super) fn open_still(path: &Path) -> Result<Self, OpenError> {
        check_content(file::inspect_still(path)?, path)?;
        let connection =
            connection::open_still(path).map_err(|error| schema::open_error(path, error))?;
        Self::with(connection, path)
    }

    fn with(connection: Connection, path: &Path) -> Result<Self, OpenError> {
        // The header may be older than the log.
        let version =
            schema::version(&connection).map_err(|error| schema::open_error(path, error))?;
        check_content(
            Content::Ours {
                schema_version: version,
            },
            path,
        )?;
        Ok(Self {
            connection,
            log: Arc::default(),
            version,
        })
    }

    /// The schema version of the database.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Checks everything; `is_quick`: but the bytes of artifacts and what only they tell, and the order in
    /// indexes.
    pub fn run(
        &self,
        is_quick: bool,
        stop: &Arc<AtomicBool>,
        watch: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Verdict, VerifyError> {
        let mut verdict = Verdict {
            version: self.version,
            ..Verdict::default()
        };
        watch(VerifyProgress::File);
        let mut are_ours = true;
        let checked = self.check_schema(&mut verdict).map(|ours| are_ours = ours);
        tolerate(checked.map_err(Into::into), &mut verdict)?;
        if !are_ours {
            // They may say anything, and take any time to say it.
            return Ok(verdict);
        }
        let checked = self.check_file(is_quick, stop, &mut verdict);
        tolerate(checked, &mut verdict)?;
        let checked = self.check_references(stop, &mut verdict);
        tolerate(checked, &mut verdict)?;
        let checked = self.check_counters(&mut verdict);
        tolerate(checked.map_err(Into::into), &mut verdict)?;
        if !is_quick {
            let checked = self.check_orphans(stop, &mut verdict);
            tolerate(checked, &mut verdict)?;
            let checked = self.check_entries(stop, watch, &mut verdict);
            tolerate(checked, &mut verdict)?;
        }
        Ok(verdict)
    }

    /// Runs a check of SQLite's in one snapshot, as long as the log stays short; what it says, or `None`.
    fn ask<T>(
        &self,
        stop: &Arc<AtomicBool>,
        check: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, VerifyError> {
        let (asked, log) = (Arc::clone(stop), Arc::clone(&self.log));
        log.wait_until_short(stop);
        let (mut looked, length_bytes) = (Instant::now(), log.length_bytes());
        // Never pauses: that would make the snapshot last twice as long.
        let watch = move || {
            if looked.elapsed() < LOOK {
                return false;
            }
            looked = Instant::now();
            // One that a crash left is long, but nobody writes to it.
            let now_bytes = log.length_bytes();
            let is_long = now_bytes >= VERIFY_LOG_BYTES_MAX && now_bytes > length_bytes;
            is_long || asked.load(Ordering::Relaxed)
        };
        let progress = |handler| {
            let set = self.connection.progress_handler(CHECK_STEPS, handler);
            set.map_err(StoreError::from)
        };
        progress(Some(watch))?;
        let outcome = check(&self.connection);
        self.connection
            .progress_handler(0, None::<fn() -> bool>)
            .map_err(StoreError::from)?;
        if stop.load(Ordering::Relaxed) {
            return Err(VerifyError::Interrupted);
        }
        match outcome {
            Err(error) if error.sqlite_error_code() == Some(INTERRUPTED) => Ok(None),
            outcome => Ok(Some(outcome.map_err(StoreError::from)?)),
        }
    }

    /// What SQLite finds in the file.
    fn check_file(
        &self,
        is_quick: bool,
        stop: &Arc<AtomicBool>,
        verdict: &mut Verdict,
    ) -> Result<(), VerifyError> {
        let pragma = if is_quick {
            "PRAGMA quick_check"
        } else {
            "PRAGMA integrity_check"
        };
        let mut said: Vec<String> = Vec::new();
        let finished = self.ask(stop, |connection| {
            let mut statement = connection.prepare(pragma)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                said.push(row.get(0)?);
            }
            Ok(())
        })?;
        verdict.is_unfinished |= finished.is_none();
        for text in said.iter().flat_map(|text| text.lines()) {
            if text != "ok" {
                verdict.add(Finding::File(text.to_owned()));
            }
        }
        Ok(())
    }

    fn check_references(
        &self,
        stop: &Arc<AtomicBool>,
        verdict: &mut Verdict,
    ) -> Result<(), VerifyError> {
        let found = self.ask(stop, |connection| {
            let mut statement = connection
                .prepare("SELECT DISTINCT \"table\", parent FROM pragma_foreign_key_check")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        verdict.is_unfinished |= found.is_none();
        for (from, to) in found.unwrap_or_default() {
            verdict.add(Finding::Reference(from, to));
        }
        Ok(())
    }

    /// Triggers keep what is promised of entries, so one that is missing is a promise that is not kept. Whether the
    /// tables are ours.
    fn check_schema(&self, verdict: &mut Verdict) -> Result<bool, StoreError> {
        // In one snapshot: a server may be bringing the file forward at this moment.
        let snapshot = self.connection.unchecked_transaction()?;
        let version = schema::version(&self.connection)?.min(schema::VERSION);
        let found = shape::differences(&self.connection, version)?;
        drop(snapshot);
        let are_ours = shape::spare_tables(&found);
        let title = |object: shape::Object| format!("{} {}", object.kind, object.name);
        for difference in found {
            verdict.add(match difference {
                Difference::Missing(object) => Finding::Missing(title(object)),
                Difference::Changed(object) => Finding::Changed(title(object)),
                Difference::Foreign(object) => Finding::Foreign(title(object)),
                Difference::File(what, is_readable) => Finding::Shape { what, is_readable },
            });
        }
        Ok(are_ours)
    }

    fn check_counters(&self, verdict: &mut Verdict) -> Result<(), StoreError> {
        let (stored, wrong) = snapshot(&self.connection, || {
            let counted = Counted::of(&self.connection)?;
            Ok::<_, StoreError>((counted.stored(), counted.differences(&self.connection)?))
        })?;
        verdict.stored = stored;
        for wrong in wrong {
            verdict.add(Finding::Counter(wrong.to_string()));
        }
        Ok(())
    }

    fn check_entries(
        &self,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(VerifyProgress),
        verdict: &mut Verdict,
    ) -> Result<(), VerifyError> {
        // Of an older version, or damaged: then there is no bar.
        let total_bytes = stored_bytes(&self.connection).unwrap_or(0);
        let mut survey = Survey::new(&self.connection)?;
        let mut reader = Reader {
            digest: blake3::Hasher::new(),
            verdict,
        };
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(VerifyError::Interrupted);
            }
            let began = Instant::now();
            let more = survey.step(&self.connection, &mut reader)?;
            let done = survey.done;
            watch(VerifyProgress::Entries { done, total_bytes });
            if !more {
                return Ok(());
            }
            survey::pause(began);
        }
    }

    /// Looks for chunks between those of one artifact and those of the next.
    fn check_orphans(&self, stop: &AtomicBool, verdict: &mut Verdict) -> Result<(), VerifyError> {
        let mut next_id = Some(0);
        while let Some(first_id) = next_id {
            if stop.load(Ordering::Relaxed) {
                return Err(VerifyError::Interrupted);
            }
            let began = Instant::now();
            next_id = snapshot(&self.connection, || {
                let mut from_id = first_id;
                while let Some(id) = chunks::next_artifact(&self.connection, from_id)? {
                    if survey::is_time_to_pause(began) {
                        return Ok::<_, StoreError>(Some(id));
                    }
                    if !self.has_row(id)? {
                        verdict.add(Finding::Orphans(id));
                    }
                    from_id = id + 1;
                }
                Ok(None)
            })?;
            survey::pause(began);
        }
        Ok(())
    }

    fn has_row(&self, id: i64) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM artifacts WHERE id = ?1")?;
        Ok(statement.exists([id])?)
    }
}

const INTERRUPTED: rusqlite::ErrorCode = rusqlite::ErrorCode::OperationInterrupted;

/// Makes a finding of an error that says that the file is malformed: the other checks may still go on.
fn tolerate(outcome: Result<(), VerifyError>, verdict: &mut Verdict) -> Result<(), VerifyError> {
    match outcome {
        Err(VerifyError::Read(error)) if error.is_fault_of_the_file() => {
            let finding = Finding::File(error.to_string());
            if !verdict.findings.contains(&finding) {
                verdict.add(finding);
            }
            Ok(())
        }
        outcome => outcome,
    }
}

/// The write-ahead log, as its index tells of it: the file keeps its length when the log begins anew.
#[derive(Debug, Default)]
struct Log {
    index: Option<File>,
}

impl Log {
    /// Where the index says how many pages are in the log, in the byte order of the machine
    /// (<https://sqlite.org/walformat.html>, `mxFrame`).
    const FRAMES_AT: u64 = 16;

    /// What is in the log beside each page.
    const FRAME_HEADER_BYTES: u64 = 24;

    fn open(database: &Path) -> Self {
        Self {
            index: File::open(sibling(database, "-shm")).ok(),
        }
    }

    fn length_bytes(&self) -> u64 {
        let mut frames = [0; 4];
        let read = self
            .index
            .as_ref()
            .map(|index| index.read_exact_at(&mut frames, Self::FRAMES_AT));
        match read {
            Some(Ok(())) => {
                let frame_bytes = PAGE_SIZE_BYTES + Self::FRAME_HEADER_BYTES;
                u64::from(u32::from_ne_bytes(frames)) * frame_bytes
            }
            _ => 0,
        }
    }

    /// Lets a server at work begin its log anew, if it soon does.
    fn wait_until_short(&self, stop: &AtomicBool) {
        let end = Instant::now() + SHORT_WAIT;
        while self.length_bytes() > LOG_BYTES_SHORT
            && Instant::now() < end
            && !stop.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn check_content(content: Content, path: &Path) -> Result<(), OpenError> {
    match content {
        Content::Ours { schema_version } if (1..=schema::VERSION).contains(&schema_version) => {
            Ok(())
        }
        Content::Ours { schema_version } if schema_version > schema::VERSION => {
            Err(OpenError::Newer {
                path: path.to_owned(),
                found: schema_version,
                known: schema::VERSION,
            })
        }
        Content::Empty => Err(OpenError::Empty(path.to_owned())),
        Content::Ours { .. } => Err(OpenError::NotOurs(path.to_owned())),
    }
}

/// Compares what is read with what was stored.
struct Reader<'v> {
    digest: blake3::Hasher,
    verdict: &'v mut Verdict,
}

impl Visitor for Reader<'_> {
    type Error = VerifyError;

    fn chunk(&mut self, _: &Row, _: u32, data: &[u8]) -> Result<(), VerifyError> {
        self.digest.update(data);
        Ok(())
    }

    fn whole(&mut self, source: &Connection, row: &Row) -> Result<(), VerifyError> {
        let is_right = self.digest.finalize().as_bytes()[..] == row.digest[..];
        self.digest.reset();
        if is_right {
            return Ok(());
        }
        self.add(source, row, "its bytes do not have its digest")
    }

    fn flawed(&mut self, source: &Connection, row: &Row, flaw: Flaw) -> Result<(), VerifyError> {
        self.digest.reset();
        let what = match flaw {
            Flaw::Chunk(sequence) => format!("chunk {sequence} is damaged or missing"),
            Flaw::Excess => "there are chunks behind its end".to_owned(),
        };
        self.add(source, row, &what)
    }

    fn gone(&mut self, _: &Row) -> Result<(), VerifyError> {
        self.digest.reset();
        Ok(())
    }
}

impl Reader<'_> {
    fn add(&mut self, source: &Connection, row: &Row, what: &str) -> Result<(), VerifyError> {
        let mut statement = source
            .prepare_cached("SELECT scope_id, hash FROM artifacts WHERE id = ?1")
            .map_err(StoreError::from)?;
        let found: Option<(i64, String)> = statement
            .query_row([row.id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(StoreError::from)?;
        if let Some((scope, hash)) = found {
            self.verdict.add(Finding::Damaged {
                scope: catalog::scope(source, ScopeId(scope))?,
                hash,
                what: what.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_given_up_when_the_log_is_long_however_long_its_file_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        drop(crate::store::Admin::open_or_create(&path).expect("a database"));
        let profile = Profile {
            synchronous: Synchronous::Normal,
            mmap: false,
        };
        let writer = connection::open(&path, Role::Admin, profile).expect("a writer");
        let write = |bytes: u64| {
            let sql = format!("CREATE TABLE x AS SELECT zeroblob({bytes}) AS x; DROP TABLE x");
            writer.execute_batch(&sql).expect("it writes");
        };
        writer
            .pragma_update(None, "wal_autocheckpoint", 0)
            .expect("a log that grows");
        // The file of the log is long now, and the log begins anew.
        write(VERIFY_LOG_BYTES_MAX + VERIFY_LOG_BYTES_MAX / 4);
        let fold = "PRAGMA wal_checkpoint(RESTART)";
        writer
            .query_row(fold, [], |_| Ok(()))
            .expect("a checkpoint");
        write(1);
        let file_bytes = || std::fs::metadata(log_path(&path)).expect("a log").len();
        let before_bytes = file_bytes();
        assert!(before_bytes > VERIFY_LOG_BYTES_MAX);
        let verifier = Verifier::open(&path).expect("a database");
        let stop = Arc::new(AtomicBool::new(false));
        let sound = verifier.run(false, &stop, &mut |_| {}).expect("a verdict");
        assert!(sound.is_ok(), "{sound:?}");
        let given_up = verifier.ask(&stop, |connection| {
            let mut statement = connection.prepare("SELECT count(*) FROM sqlite_schema")?;
            let mut snapshot = statement.query([])?;
            snapshot.next()?;
            write(VERIFY_LOG_BYTES_MAX);
            let said: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
            Ok(said)
        });
        assert!(matches!(given_up, Ok(None)), "{given_up:?}");
        assert_eq!(file_bytes(), before_bytes);
    }
}
