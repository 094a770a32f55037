//! What a database holds, read beside its server: every entry that can be read, where it is, who wrote it,
//! and that its bytes are what its row says.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::dir::Token;

/// What stands for the trusted scope, which has no name; no isolated one can be called so.
pub const TRUSTED: &str = "(trusted)";

/// Entries in order.
pub type Entries = BTreeMap<Key, Entry>;

/// Where an entry is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub workspace: String,
    pub scope: String,
    pub hash: String,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id of the token that wrote it.
    pub writer: String,
    pub size: usize,
    /// BLAKE3 of its bytes.
    pub digest: String,
}

impl Key {
    /// In the default workspace.
    pub fn new(scope: &str, hash: &str) -> Self {
        Self {
            workspace: "default".to_owned(),
            scope: scope.to_owned(),
            hash: hash.to_owned(),
        }
    }
}

impl Entry {
    pub fn of(writer: &Token, bytes: &[u8]) -> Self {
        Self {
            writer: writer.id.clone(),
            size: bytes.len(),
            digest: blake3::hash(bytes).to_hex().to_string(),
        }
    }
}

/// Every entry of every scope.
pub fn all(connection: &Connection) -> Entries {
    like(connection, "%")
}

/// Those of the trusted scopes.
pub fn trusted(connection: &Connection) -> Entries {
    let mut entries = all(connection);
    entries.retain(|key, _| key.scope == TRUSTED);
    entries
}

/// Those under this hash, in whatever scope.
pub fn under(connection: &Connection, hash: &str) -> Entries {
    assert!(!hash.contains(['%', '_']), "{hash} is no pattern");
    like(connection, hash)
}

fn like(connection: &Connection, pattern: &str) -> Entries {
    let sql = "SELECT artifacts.id, workspaces.name, ifnull(scopes.name, ?1), hash, public_id, size_bytes,
                      lower(hex(digest))
               FROM artifacts JOIN scopes ON scopes.id = scope_id
               JOIN workspaces ON workspaces.id = scopes.workspace_id
               JOIN tokens ON tokens.id = writer_token_id
               WHERE state = 'stored' AND hash LIKE ?2";
    let mut statement = connection.prepare_cached(sql).expect("a query");
    let rows = statement.query_map(params![TRUSTED, pattern], |row| {
        let id: i64 = row.get(0)?;
        let key = Key {
            workspace: row.get(1)?,
            scope: row.get(2)?,
            hash: row.get(3)?,
        };
        let entry = Entry {
            writer: row.get(4)?,
            size: row.get::<_, i64>(5)? as usize,
            digest: row.get(6)?,
        };
        let bytes = bytes(connection, id)?;
        assert_eq!(bytes.len(), entry.size, "{key:?}");
        let digest = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(digest, entry.digest, "{key:?}");
        Ok((key, entry))
    });
    let mut entries = Entries::new();
    for row in rows.expect("entries") {
        let (key, entry) = row.expect("an entry");
        let other = entries.insert(key.clone(), entry);
        assert!(other.is_none(), "two entries at {key:?}");
    }
    entries
}

/// The chunks of an artifact, put together.
fn bytes(connection: &Connection, artifact: i64) -> rusqlite::Result<Vec<u8>> {
    let sql = "SELECT data FROM chunks WHERE id >= ?1 << 20 AND id < (?1 + 1) << 20 ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let chunks = statement.query_map([artifact], |row| row.get::<_, Vec<u8>>(0))?;
    Ok(chunks.collect::<rusqlite::Result<Vec<_>>>()?.concat())
}

/// The counters of quotas and budgets say what the entries say, and no upload and no chunk is left over.
#[track_caller]
pub fn counters_are_facts(connection: &Connection) {
    let wrong = "
        SELECT (SELECT count(*) FROM isolated_usage AS kept WHERE
                  (entries, size_bytes) IS NOT
                  (SELECT count(*), ifnull(sum(size_bytes), 0) FROM artifacts
                   WHERE scope_id = kept.scope_id AND state = 'stored'))
             + (SELECT count(*) FROM isolated_totals AS kept WHERE
                  (scopes, entries, size_bytes) IS NOT
                  (SELECT count(DISTINCT scope_id), count(*), ifnull(sum(size_bytes), 0)
                   FROM artifacts JOIN scopes ON scopes.id = scope_id
                   WHERE scopes.workspace_id = kept.workspace_id AND kind = 'isolated' AND state = 'stored'))
             + (SELECT count(*) FROM trusted_usage AS kept WHERE
                  (entries, size_bytes) IS NOT
                  (SELECT count(*), ifnull(sum(size_bytes), 0) FROM artifacts
                   WHERE scope_id = kept.scope_id AND state = 'stored'))
             + (SELECT count(*) FROM scopes WHERE kind = 'trusted' AND id NOT IN (SELECT scope_id FROM trusted_usage))
             + (SELECT count(*) FROM scopes WHERE kind = 'isolated' AND id NOT IN (SELECT scope_id FROM isolated_usage))
             + (SELECT count(*) FROM workspaces WHERE id NOT IN (SELECT workspace_id FROM isolated_totals))";
    assert_eq!(super::dir::number(connection, wrong), 0);
}

/// Waits until only stored artifacts have rows and chunks.
pub fn nothing_is_left_over(connection: &Connection) {
    let left = "SELECT (SELECT count(*) FROM artifacts WHERE state <> 'stored')
                     + (SELECT count(*) FROM chunks WHERE id >> 20 NOT IN
                          (SELECT id FROM artifacts WHERE state = 'stored'))";
    super::eventually("only stored artifacts have rows and chunks", || {
        (super::dir::number(connection, left) == 0).then_some(())
    });
}
