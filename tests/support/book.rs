//! A book of what a cache was told to store and what it said: what must be there after a crash, what may be, and what
//! must not. The bytes of an entry follow from its number, which is its hash, and its size.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use rusqlite::Connection;

use super::{Client, Dir, Raw, Token, eventually, noise};

/// What is known of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was acknowledged: it is there unless eviction took it.
    Stored,
    /// The answer to the upload or to the purge did not come: it is there or not.
    Unsure,
    /// Its purge was acknowledged.
    Purged,
}

/// An entry that was sent.
#[derive(Debug, Clone)]
pub struct Written {
    /// The isolated scope, if it is in one.
    pub scope: Option<String>,
    pub size: usize,
    pub known: Known,
}

/// Every entry that was sent and may be there, by its number.
#[derive(Default)]
pub struct Book {
    pub entries: BTreeMap<u64, Written>,
    /// What eviction had taken of each kind when the book was compared the last time.
    evicted: [i64; 2],
}

/// The numbers and digests of what is stored.
pub type Stored = BTreeMap<u64, Vec<u8>>;

impl Written {
    pub fn bytes(&self, number: u64) -> Vec<u8> {
        noise(number, self.size)
    }

    /// The path of its server.
    pub fn base(&self) -> String {
        let scope = self.scope.as_ref();
        scope.map_or_else(String::new, |scope| format!("/s/{scope}"))
    }

    /// Whether it is trusted or isolated, as a place in an array.
    fn kind(&self) -> usize {
        usize::from(self.scope.is_some())
    }
}

impl Book {
    /// Compares a database with the book: each acknowledged entry is there and whole unless eviction, which counts,
    /// took it; of others there is all or nothing. From now on the book says what is there. Returns the entries of which
    /// nothing is there although they were sent.
    pub fn compare(&mut self, connection: &Connection) -> BTreeMap<u64, Written> {
        let (stored, evicted) = look(connection);
        let mut book = std::mem::take(&mut self.entries);
        let (mut lost, mut may_be_evicted) = ([0; 2], [0; 2]);
        let mut absent = BTreeMap::new();
        for (number, digest) in &stored {
            let written = book.get(number);
            let written = written.unwrap_or_else(|| panic!("{number} was not sent"));
            assert_ne!(written.known, Known::Purged, "{number} was purged");
            let sent = blake3::hash(&written.bytes(*number));
            assert!(sent.as_bytes()[..] == digest[..], "{number} is another");
        }
        book.retain(|number, written| {
            let is_there = stored.contains_key(number);
            if !is_there && written.known == Known::Stored {
                lost[written.kind()] += 1;
            } else if !is_there {
                may_be_evicted[written.kind()] += 1;
            }
            if !is_there && written.known == Known::Unsure {
                absent.insert(*number, written.clone());
            }
            written.known = Known::Stored;
            is_there
        });
        for kind in [0, 1] {
            let taken = evicted[kind] - self.evicted[kind];
            assert!(
                (lost[kind]..=lost[kind] + may_be_evicted[kind]).contains(&taken),
                "{} are gone, {taken} were evicted (kind {kind})",
                lost[kind]
            );
        }
        self.entries = book;
        self.evicted = evicted;
        absent
    }

    /// The same after a restore that was killed, which leaves one of two databases.
    pub fn take_over(&mut self, connection: &Connection, either: &Stored, or: &Stored) {
        let (stored, evicted) = look(connection);
        assert!(stored == *either || stored == *or, "neither old nor new");
        self.entries.retain(|number, written| {
            written.known = Known::Stored;
            stored.contains_key(number)
        });
        assert_eq!(self.entries.len(), stored.len(), "others than were sent");
        self.evicted = evicted;
    }
}

/// What is stored, and how many entries eviction took of each kind, in one snapshot.
pub fn look(connection: &Connection) -> (Stored, [i64; 2]) {
    let ask = || -> rusqlite::Result<(Stored, [i64; 2])> {
        connection.execute_batch("BEGIN")?;
        let mut stored = Stored::new();
        let mut select = connection.prepare(
            "SELECT CAST(hash AS INTEGER), digest FROM artifacts WHERE state = 'stored'",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            stored.insert(row.get::<_, i64>(0)? as u64, row.get(1)?);
        }
        let mut evicted = [0; 2];
        for (kind, evicted) in evicted.iter_mut().enumerate() {
            let sum = "SELECT ifnull(sum(entries), 0) FROM evictions_by_day WHERE is_isolated = ?1";
            *evicted = connection.query_row(sum, [kind as i64], |row| row.get(0))?;
        }
        connection.execute_batch("COMMIT")?;
        Ok((stored, evicted))
    };
    ask().expect("the database is read")
}

/// Each of these is served, to the bit.
pub fn serves(client: impl Fn(&Written) -> Client, entries: &BTreeMap<u64, Written>) {
    for (number, written) in entries {
        let answer = client(written).get(&number.to_string());
        assert_eq!(answer.status, 200, "{number}: {}", answer.head);
        assert!(
            answer.body == written.bytes(*number),
            "{number} is not whole"
        );
    }
}

/// Queries that count what must not be.
const WRONG: [&str; 5] = [
    // An entry of another length than its row says.
    "SELECT count(*) FROM artifacts WHERE size_bytes <>
     (SELECT coalesce(sum(length(data)), 0) FROM chunks WHERE chunks.id >> 20 = artifacts.id)",
    // Counters that say something else than the entries.
    "SELECT count(*) FROM trusted_usage WHERE (entries, size_bytes) IS NOT
     (SELECT count(*), ifnull(sum(size_bytes), 0) FROM artifacts
      WHERE artifacts.scope_id = trusted_usage.scope_id AND state = 'stored')",
    "SELECT count(*) FROM isolated_usage WHERE (entries, size_bytes) IS NOT
     (SELECT count(*), ifnull(sum(size_bytes), 0) FROM artifacts
      WHERE artifacts.scope_id = isolated_usage.scope_id AND state = 'stored')",
    "SELECT count(*) FROM isolated_totals WHERE (scopes, entries, size_bytes) IS NOT
     (SELECT count(DISTINCT scope_id), count(*), ifnull(sum(size_bytes), 0)
      FROM artifacts JOIN scopes ON scopes.id = scope_id
      WHERE workspace_id = isolated_totals.workspace_id AND kind = 'isolated' AND state = 'stored')",
    "SELECT count(*) FROM pragma_foreign_key_check",
];

/// Beside a server that evicts nothing: what a crash left is swept, so that there is no row and no chunk but those of
/// stored entries, every one of them is whole, and every counter says what there is.
pub fn nothing_else_is_left(dir: &Dir) {
    let database = dir.sqlite();
    let number = |sql: &str| super::dir::number(&database, sql);
    eventually("what was interrupted is freed", || {
        let others = number("SELECT count(*) FROM artifacts WHERE state <> 'stored'");
        let orphans =
            number("SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)");
        (others + orphans == 0).then_some(())
    });
    for sql in WRONG {
        assert_eq!(number(sql), 0, "{sql}");
    }
}

/// Stores again what an upload that was interrupted did not store.
pub fn store_again(
    client: impl Fn(&Written) -> Client,
    book: &mut Book,
    absent: BTreeMap<u64, Written>,
) {
    for (number, mut written) in absent {
        let bytes = written.bytes(number);
        let answer = client(&written).put(&number.to_string(), &bytes);
        assert_eq!(answer.status, 200, "{number}: {}", answer.head);
        written.known = Known::Stored;
        book.entries.insert(number, written);
    }
}

/// What tokens the book's clients present.
#[derive(Clone)]
pub struct Tokens {
    pub trusted: Token,
    pub isolated: Token,
}

impl Tokens {
    /// A client that may read and write this entry.
    pub fn client(&self, address: SocketAddr, written: &Written) -> Client {
        self.try_client(address, written)
            .expect("the server accepts")
    }

    /// The same of a server that may be gone.
    pub fn try_client(&self, address: SocketAddr, written: &Written) -> io::Result<Client> {
        let token = match written.scope {
            None => &self.trusted,
            Some(_) => &self.isolated,
        };
        let raw = Raw::try_connect(address)?;
        Ok(Client::over(raw, Some(&token.secret)).at(&written.base()))
    }
}
