//! The store against a real file: what is stored, what is not, and what is left when things end early.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

pub(super) const WAIT: Duration = Duration::from_secs(30);

pub(super) const ISOLATED: IsolatedLimits = IsolatedLimits {
    scope_max_bytes: 1000,
    workspace_max_bytes: 2500,
};

pub(super) const UNLIMITED: EvictionLimits = EvictionLimits {
    trusted: Budget {
        max_bytes: u64::MAX,
        max_age: Duration::MAX,
    },
    isolated: Budget {
        max_bytes: u64::MAX,
        max_age: Duration::MAX,
    },
    min_free_disk_bytes: 0,
};

pub(super) struct Fixture {
    pub store: Store,
    pub scope: Scope,
    pub writer: TokenId,
    directory: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A store with other options.
    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cachesrv.db");
        let writer = add_token(&path, "writer", Access::Write);
        let mut options = options(&path);
        change(&mut options);
        let store = Store::open(&options).unwrap();
        Self {
            store,
            scope: Scope::Trusted(ScopeId(1)),
            writer,
            directory,
        }
    }

    /// Ends the server; the files stay as long as what this returns.
    pub fn stop(self) -> tempfile::TempDir {
        drop(self.store);
        self.directory
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("cachesrv.db")
    }

    pub fn new_artifact(&self, hash: &str, size_bytes: usize) -> NewArtifact {
        NewArtifact {
            scope: self.scope.clone(),
            unless_in: None,
            hash: hash.to_owned(),
            size_bytes: size_bytes as u64,
            writer: self.writer,
            writer_address: "127.0.0.1".to_owned(),
        }
    }

    pub fn admission(&self, new: NewArtifact) -> Admission<'_> {
        let reader = self.store.reader(Instant::now() + WAIT).unwrap();
        self.store.upload(reader, new).unwrap()
    }

    /// An upload that is admitted.
    pub fn upload(&self, hash: &str, length: usize) -> Upload<'_> {
        match self.admission(self.new_artifact(hash, length)) {
            Admission::Upload(upload) => *upload,
            Admission::Refused(stored) => panic!("refused: {stored:?}"),
        }
    }

    pub fn put(&self, hash: &str, bytes: &[u8]) -> Stored {
        self.put_new(self.new_artifact(hash, bytes.len()), bytes)
    }

    pub fn put_new(&self, new: NewArtifact, bytes: &[u8]) -> Stored {
        match self.admission(new) {
            Admission::Upload(mut upload) => {
                receive(&mut upload, bytes);
                upload.finish().unwrap()
            }
            Admission::Refused(stored) => stored,
        }
    }

    fn get(&self, hash: &str) -> Option<Vec<u8>> {
        self.get_from([&self.scope], hash)
    }

    pub fn get_from<'s>(
        &self,
        scopes: impl IntoIterator<Item = &'s Scope>,
        hash: &str,
    ) -> Option<Vec<u8>> {
        let artifact = self
            .store
            .reader(Instant::now() + WAIT)
            .unwrap()
            .artifact(scopes, hash)
            .unwrap()?;
        let mut bytes = Vec::new();
        let mut buffer = self
            .store
            .download_buffer(self.scope.kind(), Instant::now() + WAIT)
            .unwrap();
        for sequence in 0..artifact.chunk_count() {
            let reader = self.store.reader(Instant::now() + WAIT).unwrap();
            bytes.extend_from_slice(reader.chunk(&artifact, sequence, &mut buffer).unwrap());
        }
        Some(bytes)
    }

    /// A look at the file that the store itself does not offer.
    pub fn count(&self, sql: &str) -> i64 {
        Connection::open(self.path())
            .unwrap()
            .query_row(sql, [], |row| row.get(0))
            .unwrap()
    }

    pub fn wait_until(&self, sql: &str, expected: i64) {
        let deadline = Instant::now() + WAIT;
        while self.count(sql) != expected {
            assert!(
                Instant::now() < deadline,
                "{sql} is {}, not {expected}",
                self.count(sql)
            );
            std::thread::yield_now();
        }
    }
}

pub(super) fn open(path: &Path) -> Store {
    Store::open(&options(path)).unwrap()
}

pub(super) fn options(path: &Path) -> Options {
    Options {
        path: path.to_owned(),
        synchronous: Synchronous::Normal,
        mmap: true,
        upload_memory_bytes: 4 * 1024 * 1024,
        isolated: ISOLATED,
        eviction: UNLIMITED,
        observer: Observer::default(),
        wait: WAIT,
    }
}

pub(super) fn add_token(path: &Path, public_id: &str, access: Access) -> TokenId {
    let token = new_token(public_id, access);
    let mut admin = Admin::open_or_create(path).unwrap();
    assert_eq!(admin.create_token(&token).unwrap(), Created::Done);
    admin.tokens().unwrap().last().unwrap().id
}

pub(super) fn new_token(public_id: &str, access: Access) -> NewToken<'_> {
    NewToken {
        public_id,
        workspace: WorkspaceId(1),
        access,
        isolated_scope: None,
        name: Some(public_id),
        secret_phc: "",
        secret_tag: [0; 4],
        expires_at_ms: None,
    }
}

pub(super) fn receive(upload: &mut Upload<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let space = upload.space().unwrap();
        let count = space.len().min(bytes.len()).min(70_000);
        space[..count].copy_from_slice(&bytes[..count]);
        upload.advance(count).unwrap();
        bytes = &bytes[count..];
    }
}

pub(super) fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(step).take(length).collect()
}

const LENGTHS: [usize; 8] = [
    0,
    1,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    4 * CHUNK_BYTES,
    4 * CHUNK_BYTES + 1,
    11 * CHUNK_BYTES + 17,
];

#[test]
fn what_was_stored_is_read_back_at_every_length_around_the_chunk_and_batch_borders() {
    let fixture = Fixture::new();
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        let content = bytes(length, seed as u8);
        assert_eq!(fixture.put(&length.to_string(), &content), Stored::New);
        assert!(
            fixture.get(&length.to_string()) == Some(content),
            "{length} bytes"
        );
    }
}

#[test]
fn the_digest_is_the_blake3_of_the_artifact() {
    let fixture = Fixture::new();
    let content = bytes(5 * CHUNK_BYTES + 5, 1);
    fixture.put("1", &content);
    let connection = Connection::open(fixture.path()).unwrap();
    let digest: Vec<u8> = connection
        .query_row("SELECT digest FROM artifacts", [], |row| row.get(0))
        .unwrap();
    assert_eq!(digest, blake3::hash(&content).as_bytes());
}

#[test]
fn the_second_writer_of_a_key_is_told_and_the_first_artifact_stays() {
    for length in [10, 9 * CHUNK_BYTES] {
        let fixture = Fixture::new();
        let mut slow = fixture.upload("1", length);
        receive(&mut slow, &bytes(length, 1));
        assert_eq!(fixture.put("1", &bytes(length, 2)), Stored::New);
        assert_eq!(slow.finish().unwrap(), Stored::Exists);
        assert!(fixture.get("1") == Some(bytes(length, 2)));
        fixture.wait_until("SELECT count(*) FROM artifacts", 1);
        fixture.wait_until(
            "SELECT count(*) FROM chunks",
            length.div_ceil(CHUNK_BYTES) as i64,
        );
    }
}

#[test]
fn an_upload_that_is_dropped_leaves_nothing() {
    let fixture = Fixture::new();
    let mut upload = fixture.upload("1", 20 * CHUNK_BYTES);
    receive(&mut upload, &bytes(9 * CHUNK_BYTES, 1));
    fixture.wait_until("SELECT count(*) FROM chunks", 8);
    assert_eq!(fixture.get("1"), None);
    drop(upload);
    fixture.wait_until("SELECT count(*) FROM artifacts", 0);
    fixture.wait_until("SELECT count(*) FROM chunks", 0);
    assert_eq!(fixture.put("1", b"anew"), Stored::New);
}

#[test]
fn leftovers_of_a_crash_are_swept_at_the_next_start() {
    let fixture = Fixture::new();
    let mut upload = fixture.upload("1", 20 * CHUNK_BYTES);
    receive(&mut upload, &bytes(9 * CHUNK_BYTES, 1));
    fixture.wait_until("SELECT count(*) FROM chunks", 8);
    std::mem::forget(upload);
    let path = fixture.path();
    let Fixture {
        store, directory, ..
    } = fixture;
    drop(store);
    let store = open(&path);
    assert_eq!(store.interrupted_uploads(), 1);
    let fixture = Fixture {
        store,
        scope: Scope::Trusted(ScopeId(1)),
        writer: TokenId(1),
        directory,
    };
    fixture.wait_until("SELECT count(*) FROM artifacts", 0);
    fixture.wait_until("SELECT count(*) FROM chunks", 0);
}

#[test]
fn a_token_that_was_revoked_meanwhile_stores_nothing() {
    for length in [10, 9 * CHUNK_BYTES] {
        let fixture = Fixture::new();
        let mut upload = fixture.upload("1", length);
        receive(&mut upload, &bytes(length, 1));
        let revoked = Admin::open(&fixture.path())
            .unwrap()
            .revoke_tokens(Handle {
                name_or_id: "writer",
                workspace: WorkspaceId(1),
                only_there: false,
            })
            .unwrap();
        assert!(matches!(revoked, Revoked::Done(_)));
        assert_eq!(upload.finish().unwrap(), Stored::TokenNotLive);
        assert_eq!(fixture.get("1"), None);
    }
}

#[test]
fn the_schema_refuses_a_trusted_entry_by_a_token_that_may_not_write() {
    let mut fixture = Fixture::new();
    fixture.writer = add_token(&fixture.path(), "reader", Access::Read);
    for length in [10, 9 * CHUNK_BYTES] {
        let mut upload = fixture.upload("1", length);
        receive(&mut upload, &bytes(length, 1));
        assert!(matches!(upload.finish(), Err(StoreError::Sqlite { .. })));
    }
    assert_eq!(fixture.get("1"), None);
}

#[test]
fn the_schema_refuses_to_change_a_stored_entry() {
    let fixture = Fixture::new();
    fixture.put("1", b"first");
    let connection = Connection::open(fixture.path()).unwrap();
    for change in [
        "hash = '2'",
        "size_bytes = 1",
        "digest = zeroblob(32)",
        "state = 'uploading'",
    ] {
        let update = connection.execute(&format!("UPDATE artifacts SET {change}"), []);
        assert!(update.is_err(), "{change} was let through");
    }
}

#[test]
fn a_damaged_chunk_is_never_returned() {
    let fixture = Fixture::new();
    fixture.put("1", &bytes(2 * CHUNK_BYTES, 1));
    let damage = [
        "UPDATE chunks SET data = zeroblob(length(data)) WHERE id & 1 = 1",
        "UPDATE chunks SET data = CAST(data || x'00' AS BLOB) WHERE id & 1 = 1",
        "UPDATE chunks SET checksum = checksum + 1 WHERE id & 1 = 1",
        "UPDATE chunks SET data = (SELECT data FROM chunks WHERE id & 1 = 0),
                           checksum = (SELECT checksum FROM chunks WHERE id & 1 = 0) WHERE id & 1 = 1",
        "DELETE FROM chunks WHERE id & 1 = 1",
    ];
    for statement in damage {
        Connection::open(fixture.path())
            .unwrap()
            .execute(statement, [])
            .unwrap();
        let reader = fixture.store.reader(Instant::now() + WAIT).unwrap();
        let artifact = reader.artifact([&fixture.scope], "1").unwrap().unwrap();
        let mut buffer = fixture
            .store
            .download_buffer(ScopeKind::Trusted, Instant::now() + WAIT)
            .unwrap();
        assert!(reader.chunk(&artifact, 0, &mut buffer).is_ok());
        let read = reader.chunk(&artifact, 1, &mut buffer).map(<[u8]>::len);
        assert_eq!(
            read,
            Err(StoreError::Damaged {
                artifact_id: artifact.id,
                sequence: 1
            })
        );
    }
}

#[test]
fn a_quarantined_artifact_is_gone_and_can_be_stored_anew() {
    let fixture = Fixture::new();
    fixture.put("1", b"bad");
    let artifact = fixture
        .store
        .reader(Instant::now() + WAIT)
        .unwrap()
        .artifact([&fixture.scope], "1")
        .unwrap()
        .unwrap();
    assert_eq!(fixture.store.quarantine(&artifact), Ok(true));
    assert_eq!(fixture.store.quarantine(&artifact), Ok(false));
    assert_eq!(fixture.get("1"), None);
    assert_eq!(fixture.put("1", b"good"), Stored::New);
    assert_eq!(fixture.get("1").as_deref(), Some(&b"good"[..]));
}

#[test]
fn uploads_that_wait_for_buffers_give_theirs_back_and_all_finish() {
    let fixture = Fixture::new();
    let content = bytes(24 * CHUNK_BYTES, 1);
    std::thread::scope(|scope| {
        for index in 0..16 {
            let (fixture, content) = (&fixture, &content);
            scope.spawn(move || {
                assert_eq!(fixture.put(&index.to_string(), content), Stored::New);
            });
        }
    });
    assert!(fixture.get("15") == Some(content));
}

#[test]
fn the_log_is_folded_and_removed_when_writes_pause_and_a_clean_stop_leaves_one_file() {
    let fixture = Fixture::new();
    fixture.put("1", &bytes(40 * CHUNK_BYTES, 1));
    let log = file::log_path(&fixture.path());
    let length = || std::fs::metadata(&log).map_or(0, |log| log.len());
    assert!(length() > 0);
    let deadline = Instant::now() + Duration::from_secs(5);
    while length() > 0 {
        assert!(
            Instant::now() < deadline,
            "the log still has {} bytes",
            length()
        );
        std::thread::yield_now();
    }
    fixture.put("2", b"more");
    let Fixture {
        store, directory, ..
    } = fixture;
    drop(store);
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["cachesrv.db"]);
}

#[test]
fn the_log_stays_bounded_under_sustained_uploads() {
    let fixture = Fixture::new();
    let content = bytes(64 * CHUNK_BYTES, 1);
    let log = file::log_path(&fixture.path());
    let mut longest = 0;
    std::thread::scope(|scope| {
        let uploads: Vec<_> = (0..4)
            .map(|uploader| {
                let (fixture, content) = (&fixture, &content);
                scope.spawn(move || {
                    for round in 0..10 {
                        fixture.put(&format!("{uploader}-{round}"), content);
                    }
                })
            })
            .collect();
        while uploads.iter().any(|upload| !upload.is_finished()) {
            longest = longest.max(std::fs::metadata(&log).map_or(0, |log| log.len()));
            std::thread::yield_now();
        }
    });
    assert!(
        longest <= 256 * 1024 * 1024,
        "the log grew to {longest} bytes"
    );
}

#[test]
fn a_job_that_fails_is_undone_alone() {
    let fixture = Fixture::new();
    let insert = |name: &'static str, fail: bool| {
        fixture
            .store
            .writer
            .submit(Weight::Small(0), move |connection| {
                connection.execute(
                    "INSERT INTO workspaces (name, created_at_ms) VALUES (?1, 0)",
                    [name],
                )?;
                if fail { Err(StoreError::Busy) } else { Ok(()) }
            })
    };
    let deadline = Instant::now() + WAIT;
    let tickets = [insert("a", false), insert("b", true), insert("c", false)];
    let outcomes = tickets.map(|ticket| ticket.wait(deadline));
    assert_eq!(outcomes, [Ok(()), Err(StoreError::Busy), Ok(())]);
    assert_eq!(
        fixture.count("SELECT group_concat(name ORDER BY id) = 'default,a,c' FROM workspaces"),
        1
    );
}

#[test]
fn a_job_that_panics_costs_only_itself() {
    let fixture = Fixture::new();
    let ticket = fixture
        .store
        .writer
        .submit(Weight::Bulk, |_| -> Result<(), _> { panic!("on purpose") });
    assert_eq!(
        ticket.wait(Instant::now() + WAIT),
        Err(StoreError::panicked())
    );
    assert_eq!(fixture.put("1", b"after"), Stored::New);
}

#[test]
fn a_store_that_is_closed_as_soon_as_it_is_open_leaves_one_file() {
    // Whoever makes connections in the background is kept from it.
    let is_over = AtomicBool::new(false);
    let left = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let left = (0..20).map(|_| {
            let Fixture {
                store, directory, ..
            } = Fixture::new();
            drop(store);
            std::fs::read_dir(directory.path()).unwrap().count()
        });
        let left = left.max();
        is_over.store(true, Ordering::Relaxed);
        left
    });
    assert_eq!(left, Some(1));
}

#[test]
fn a_second_server_on_one_file_is_refused() {
    let fixture = Fixture::new();
    let second = file::FileLock::acquire(&fixture.path(), true);
    assert!(matches!(second, Err(OpenError::InUse(_))));
}

#[test]
fn a_database_that_is_not_ours_or_newer_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.db");
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
        .unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(
        Store::open(&options(&path)),
        Err(OpenError::NotOurs(_))
    ));
    assert!(matches!(
        Admin::open_or_create(&path),
        Err(OpenError::NotOurs(_))
    ));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let path = directory.path().join("newer.db");
    // Not a server: one of its readers may still be there for a moment when it is gone.
    drop(Admin::open_or_create(&path).unwrap());
    let newer = Connection::open(&path).unwrap();
    newer
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    drop(newer);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(
        Store::open(&options(&path)),
        Err(OpenError::Newer { .. })
    ));
    assert!(matches!(Admin::open(&path), Err(OpenError::Newer { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
