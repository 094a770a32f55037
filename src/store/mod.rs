//! The store: everything that is kept in the one SQLite file, and the only place with SQL.
//!
//! One writer thread and a pool of readers for the server ([`Store`]); a connection of its own for each
//! admin command ([`Admin`]). Knows scopes, tokens and artifacts, not who may do what, nor HTTP.

mod admin;
mod artifacts;
mod backup;
mod beside;
mod buffers;
mod catalog;
mod checkpointer;
mod chunks;
mod cleaner;
mod connection;
mod copy;
mod diagnosis;
mod error;
mod eviction;
mod facts;
mod figures;
mod file;
mod gc;
mod hash;
mod holders;
mod housekeeper;
mod life;
mod model;
mod name;
mod observer;
mod probe;
mod purge;
mod quota;
mod read_times;
mod reader;
mod reading;
mod restore;
mod schema;
mod scopes;
mod shape;
mod shrink;
mod space;
mod steady;
mod survey;
mod ticket;
mod timing;
mod tokens;
mod upload;
mod usage;
mod verify;
mod workspaces;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;
use scheduled_thread_pool::ScheduledThreadPool;

pub use admin::{Admin, Created};
pub use backup::{BackupError, BackupMade, BackupProgress, BackupRequest, Backups, Lost};
pub use beside::{PlaceError, remove_leftovers, try_directory};
pub use buffers::{Buffer, BufferPool};
pub use catalog::{Entry, ScopeChoice, ScopeRecord, ScopeUsage, Selection};
pub use chunks::{ARTIFACT_BYTES_MAX, CHUNK_BYTES};
pub use connection::Synchronous;
pub use diagnosis::{
    AsItIs, FileLook, IsolatedUsage, LastBackup, NewestTime, Soundness, StoredSums, look_at_file,
};
pub use error::{OpenError, StoreError};
pub use eviction::{Budget, Evicted, EvictionLimits, Used};
pub use figures::{EvictionSum, Figures, Held};
pub use file::log_path;
pub use gc::{Gc, GcProgress, GcStep, Room};
pub use hash::{Hash, NotAHash};
pub use holders::{Holder, readers_of, server_of, writer_of};
pub use life::{Found, Handle, Kin, Overlap, Revoked, Rotated};
pub use model::{
    Access, Artifact, Condemned, NewArtifact, NewToken, Quota, Reason, Scope, ScopeId, ScopeKind,
    Stored, TokenId, TokenRecord, TokenState, Workspace, WorkspaceId,
};
pub use name::{Name, NotAName, SECRETS_BEGIN};
pub use observer::{Event, Observer};
pub use probe::ProbeName;
pub use purge::{Purge, PurgeProgress, Purged, Sum};
pub use quota::IsolatedLimits;
pub use reader::Reader;
pub use reading::Reading;
pub use restore::{
    Before, Restore, RestoreError, RestoreProgress, Restored, Revived, Was, is_older,
};
pub use schema::VERSION as SCHEMA_VERSION;
pub use survey::Read;
pub use timing::Watch;
pub use upload::{Admission, Upload};
pub use usage::{DayUsage, USAGE_DAYS_MAX, Usage, day_of};
pub use verify::{Finding, VERIFY_LOG_BYTES_MAX, Verdict, Verifier, VerifyError, VerifyProgress};

use connection::{Profile, Role};
use ticket::Weight;

/// Reader connections for each core: a read that waits for the disk must not stop the others.
const READERS_PER_CORE: u32 = 4;

/// Reader connections at the least.
const READERS_MIN: u32 = 16;

/// Memory for chunks on their way out, all downloads together: 96 at once, others wait before they
/// begin. Artifacts that fit into a page need no such buffer.
const DOWNLOAD_MEMORY_BYTES: u64 = 24 * 1024 * 1024;

/// How long a download that found damage waits for its artifact to be hidden: it has waited before, and
/// the next reader finds the same damage.
const QUARANTINE_WAIT: Duration = Duration::from_secs(5);

/// What the configuration says about the store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database file.
    pub path: PathBuf,
    /// When a commit is durable.
    pub synchronous: Synchronous,
    /// Whether to read the file through a memory mapping.
    pub mmap: bool,
    /// Memory for chunks on their way in, all uploads together, in bytes.
    pub upload_memory_bytes: u64,
    /// What isolated scopes may hold.
    pub isolated: IsolatedLimits,
    /// What is kept, and for how long.
    pub eviction: EvictionLimits,
    /// Who hears of what the store does on its own.
    pub observer: Observer,
    /// How long a request waits for a connection, a buffer or the writer.
    pub wait: Duration,
}

/// The open database of a server. Dropping it finishes what is queued, folds the log and leaves one file.
pub struct Store {
    // The order of the fields is the order in which they are dropped: the writer closes the last
    // connection, which folds the log and removes it; the lock goes after every connection.
    readers: r2d2::Pool<SqliteConnectionManager>,
    // Before the checkpointer: what it still writes may have to wait for the log to be folded.
    _housekeeper: housekeeper::Housekeeper,
    _checkpointer: checkpointer::Checkpointer,
    writer: Arc<writer::Writer>,
    _lock: file::FileLock,
    space: Arc<space::Space>,
    quotas: Arc<quota::Quotas>,
    leftovers: Arc<cleaner::Leftovers>,
    readings: Arc<reading::Readings>,
    read_times: Arc<read_times::ReadTimes>,
    usage: Arc<usage::Counts>,
    timing: Arc<timing::Timing>,
    log_path: PathBuf,
    upload_buffers: Arc<BufferPool>,
    download_buffers: Arc<BufferPool>,
    path: PathBuf,
    wait: Duration,
    touched: Touched,
    interrupted_uploads: usize,
}

impl Store {
    /// Opens the database, creating and migrating it if need be. One server at a time.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        // What lies beside the file, lies beside the file itself.
        let path = file::followed(&options.path);
        let path = path.as_path();
        let profile = Profile {
            synchronous: options.synchronous,
            mmap: options.mmap,
        };
        let lock = file::FileLock::acquire(path, true)?;
        refuse_newer(lock.content(path)?, path)?;
        let connect = |role| {
            connection::open(path, role, profile).map_err(|error| schema::open_error(path, error))
        };
        let mut first = connect(Role::Writer)?;
        schema::migrate(&mut first, path)?;
        let interrupted_uploads =
            artifacts::condemn_interrupted(&first).map_err(|e| OpenError::from_store(path, e))?;
        artifacts::end_graces(&first).map_err(|e| OpenError::from_store(path, e))?;
        let file = eviction::FilePages::of(&first).map_err(|e| OpenError::from_store(path, e))?;
        // While it opens, the file may belong to an admin command; from now on requests wait for the lock,
        // and for no longer than they are told to.
        first
            .busy_timeout(options.wait)
            .map_err(|error| schema::open_error(path, error))?;
        let spawn_error = |source| OpenError::Io {
            action: "start a thread for",
            path: path.into(),
            source,
        };
        let checkpoints = connect(Role::Writer)?;
        let readers = open_readers(path, profile, options.wait)?;
        let timing = Arc::new(timing::Timing::default());
        let writer = Arc::new(writer::Writer::start(first, &timing).map_err(spawn_error)?);
        let space = space::Space::new(path, options.eviction.min_free_disk_bytes);
        space.set_reusable_bytes(file.free * connection::PAGE_SIZE_BYTES);
        let leftovers = Arc::new(cleaner::Leftovers::default());
        let readings = Arc::new(reading::Readings::default());
        let read_times = Arc::new(read_times::ReadTimes::default());
        let usage = Arc::new(usage::Counts::default());
        Ok(Self {
            readers,
            _checkpointer: checkpointer::Checkpointer::start(checkpoints, &writer.shared(), path)
                .map_err(spawn_error)?,
            _housekeeper: housekeeper::Housekeeper::start(housekeeper::Chores {
                writer: Arc::clone(&writer),
                space: Arc::clone(&space),
                leftovers: Arc::clone(&leftovers),
                kept: Arc::new(cleaner::Kept::new(Arc::clone(&readings))),
                read_times: Arc::clone(&read_times),
                limits: options.eviction,
                observer: options.observer.clone(),
                usage: Arc::clone(&usage),
            })
            .map_err(spawn_error)?,
            writer,
            _lock: lock,
            space,
            quotas: quota::Quotas::new(options.isolated),
            leftovers,
            readings,
            read_times,
            usage,
            timing,
            log_path: file::log_path(path),
            upload_buffers: BufferPool::new(options.upload_memory_bytes),
            download_buffers: BufferPool::new(DOWNLOAD_MEMORY_BYTES),
            path: path.to_owned(),
            wait: options.wait,
            touched: Touched::default(),
            interrupted_uploads,
        })
    }

    /// How many uploads a crash of the server before had interrupted; they were swept away.
    pub fn interrupted_uploads(&self) -> usize {
        self.interrupted_uploads
    }

    /// What makes backups of the database, as long as the store is open.
    pub fn backups(&self) -> Backups {
        Backups {
            database: self.path.clone(),
            writer: Arc::downgrade(&self.writer),
        }
    }

    /// When a request that begins to wait now gives up.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.wait
    }

    /// Begins a snapshot for a few look-ups, waiting for a connection until `deadline`; see [`Reader`]
    /// for how long it may live.
    pub fn reader(&self, deadline: Instant) -> Result<Reader, StoreError> {
        let asked = Instant::now();
        let left = deadline.saturating_duration_since(asked);
        let connection = self
            .readers
            .get_timeout(left)
            .map_err(|_| StoreError::Busy)?;
        if !connection.is_autocommit() {
            connection.prepare_cached("ROLLBACK")?.execute([])?;
        }
        Reader::begin(connection, asked, Arc::clone(&self.timing))
    }

    /// A buffer for a chunk on its way out, if there is one without waiting.
    pub fn download_buffer_now(&self, kind: ScopeKind) -> Option<Buffer> {
        self.download_buffers.try_take(kind)
    }

    /// A buffer for a chunk on its way out, waiting for one until `deadline`.
    pub fn download_buffer(
        &self,
        kind: ScopeKind,
        deadline: Instant,
    ) -> Result<Buffer, StoreError> {
        let buffer = self.download_buffers.take(kind, deadline);
        buffer.ok_or(StoreError::Busy)
    }

    /// Keeps the ground under a download that begins, to be called in the snapshot that found the artifact:
    /// as long as this lives, its chunks stay, or for minutes if `reader` is isolated and the artifact is
    /// hidden. `None` where the download ends in that very snapshot.
    pub fn begin_reading(&self, artifact: &Artifact, reader: ScopeKind) -> Option<Reading> {
        self.readings.begin(artifact, reader)
    }

    /// Notes that an artifact was read just now, which keeps it from being evicted. Nobody waits for it.
    pub fn note_read(&self, artifact: &Artifact) {
        self.read_times.note(artifact);
    }

    /// Begins the upload of an artifact, with room reserved for it, unless it is known by the snapshot of
    /// `reader` that it would not be stored.
    pub fn upload(&self, reader: Reader, new: NewArtifact) -> Result<Admission<'_>, StoreError> {
        Upload::begin(self, reader, new)
    }

    /// Hides an artifact whose bytes are damaged; whether this call did it. Waits for the writer, shortly.
    pub fn quarantine(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        let id = artifact.id;
        let work =
            move |connection: &Connection| artifacts::condemn(connection, id, Condemned::Damaged);
        self.writer
            .submit(Weight::Small(0), work)
            .wait(Instant::now() + self.wait.min(QUARANTINE_WAIT))
    }

    /// Notes that a token was used just now, unless that was noted less than `resolution_ms` ago.
    /// Nobody waits for it: a failure costs a list its precision.
    pub fn touch_token(&self, id: TokenId, resolution_ms: i64) {
        let used_at_ms = now_ms();
        if self.touched.claim(id, used_at_ms, resolution_ms) {
            drop(self.writer.submit(Weight::Small(0), move |connection| {
                tokens::touch(connection, id, used_at_ms)
            }));
        }
    }

    /// Replaces the hash of a token's secret by a better one of the same secret. Nobody waits for it:
    /// a failure means that the next process does it.
    pub fn rehash_token(&self, id: TokenId, secret_phc: String) {
        drop(self.writer.submit(Weight::Small(0), move |connection| {
            tokens::rehash(connection, id, &secret_phc)
        }));
    }

    /// Counts a request of a token that was admitted. Nobody waits for it.
    pub fn count(&self, workspace: WorkspaceId, access: Access, usage: Usage) {
        self.usage.add(workspace, access, usage);
    }

    /// From now on tells `reads` how long each snapshot took, from asking for a connection to its end, and `writes`
    /// each job of the writer, from being handed over to its commit. Only the first call counts.
    pub fn watch(&self, reads: Watch, writes: Watch) {
        let _ = self.timing.reads.set(reads);
        let _ = self.timing.writes.set(writes);
    }

    /// Whether any token could be used at the moment. Reads the database, so it also says whether that
    /// answers.
    pub fn has_live_tokens(&self) -> Result<bool, StoreError> {
        let connection = self.readers.get().map_err(|_| StoreError::Busy)?;
        tokens::any_live(&connection)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Then the fields, in their order.
        self.writer.shared().hurry();
    }
}

/// Which tokens were noted as used lately, so that a burst of requests costs one row.
#[derive(Default)]
struct Touched(Mutex<HashMap<TokenId, i64>>);

impl Touched {
    /// How many tokens are remembered before all are forgotten.
    const TOKENS_MAX: usize = 4096;

    /// Whether the caller is the one to note this use.
    fn claim(&self, id: TokenId, used_at_ms: i64, resolution_ms: i64) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted
            .get(&id)
            .is_some_and(|&noted_ms| used_at_ms - noted_ms < resolution_ms)
        {
            return false;
        }
        if noted.len() >= Self::TOKENS_MAX {
            noted.clear();
        }
        noted.insert(id, used_at_ms);
        true
    }
}

/// Milliseconds since 1970 UTC; 0 where the clock stands before that.
pub fn now_ms() -> i64 {
    #[cfg(test)]
    if let Some(ms) = model_tests::clock_ms() {
        return ms;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

fn refuse_newer(content: file::Content, path: &Path) -> Result<(), OpenError> {
    match content {
        file::Content::Ours {
            schema_version: found,
        } if found > SCHEMA_VERSION => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        }),
        _ => Ok(()),
    }
}

fn open_readers(
    path: &Path,
    profile: Profile,
    wait: Duration,
) -> Result<r2d2::Pool<SqliteConnectionManager>, OpenError> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let manager = SqliteConnectionManager::file(path)
        .with_flags(Role::Reader.flags())
        .with_init(move |connection| connection::configure(connection, Role::Reader, profile));
    // One thread, which can be waited for: while it makes a connection it holds the pool, and a store that was closed
    // meanwhile would leave its log beside the file.
    let maker = ScheduledThreadPool::builder()
        .num_threads(1)
        .thread_name_pattern("readers")
        .build();
    let maker = Arc::new(maker);
    let readers = r2d2::Pool::builder()
        .thread_pool(Arc::clone(&maker))
        .max_size(READERS_MIN.max(cores * READERS_PER_CORE))
        // A connection to a local file does not go stale; testing it would double the reads.
        .test_on_check_out(false)
        // Nor does it age: by default the pool would open each one anew every half hour.
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(wait)
        .build(manager)
        .map_err(|error| OpenError::Sqlite {
            path: path.to_owned(),
            source: StoreError::Sqlite {
                code: rusqlite::ffi::SQLITE_CANTOPEN,
                message: error.to_string(),
            },
        })?;
    let (running, ended) = mpsc::channel::<()>();
    maker.execute(move || drop(running));
    let _ = ended.recv();
    Ok(readers)
}

#[cfg(test)]
mod eviction_tests;
#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
#[path = "../../tests/model/mod.rs"]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod writer_tests;
