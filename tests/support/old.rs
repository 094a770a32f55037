//! Databases of earlier schema versions, as a server of then left them when it was killed: made by the old migrations, with
//! entries in both kinds of scopes (version 1 had but one), uploads that were interrupted, and entries that were to be freed.

use std::fs;
use std::net::SocketAddr;

use rusqlite::{Connection, params};
use twox_hash::XxHash3_64;

use super::{Client, Dir, Server, noise};

const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_isolation.sql"),
];

/// Of each entry, in bytes.
const CHUNK: usize = 256 * 1024;

/// The sizes of the entries in turn; the number of an entry is its hash and the seed of its bytes.
const SIZES: [usize; 4] = [0, 300, 20_000, CHUNK + 1];

/// How many entries there are in the trusted scope, and as many in an isolated one, from [`ISOLATED`] on.
const COUNT: u64 = 24;

const ISOLATED: u64 = 1000;

/// Makes such a database in this directory; it has a log, and what is in the log is nowhere else.
pub fn make(dir: &Dir, version: usize) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("old.db");
    let connection = Connection::open(&path).expect("a database");
    fill(&connection, version).expect("it is filled");
    for end in ["", "-wal"] {
        let mut from = path.clone().into_os_string();
        let mut to = dir.db().into_os_string();
        from.push(end);
        to.push(end);
        fs::copy(from, &to).expect("a copy");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&to, private).expect("a private file");
    }
}

fn fill(connection: &Connection, version: usize) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", 16384)?;
    for (migration, version) in MIGRATIONS[..version].iter().zip(1..) {
        let begin = if version == 1 {
            "PRAGMA auto_vacuum = INCREMENTAL;"
        } else {
            ""
        };
        connection.execute_batch(&format!(
            "BEGIN; {begin} {migration};
             PRAGMA application_id = 0x63737276; PRAGMA user_version = {version}; COMMIT"
        ))?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    if version > 1 {
        connection.execute(
            "INSERT INTO scopes (id, workspace_id, kind, name, created_at_ms) VALUES (2, 1, 'isolated', 'pr-1', 1)",
            [],
        )?;
    }
    connection.execute_batch(
        "INSERT INTO tokens (id, public_id, workspace_id, access, secret_phc, secret_tag, created_at_ms)
         VALUES (1, 'aaaaaaaaaaaa', 1, 'write', 'x', x'00000000', 1), (2, 'bbbbbbbbbbbb', 1, 'isolated', 'x', x'00000000', 1);",
    )?;
    for number in 0..COUNT {
        insert(connection, 1, number, "stored")?;
        if version > 1 {
            insert(connection, 2, ISOLATED + number, "stored")?;
        }
    }
    for number in 0..4 {
        insert(connection, 1, 2 * ISOLATED + number, "uploading")?;
        insert(connection, 1, 3 * ISOLATED + number, "condemned")?;
    }
    Ok(())
}

fn size(number: u64) -> usize {
    SIZES[number as usize % SIZES.len()]
}

fn insert(connection: &Connection, scope: i64, number: u64, state: &str) -> rusqlite::Result<()> {
    let bytes = noise(number, size(number));
    let is_condemned = state == "condemned";
    connection.execute(
        "INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms, writer_token_id,
                                writer_address, condemned_at_ms, condemned_reason)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, 1, ?1, '127.0.0.1', ?6, ?7)",
        params![
            scope,
            number.to_string(),
            state,
            bytes.len() as i64,
            blake3::hash(&bytes).as_bytes(),
            is_condemned.then_some(1),
            is_condemned.then_some("purged"),
        ],
    )?;
    let artifact = connection.last_insert_rowid();
    for (sequence, data) in bytes.chunks(CHUNK).enumerate() {
        let id = artifact << 20 | sequence as i64;
        let hash = XxHash3_64::oneshot(data).to_le_bytes();
        let checksum = XxHash3_64::oneshot_with_seed(id as u64, &hash) as i64;
        let insert = "INSERT INTO chunks (id, checksum, data) VALUES (?1, ?2, ?3)";
        connection.execute(insert, params![id, checksum, data])?;
    }
    Ok(())
}

/// All entries are there, to the bit, and no others.
pub fn is_served(dir: &Dir, server: &Server, version: usize) {
    let [trusted, isolated] = [&["--write"][..], &["--isolated", "pr-1"]];
    check(server.address(), &dir.token_with(trusted).secret, 0);
    if version > 1 {
        check(server.address(), &dir.token_with(isolated).secret, ISOLATED);
    }
}

fn check(address: SocketAddr, secret: &str, first: u64) {
    let mut client = Client::new(address, Some(secret));
    for number in first..first + COUNT {
        let answer = client.get(&number.to_string());
        assert_eq!(answer.status, 200, "{number}");
        assert!(answer.body == noise(number, size(number)), "{number}");
    }
    for number in [2 * ISOLATED, 3 * ISOLATED] {
        assert_eq!(client.get(&number.to_string()).status, 404, "{number}");
    }
}
