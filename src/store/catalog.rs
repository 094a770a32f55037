//! What is stored, as people ask for it: entries with their provenance, and what each scope holds. Reads
//! only, SQL on a connection.
//!
//! Whoever has to see every row walks ([`Walk`]): in the order of ids, page by page, each page a short read
//! of its own, so that a command keeps neither the log of a busy server from being folded nor more than one
//! page in memory.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::StoreError;
use super::model::{ScopeId, ScopeKind, TokenId, TokenRecord, WorkspaceId};
use super::name::Name;
use super::{scopes, tokens};

/// Rows of artifacts that one read looks at: some milliseconds' worth.
const PAGE_ROWS: usize = 5_000;

/// Which scopes of a workspace are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeChoice {
    /// All of them.
    All,
    /// The trusted one.
    Trusted,
    /// The isolated one of this name, if there is one.
    Isolated(Name),
}

/// Which entries are meant: those of the workspace that every other field admits.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The workspace they are in.
    pub workspace: WorkspaceId,
    /// The scopes they are in.
    pub scopes: ScopeChoice,
    /// The tokens that wrote them; `None` for any.
    pub writers: Option<Vec<TokenRecord>>,
    /// They were stored then or later, milliseconds since 1970 UTC.
    pub since_ms: Option<i64>,
    /// The hash they are stored under.
    pub hash: Option<String>,
}

/// A scope as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRecord {
    /// The name of its workspace.
    pub workspace: String,
    /// Trusted or isolated; an isolated scope may be called "trusted", too.
    pub kind: ScopeKind,
    /// The name of an isolated scope.
    pub name: Option<String>,
    /// When it began to exist, milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

/// A scope and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeUsage {
    /// The scope.
    pub scope: ScopeRecord,
    /// How many entries it holds.
    pub entries: u64,
    /// Their bytes together.
    pub size_bytes: u64,
    /// When the newest of them was stored, milliseconds since 1970 UTC.
    pub last_write_at_ms: Option<i64>,
}

/// A stored artifact and where it comes from.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The scope it is in.
    pub scope: ScopeRecord,
    /// The hash it is stored under.
    pub hash: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The BLAKE3 digest of its bytes.
    pub digest: [u8; 32],
    /// When it was stored, milliseconds since 1970 UTC.
    pub created_at_ms: i64,
    /// When it was last noted as read, milliseconds since 1970 UTC; when it was stored, if never.
    pub read_at_ms: i64,
    /// The token that stored it, as it is now.
    pub writer: TokenRecord,
    /// The address it came from.
    pub writer_address: String,
}

/// A stored artifact as a walk meets it: what decisions need, and nothing of variable length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    pub id: i64,
    pub scope: ScopeId,
    pub kind: ScopeKind,
    pub workspace: WorkspaceId,
    pub size_bytes: u64,
    pub created_at_ms: i64,
    pub writer: TokenId,
}

/// A walk over all stored artifacts, or over those of one hash in one workspace. It ends with the newest row
/// that was there when it began, so writers cannot keep it going.
#[derive(Debug)]
pub(super) struct Walk {
    hash: Option<(WorkspaceId, String)>,
    after_id: i64,
    until_id: i64,
}

/// What a walk selects, in the order of [`met_from_row`]. `CROSS JOIN` is SQLite's way to keep the order of
/// the tables, which makes a page the work of a page.
macro_rules! select_met {
    ($from:literal) => {
        concat!(
            "SELECT artifacts.id, scope_id, kind = 'trusted', workspace_id, size_bytes,
                    artifacts.created_at_ms, writer_token_id, state = 'stored' ",
            $from,
            " AND artifacts.id > ?1 AND artifacts.id <= ?2 ORDER BY artifacts.id LIMIT ?3"
        )
    };
}

impl Walk {
    /// A walk over every stored artifact.
    pub fn all(connection: &Connection) -> Result<Self, StoreError> {
        let newest: Option<i64> = connection
            .prepare_cached("SELECT max(id) FROM artifacts")?
            .query_row([], |row| row.get(0))?;
        Ok(Self {
            hash: None,
            after_id: 0,
            until_id: newest.unwrap_or(0),
        })
    }

    /// A walk over the entries of one hash in all scopes of a workspace.
    pub fn of_hash(
        connection: &Connection,
        workspace: WorkspaceId,
        hash: &str,
    ) -> Result<Self, StoreError> {
        let hash = Some((workspace, hash.to_owned()));
        Ok(Self {
            hash,
            ..Self::all(connection)?
        })
    }

    /// The next entries, perhaps none; `None` at the end.
    pub fn next_page(&mut self, connection: &Connection) -> Result<Option<Vec<Met>>, StoreError> {
        if self.after_id >= self.until_id {
            return Ok(None);
        }
        let rows = self.rows(connection)?;
        if rows.iter().any(|(met, _)| met.id <= self.after_id) {
            return Err(StoreError::out_of_order());
        }
        self.after_id = match rows.last() {
            Some((last, _)) if rows.len() == PAGE_ROWS => last.id,
            _ => self.until_id,
        };
        let stored = rows.into_iter().filter(|(_, is_stored)| *is_stored);
        Ok(Some(stored.map(|(met, _)| met).collect()))
    }

    /// Rows of the next page in whatever state, so that a page is bounded by what it looks at.
    fn rows(&self, connection: &Connection) -> Result<Vec<(Met, bool)>, StoreError> {
        let bounds = [self.after_id, self.until_id, PAGE_ROWS as i64];
        let rows = match &self.hash {
            None => connection
                .prepare_cached(select_met!(
                    "FROM artifacts NOT INDEXED CROSS JOIN scopes ON scopes.id = scope_id WHERE TRUE"
                ))?
                .query_map(bounds, met_from_row)?
                .collect::<rusqlite::Result<_>>()?,
            Some((workspace, hash)) => connection
                .prepare_cached(select_met!(
                    "FROM scopes CROSS JOIN artifacts ON scope_id = scopes.id
                     WHERE workspace_id = ?4 AND hash = ?5 AND state = 'stored'"
                ))?
                .query_map(
                    params![bounds[0], bounds[1], bounds[2], workspace.0, hash],
                    met_from_row,
                )?
                .collect::<rusqlite::Result<_>>()?,
        };
        Ok(rows)
    }

    /// How far it has come, of how far.
    pub fn progress(&self) -> (u64, u64) {
        (self.after_id as u64, self.until_id as u64)
    }
}

fn met_from_row(row: &Row<'_>) -> rusqlite::Result<(Met, bool)> {
    let met = Met {
        id: row.get(0)?,
        scope: ScopeId(row.get(1)?),
        kind: kind_of(row.get(2)?),
        workspace: WorkspaceId(row.get(3)?),
        size_bytes: row.get::<_, i64>(4)? as u64,
        created_at_ms: row.get(5)?,
        writer: TokenId(row.get(6)?),
    };
    Ok((met, row.get(7)?))
}

fn kind_of(is_trusted: bool) -> ScopeKind {
    if is_trusted {
        ScopeKind::Trusted
    } else {
        ScopeKind::Isolated
    }
}

/// The row of the scope that is meant, where it is one; `Err` where it is one that there is not.
pub(super) fn resolve(
    connection: &Connection,
    workspace: WorkspaceId,
    choice: &ScopeChoice,
) -> Result<Result<Option<ScopeId>, NoSuchScope>, StoreError> {
    let found = match choice {
        ScopeChoice::All => return Ok(Ok(None)),
        ScopeChoice::Trusted => connection
            .prepare_cached("SELECT id FROM scopes WHERE workspace_id = ?1 AND kind = 'trusted'")?
            .query_row([workspace.0], |row| row.get(0))
            .optional()?
            .map(ScopeId),
        ScopeChoice::Isolated(name) => scopes::find_isolated(connection, workspace, name)?,
    };
    Ok(found.map(Some).ok_or(NoSuchScope))
}

/// Nothing was ever stored in this scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoSuchScope;

/// The trusted scope of each workspace and the isolated ones that hold entries: oldest workspace first,
/// the trusted scope before the others, those by name.
pub(super) fn scopes_in_use(
    connection: &Connection,
    workspace: Option<WorkspaceId>,
) -> Result<Vec<ScopeUsage>, StoreError> {
    let held = held_by_scope(connection)?;
    let mut statement = connection.prepare_cached(
        "SELECT scopes.id, workspaces.name, kind = 'trusted', scopes.name, scopes.created_at_ms
         FROM scopes JOIN workspaces ON workspaces.id = workspace_id
         WHERE ?1 IS NULL OR workspace_id = ?1
         ORDER BY workspace_id, kind = 'isolated', scopes.name",
    )?;
    let mut rows = statement.query([workspace.map(|workspace| workspace.0)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let held = held.get(&row.get(0)?).copied();
        let scope = scope_from_row(row, 1)?;
        if held.is_some() || scope.kind == ScopeKind::Trusted {
            let held = held.unwrap_or_default();
            found.push(ScopeUsage {
                scope,
                entries: held.entries,
                size_bytes: held.size_bytes,
                last_write_at_ms: held.last_write_at_ms,
            });
        }
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    entries: u64,
    size_bytes: u64,
    last_write_at_ms: Option<i64>,
}

/// By the ids of scopes. Counted and not taken from the counters of quotas, which trusted scopes have none of.
fn held_by_scope(connection: &Connection) -> Result<BTreeMap<i64, Held>, StoreError> {
    let mut held: BTreeMap<i64, Held> = BTreeMap::new();
    let mut walk = Walk::all(connection)?;
    while let Some(page) = walk.next_page(connection)? {
        for met in page {
            let held = held.entry(met.scope.0).or_default();
            held.entries += 1;
            held.size_bytes = held.size_bytes.saturating_add(met.size_bytes);
            held.last_write_at_ms = held.last_write_at_ms.max(Some(met.created_at_ms));
        }
    }
    Ok(held)
}

/// The scope of this row.
pub(super) fn scope(connection: &Connection, id: ScopeId) -> Result<ScopeRecord, StoreError> {
    let record = connection
        .prepare_cached(
            "SELECT workspaces.name, kind = 'trusted', scopes.name, scopes.created_at_ms
             FROM scopes JOIN workspaces ON workspaces.id = workspace_id WHERE scopes.id = ?1",
        )?
        .query_row([id.0], |row| scope_from_row(row, 0))?;
    Ok(record)
}

fn scope_from_row(row: &Row<'_>, at: usize) -> rusqlite::Result<ScopeRecord> {
    Ok(ScopeRecord {
        workspace: row.get(at)?,
        kind: kind_of(row.get(at + 1)?),
        name: row.get(at + 2)?,
        created_at_ms: row.get(at + 3)?,
    })
}

/// Entries by workspace, scope, hash, time and writers, each of which but the first may be null; newest
/// first. In the order of [`entry_from_row`].
macro_rules! select_entries {
    ($from:literal) => {
        concat!(
            "SELECT workspaces.name, kind = 'trusted', scopes.name, scopes.created_at_ms, hash, size_bytes,
                    digest, artifacts.created_at_ms, read_at_ms, writer_token_id, writer_address ",
            $from,
            " JOIN workspaces ON workspaces.id = workspace_id
              WHERE scopes.id = scope_id AND state = 'stored' AND workspace_id = ?1
                AND (?2 IS NULL OR scope_id = ?2)
                AND (?3 IS NULL OR hash = ?3)
                AND (?4 IS NULL OR artifacts.created_at_ms >= ?4)
                AND (?5 IS NULL OR writer_token_id IN (SELECT value FROM json_each(?5)))
              ORDER BY artifacts.created_at_ms DESC, artifacts.id DESC LIMIT ?6"
        )
    };
}

/// The newest entries of a selection, at most `limit`.
pub(super) fn entries(
    connection: &Connection,
    selection: &Selection,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let Ok(scope) = resolve(connection, selection.workspace, &selection.scopes)? else {
        return Ok(Vec::new());
    };
    // Rows in the order of the file: by the index on scopes each row would be looked up on its own.
    let mut statement = if selection.hash.is_some() {
        connection.prepare_cached(select_entries!("FROM scopes CROSS JOIN artifacts"))?
    } else {
        connection.prepare_cached(select_entries!(
            "FROM artifacts NOT INDEXED CROSS JOIN scopes"
        ))?
    };
    let mut rows = statement.query(params![
        selection.workspace.0,
        scope.map(|scope| scope.0),
        selection.hash,
        selection.since_ms,
        selection.writers.as_deref().map(as_json),
        limit as i64,
    ])?;
    let mut found = Vec::new();
    let mut writers = BTreeMap::new();
    while let Some(row) = rows.next()? {
        found.push(entry_from_row(connection, row, &mut writers)?);
    }
    Ok(found)
}

fn as_json(writers: &[TokenRecord]) -> String {
    let ids: Vec<String> = writers.iter().map(|token| token.id.0.to_string()).collect();
    format!("[{}]", ids.join(","))
}

/// `writers` keeps the tokens that were met: a few of them write most entries.
fn entry_from_row(
    connection: &Connection,
    row: &Row<'_>,
    writers: &mut BTreeMap<i64, TokenRecord>,
) -> Result<Entry, StoreError> {
    let writer_id: i64 = row.get(9)?;
    let writer = match writers.get(&writer_id) {
        Some(writer) => writer.clone(),
        None => tokens::find_by_row_id(connection, TokenId(writer_id))?,
    };
    writers.insert(writer_id, writer.clone());
    Ok(Entry {
        scope: scope_from_row(row, 0)?,
        hash: row.get(4)?,
        size_bytes: row.get::<_, i64>(5)? as u64,
        digest: row.get(6)?,
        created_at_ms: row.get(7)?,
        read_at_ms: row.get(8)?,
        writer,
        writer_address: row.get(10)?,
    })
}
