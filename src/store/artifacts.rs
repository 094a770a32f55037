//! The rows of artifacts: looked up, begun, published, condemned, deleted. SQL on a connection, no more.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::StoreError;
use super::model::{Artifact, Condemned, NewArtifact, Scope, ScopeKind};
use super::{chunks, scopes};

/// The artifact stored under `hash` in `scope`.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    hash: &str,
) -> Result<Option<Artifact>, StoreError> {
    let scope_id = match scope {
        Scope::Trusted(id) => *id,
        Scope::Isolated(workspace, name) => {
            match scopes::find_isolated(connection, *workspace, name)? {
                Some(id) => id,
                None => return Ok(None),
            }
        }
    };
    let found = connection
        .prepare_cached(FIND)?
        .query_row(params![scope_id.0, hash], |row| {
            agrees(row, 4, "artifacts_by_key")?;
            from_row(row, scope.kind())
        });
    Ok(found.optional()?)
}

/// The key is in the index and in the row. SQLite believes the index, where one flipped bit leads to another row:
/// to another entry, perhaps of another scope. So both are asked, and must agree.
pub(super) const FIND: &str =
    "SELECT entry.id, entry.size_bytes, entry.created_at_ms, entry.read_at_ms,
           entry.scope_id = ?1 AND entry.hash = ?2 AND entry.state = 'stored'
    FROM artifacts AS key INDEXED BY artifacts_by_key
    CROSS JOIN artifacts AS entry NOT INDEXED ON entry.id = key.id
    WHERE key.scope_id = ?1 AND key.hash = ?2 AND key.state = 'stored'";

/// Refuses a row to which an index leads that says otherwise; the value at `at` is whether they agree.
pub(super) fn agrees(row: &Row<'_>, at: usize, index: &str) -> rusqlite::Result<()> {
    if row.get(at)? {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT_INDEX),
        Some(format!(
            "the index {index} leads to a row that says otherwise"
        )),
    ))
}

/// Whether an entry is in the way of `new`: in its own scope, or in the other one that counts for it.
pub(super) fn is_taken(connection: &Connection, new: &NewArtifact) -> Result<bool, StoreError> {
    for scope in new.unless_in.iter().chain([&new.scope]) {
        if find(connection, scope, &new.hash)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `kind` is known from the look-up, or does not matter.
pub(super) fn from_row(row: &Row<'_>, kind: ScopeKind) -> rusqlite::Result<Artifact> {
    let size_bytes: i64 = row.get(1)?;
    if !(0..=chunks::ARTIFACT_BYTES_MAX as i64).contains(&size_bytes) {
        return Err(rusqlite::Error::IntegralValueOutOfRange(1, size_bytes));
    }
    Ok(Artifact {
        id: row.get(0)?,
        kind,
        size_bytes: size_bytes as u64,
        created_at_ms: row.get(2)?,
        read_at_ms: row.get(3)?,
    })
}

/// Adds a row for an upload whose chunks follow in later transactions; its id.
pub(super) fn begin(connection: &Connection, new: &NewArtifact) -> Result<i64, StoreError> {
    insert(connection, new, "uploading", None)
}

/// Adds a row for an artifact whose chunks are in the same transaction; its id.
pub(super) fn store(
    connection: &Connection,
    new: &NewArtifact,
    digest: &[u8; 32],
) -> Result<i64, StoreError> {
    insert(connection, new, "stored", Some(digest))
}

fn insert(
    connection: &Connection,
    new: &NewArtifact,
    state: &str,
    digest: Option<&[u8; 32]>,
) -> Result<i64, StoreError> {
    let scope = scopes::find_or_create(connection, &new.scope)?;
    let now_ms = super::now_ms();
    connection
        .prepare_cached(
            "INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                                    writer_token_id, writer_address, is_isolated)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            scope.0,
            new.hash,
            state,
            new.size_bytes as i64,
            digest.map(<[u8; 32]>::as_slice),
            now_ms,
            new.writer.0,
            new.writer_address,
            new.scope.kind() == ScopeKind::Isolated,
        ])?;
    Ok(connection.last_insert_rowid())
}

/// Makes an upload readable, all of it at once; whether it was there.
pub(super) fn publish(
    connection: &Connection,
    id: i64,
    digest: &[u8; 32],
) -> Result<bool, StoreError> {
    let rows = connection
        .prepare_cached(
            "UPDATE artifacts SET state = 'stored', digest = ?2, created_at_ms = ?3, read_at_ms = ?3
             WHERE id = ?1 AND state = 'uploading'",
        )?
        .execute(params![id, digest.as_slice(), super::now_ms()])?;
    Ok(rows > 0)
}

/// Hides an artifact; its chunks go later. Whether it was there to be hidden.
pub(super) fn condemn(
    connection: &Connection,
    id: i64,
    why: Condemned,
) -> Result<bool, StoreError> {
    // An upload was never readable, so nobody can be reading it: its chunks may go at once.
    let since_ms = if why.was_readable() {
        super::now_ms()
    } else {
        0
    };
    let from_state = if why.was_readable() {
        "stored"
    } else {
        "uploading"
    };
    let rows = connection
        .prepare_cached(
            "UPDATE artifacts SET state = 'condemned', condemned_at_ms = ?3, condemned_reason = ?4
             WHERE id = ?1 AND state = ?2",
        )?
        .execute(params![id, from_state, since_ms, why.as_str()])?;
    Ok(rows > 0)
}

/// Condemns what uploads a crash interrupted; how many there were. Only before the first upload.
pub(super) fn condemn_interrupted(connection: &Connection) -> Result<usize, StoreError> {
    Ok(connection.execute(CONDEMN_INTERRUPTED, [Condemned::Interrupted.as_str()])?)
}

/// Lets everything that is condemned go at once. Only before the first reader.
pub(super) fn end_graces(connection: &Connection) -> Result<(), StoreError> {
    connection.execute(MOVE_CONDEMNED, [0, 0])?;
    Ok(())
}

/// Sees to it that nothing was condemned later than now: a clock that was set back would keep it for ever.
pub(super) fn clamp_condemned(connection: &Connection, now_ms: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached(MOVE_CONDEMNED)?
        .execute([now_ms, now_ms])?;
    Ok(())
}

/// By the index, as [`FIND_CONDEMNED`].
pub(super) const MOVE_CONDEMNED: &str = "UPDATE artifacts SET condemned_at_ms = ?1
    WHERE state = 'condemned' AND state <> 'stored' AND condemned_at_ms > ?2";

/// By the index, as [`FIND_CONDEMNED`].
pub(super) const CONDEMN_INTERRUPTED: &str =
    "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = ?1
    WHERE state = 'uploading' AND state <> 'stored'";

/// Says when a stored artifact was last read.
pub(super) fn note_read(
    connection: &Connection,
    id: i64,
    read_at_ms: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE artifacts SET read_at_ms = ?2 WHERE id = ?1 AND state = 'stored'")?
        .execute([id, read_at_ms])?;
    Ok(())
}

/// The second condition is the index's own: without it SQLite reads the whole table.
pub(super) const FIND_CONDEMNED: &str = "SELECT id FROM artifacts
    WHERE state = 'condemned' AND state <> 'stored' AND condemned_at_ms <= ?1";

/// Artifacts that were condemned at or before `until_ms`, at most `rows_max`, without those that are
/// `held`.
pub(super) fn find_condemned(
    connection: &Connection,
    until_ms: i64,
    rows_max: usize,
    held: impl Fn(i64) -> bool,
) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached(FIND_CONDEMNED)?;
    let mut rows = statement.query([until_ms])?;
    let mut found = Vec::new();
    while found.len() < rows_max
        && let Some(row) = rows.next()?
    {
        found.extend(Some(row.get(0)?).filter(|&id| !held(id)));
    }
    Ok(found)
}

/// The same with their bytes, all of them.
pub(super) const CONDEMNED_BYTES: &str = "SELECT id, size_bytes FROM artifacts
    WHERE state = 'condemned' AND state <> 'stored'";

/// What condemned artifacts still occupy, in bytes, without those that are `held`; `None` where there are
/// `rows_max` of the others or more.
pub(super) fn condemned_bytes(
    connection: &Connection,
    rows_max: usize,
    held: impl Fn(i64) -> bool,
) -> Result<Option<u64>, StoreError> {
    let mut statement = connection.prepare_cached(CONDEMNED_BYTES)?;
    let mut rows = statement.query([])?;
    let (mut found, mut size_bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        if held(row.get(0)?) {
            continue;
        }
        found += 1;
        size_bytes = u64::saturating_add(size_bytes, row.get::<_, i64>(1)? as u64);
        if found == rows_max {
            return Ok(None);
        }
    }
    Ok(Some(size_bytes))
}

/// Whether an artifact is condemned, by its row: the index that found it may be wrong.
pub(super) fn is_condemned(connection: &Connection, id: i64) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM artifacts NOT INDEXED WHERE id = ?1 AND state = 'condemned'",
    )?;
    Ok(statement.exists([id])?)
}

/// Deletes the row of a condemned artifact that has no chunks any more.
pub(super) fn delete(connection: &Connection, id: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM artifacts WHERE id = ?1 AND state = 'condemned'")?
        .execute([id])?;
    Ok(())
}

/// How SQLite goes about a query with `parameters` numbers in it.
#[cfg(test)]
pub(super) fn plan_of(connection: &Connection, sql: &str, parameters: usize) -> String {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .expect("a query");
    let numbers = rusqlite::params_from_iter(std::iter::repeat_n(0, parameters));
    let lines = statement.query_map(numbers, |row| row.get::<_, String>(3));
    let lines: Result<Vec<String>, _> = lines.expect("a plan").collect();
    lines.expect("a plan").join("; ")
}
