//! A database that has everything: several workspaces, isolated scopes, tokens of each access, entries of one page
//! and of many chunks, usage, evictions, backups, what is condemned, free pages; and so many rows that tables and
//! indexes have pages above their leaves. Made once for each test binary, by the real binary where that is quick.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cachesrv::auth::{Authenticator, Grant, Place, read_chain, write_target};
use cachesrv::store::{
    Admission, Budget, EvictionLimits, IsolatedLimits, NewArtifact, Observer, Options, Reader,
    Store, StoreError, Stored, Synchronous,
};

use super::{Dir, Server, Token, noise};

/// Bytes of everything, by workspace and scope (the trusted one has no name), and by hash.
pub type Held = BTreeMap<(String, Option<String>), BTreeMap<String, Vec<u8>>>;

/// Somebody who asks.
pub struct Asker {
    pub name: &'static str,
    pub token: Token,
    pub place: Option<&'static str>,
    /// Where he reads, in this order.
    pub chain: Vec<(String, Option<String>)>,
}

/// The database, as bytes, with what is in it.
pub struct Rich {
    pub bytes: Vec<u8>,
    /// The same file at an earlier time.
    pub older: Vec<u8>,
    pub held: Held,
    pub askers: Vec<Asker>,
    pub authenticator: Authenticator,
}

impl Rich {
    pub fn new() -> Self {
        Self::make(true)
    }

    /// Only what the server itself stored.
    pub fn small() -> Self {
        Self::make(false)
    }

    fn make(is_large: bool) -> Self {
        let dir = Dir::new();
        let askers = askers(&dir);
        let mut rich = Self {
            bytes: Vec::new(),
            older: Vec::new(),
            held: Held::new(),
            askers,
            authenticator: Authenticator::new().expect("random bytes"),
        };
        // By the real binary: what spans pages.
        let server = Server::start(&dir);
        let sizes = [
            0, 1, 5_000, 15_360, 15_361, 40_000, 262_144, 262_145, 524_288, 700_000,
        ];
        for who in [0, 2, 3, 5] {
            let asker = &rich.askers[who];
            let mut client = server.client(&asker.token).at(&asker.base());
            for (number, size) in sizes.into_iter().enumerate().skip(who) {
                let (hash, seed) = (format!("large-{number}"), (100 * who + number) as u64);
                let hash = if who == 2 || who == 3 {
                    format!("own-{hash}")
                } else {
                    hash
                };
                assert_eq!(client.put(&hash, &noise(seed, size)).status, 200, "{hash}");
                let place = rich.askers[who].chain.last().expect("a chain").clone();
                rich.held
                    .entry(place)
                    .or_default()
                    .insert(hash, noise(seed, size));
            }
        }
        assert_eq!(server.stop().code(), Some(0));
        if !is_large {
            rich.bytes = fs::read(dir.db()).expect("a file");
            return rich;
        }
        rich.fill(&dir.db(), 0..400);
        rich.older = fs::read(dir.db()).expect("a file");
        rich.fill(&dir.db(), 400..1500);
        let sql = dir.sqlite();
        sql.execute_batch(ROWS)
            .unwrap_or_else(|error| panic!("{error}"));
        sql.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .expect("a checkpoint");
        drop(sql);
        rich.bytes = fs::read(dir.db()).expect("a file");
        rich
    }

    /// Stores small entries, most of them trusted.
    fn fill(&mut self, path: &Path, numbers: std::ops::Range<u64>) {
        let store = Store::open(&options(path)).expect("a store");
        for number in numbers {
            let who = match number % 10 {
                8 => 2,
                9 => [3, 5][(number / 10 % 2) as usize],
                _ => 0,
            };
            let asker = &self.askers[who];
            let (hash, size) = (
                format!("entry-{number:06}-{}", "0123456789abcdef".repeat(2)),
                20 + number as usize % 300,
            );
            let place = asker.chain.last().expect("a chain").clone();
            let grant = self.grant(&store, asker).expect("a grant");
            let stored = put(&store, &grant, &hash, &noise(number, size));
            assert_eq!(stored, Ok(Stored::New));
            self.held
                .entry(place)
                .or_default()
                .insert(hash, noise(number, size));
        }
    }

    /// What this one may do, verified as the server does it.
    pub fn grant(&self, store: &Store, asker: &Asker) -> Result<Grant, String> {
        let bearer = format!("Bearer {}", asker.token.secret);
        let presented =
            Authenticator::present(Some(&bearer)).map_err(|error| format!("{error:?}"))?;
        let place = Place {
            workspace: None,
            scope: asker.place,
        };
        let now_ms = cachesrv::store::now_ms();
        for _ in 0..2 {
            let reader = store
                .reader(store.deadline())
                .map_err(|error| error.to_string())?;
            let found = reader.token(presented.public_id().as_str());
            let record = found.map_err(|error| error.to_string())?.ok_or("unknown")?;
            drop(reader);
            let recalled = self
                .authenticator
                .recall(&presented, &record, place, now_ms);
            if let Some(grant) = recalled.map_err(|error| format!("{error:?}"))? {
                return Ok(grant);
            }
            let verified = self.authenticator.verify(&presented, &record, now_ms);
            verified.map_err(|error| format!("{error:?}"))?;
        }
        Err("not recalled".to_owned())
    }

    /// What an asker must be given under a hash, if he is given anything.
    pub fn expected(&self, asker: &Asker, hash: &str) -> Option<&[u8]> {
        let mut chain = asker.chain.iter();
        let found = chain.find_map(|place| self.held.get(place)?.get(hash));
        found.map(Vec::as_slice)
    }

    /// All hashes that there are anywhere.
    pub fn hashes(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .held
            .values()
            .flat_map(|held| held.keys().cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

impl Asker {
    /// The path in the URL of his server.
    pub fn base(&self) -> String {
        self.place
            .map_or_else(String::new, |place| format!("/s/{place}"))
    }
}

fn askers(dir: &Dir) -> Vec<Asker> {
    dir.cli(&["workspace", "add", "other"]).done();
    let trusted = |workspace: &str| (workspace.to_owned(), None);
    let isolated = |scope: &str| ("default".to_owned(), Some(scope.to_owned()));
    let asker = |name, options: &[&str], place, chain: Vec<_>| Asker {
        name,
        token: dir.token_with(options),
        place,
        chain,
    };
    vec![
        asker(
            "write",
            &["--write", "--name", "ci-main"],
            None,
            vec![trusted("default")],
        ),
        asker("read", &["--read"], None, vec![trusted("default")]),
        asker(
            "isolated",
            &["--isolated"],
            Some("pr-7"),
            vec![trusted("default"), isolated("pr-7")],
        ),
        asker(
            "bound",
            &["--isolated", "pr-1"],
            None,
            vec![trusted("default"), isolated("pr-1")],
        ),
        asker("write-only", &["--write-only"], None, vec![]),
        asker(
            "other",
            &["--write", "--workspace", "other"],
            None,
            vec![trusted("other")],
        ),
    ]
}

/// So many rows that every table and index has pages above its leaves, and free pages.
const ROWS: &str = "
    PRAGMA foreign_keys = ON;
    BEGIN;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000)
        INSERT INTO workspaces (name, created_at_ms) SELECT 'workspace-' || n, 1 FROM n;
    INSERT INTO scopes (workspace_id, kind, name, created_at_ms) SELECT id, 'trusted', NULL, 1 FROM workspaces
        WHERE name LIKE 'workspace-%';
    INSERT INTO scopes (workspace_id, kind, name, created_at_ms) SELECT id, 'isolated', 'pr-' || id, 1 FROM workspaces
        WHERE name LIKE 'workspace-%';
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1200)
        INSERT INTO tokens (public_id, workspace_id, access, name, secret_phc, secret_tag, created_at_ms)
        SELECT printf('%012d', n), 1 + n % 3, 'write', 'token-' || n, '$argon2id$v=19$m=19456,t=2,p=1$none$none', x'00000000', 1 FROM n;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500)
        INSERT INTO usage_by_day (day, workspace_id, access, hits) SELECT 20000 + n, 1, 'read', n FROM n;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500)
        INSERT INTO evictions_by_day (day, is_isolated, reason, entries, size_bytes) SELECT 20000 + n, n % 2, 'size', n, n FROM n;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 900)
        INSERT INTO backups (finished_at_ms, size_bytes, destination) SELECT n, n, '/var/backups/cachesrv-' || n || '.db' FROM n;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
        INSERT INTO artifacts (scope_id, hash, state, size_bytes, created_at_ms, read_at_ms, writer_token_id, writer_address,
            condemned_at_ms, condemned_reason) SELECT 1, 'condemned-' || n, 'condemned', 0, 1, 1, 1, 'x', 0, 'size' FROM n;
    WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 3)
        INSERT INTO chunks SELECT 50000 * 1048576 + n, 7, zeroblob(250000) FROM n;
    COMMIT;
    DELETE FROM chunks WHERE id >= 50000 * 1048576;";

/// Stores as the server does; what became of it.
pub fn put(store: &Store, grant: &Grant, hash: &str, bytes: &[u8]) -> Result<Stored, StoreError> {
    let Some(target) = write_target(grant) else {
        return Ok(Stored::TokenNotLive);
    };
    let new = NewArtifact {
        scope: target.scope().clone(),
        unless_in: target.unless_in().cloned(),
        hash: hash.to_owned(),
        size_bytes: bytes.len() as u64,
        writer: target.writer(),
        writer_address: "192.0.2.7".to_owned(),
    };
    let reader = store.reader(store.deadline())?;
    let mut upload = match store.upload(reader, new)? {
        Admission::Refused(stored) => return Ok(stored),
        Admission::Upload(upload) => upload,
    };
    let mut left = bytes;
    while !left.is_empty() {
        let space = upload.space()?;
        let count = space.len().min(left.len());
        space[..count].copy_from_slice(&left[..count]);
        upload.advance(count)?;
        left = &left[count..];
    }
    upload.finish()
}

/// Reads as the server does: all bytes of what is found, or nothing.
pub fn get(reader: &Reader, grant: &Grant, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let chain = read_chain(grant);
    let Some(artifact) = reader.artifact(chain.scopes(), hash)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let mut buffer = vec![0; cachesrv::store::CHUNK_BYTES];
    for sequence in 0..artifact.chunk_count().max(1) {
        bytes.extend_from_slice(reader.chunk(&artifact, sequence, &mut buffer)?);
    }
    // What is sent is announced first: whatever is not as long is cut.
    let is_whole = bytes.len() as u64 == artifact.size_bytes;
    Ok(is_whole.then_some(bytes))
}

/// A store that evicts nothing.
pub fn options(path: &Path) -> Options {
    let budget = Budget {
        max_bytes: 1 << 40,
        max_age: Duration::from_hours(24 * 365 * 100),
    };
    Options {
        path: PathBuf::from(path),
        synchronous: Synchronous::Normal,
        mmap: true,
        upload_memory_bytes: 8 * 1024 * 1024,
        isolated: IsolatedLimits {
            scope_max_bytes: 1 << 40,
            workspace_max_bytes: 1 << 40,
        },
        eviction: EvictionLimits {
            trusted: budget,
            isolated: budget,
            min_free_disk_bytes: 0,
        },
        observer: Observer::default(),
        wait: Duration::from_secs(5),
    }
}

/// Nobody asks it to stop.
pub fn never() -> Arc<std::sync::atomic::AtomicBool> {
    Arc::default()
}

/// The server on a file that may be damaged: it refuses with a sentence that names the file, or starts and answers
/// everybody with what is his, or nothing, and lives on.
pub fn ask_everybody(dir: &Dir, rich: &Rich, text: &str) {
    let Ok(mut server) = std::panic::catch_unwind(|| Server::start(dir)) else {
        let said = dir.cli(&["serve", "--listen", "127.0.0.1:0"]);
        assert_eq!(said.code, Some(1), "{text}: {said:?}");
        let lines: Vec<&str> = said.stderr.lines().collect();
        assert!(said.stderr.contains("cachesrv.db"), "{text}: {said:?}");
        assert!(matches!(lines.len(), 1 | 2), "{text}: {said:?}");
        return;
    };
    let hashes = rich.hashes();
    for asker in &rich.askers {
        for hash in hashes.iter().filter(|hash| !hash.starts_with("entry")) {
            let mut client = server.client(&asker.token).at(&asker.base());
            client.begin("GET", &client.path(hash), &[]);
            // What ends before its length is no answer, and Nx takes it for none.
            let Ok(answer) = client.raw.try_answer(true) else {
                continue;
            };
            let expected = rich.expected(asker, hash);
            match answer.status {
                200 => assert!(
                    expected == Some(&answer.body[..]),
                    "{text}: {} {hash}",
                    asker.name
                ),
                status => assert!(
                    matches!(status, 401 | 404),
                    "{text}: {} {hash}: {status}",
                    asker.name
                ),
            }
        }
        let mut client = server.client(&asker.token).at(&asker.base());
        for size in [10, 300_000] {
            let hash = format!("new-{}-{size}", asker.name);
            let answer = client.put(&hash, &noise(1, size));
            let status = answer.status;
            assert!(
                matches!(status, 200 | 401 | 403),
                "{text}: {} {status}",
                asker.name
            );
        }
    }
    assert!(server.is_alive(), "{text}");
    let ended = server.stop();
    assert_eq!(ended.code(), Some(0), "{text}: {}", ended.log);
    assert!(!ended.log.contains("panicked"), "{text}: {}", ended.log);
}
