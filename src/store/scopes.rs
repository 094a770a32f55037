//! The rows of scopes: found, made at the first entry, and what they hold. SQL on a connection.

use rusqlite::{Connection, OptionalExtension, params};

use super::artifacts;
use super::error::StoreError;
use super::model::{Scope, ScopeId, WorkspaceId};
use super::name::Name;

/// What one isolated scope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub entries: u64,
    pub size_bytes: u64,
}

/// What the isolated scopes of one workspace hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Total {
    /// Those that hold entries.
    pub scopes: u64,
    pub entries: u64,
    pub size_bytes: u64,
}

/// The row of a scope, made if it is an isolated one that has none.
pub(super) fn find_or_create(
    connection: &Connection,
    scope: &Scope,
) -> Result<ScopeId, StoreError> {
    match scope {
        Scope::Trusted(id) => Ok(*id),
        Scope::Isolated(workspace, name) => match find_isolated(connection, *workspace, name)? {
            Some(id) => Ok(id),
            None => create_isolated(connection, *workspace, name),
        },
    }
}

/// The row of the isolated scope of this name, if it has one yet.
pub(super) fn find_isolated(
    connection: &Connection,
    workspace: WorkspaceId,
    name: &Name,
) -> Result<Option<ScopeId>, StoreError> {
    let id = connection
        .prepare_cached(FIND_ISOLATED)?
        .query_row(params![workspace.0, name.as_str()], |row| {
            artifacts::agrees(row, 1, "of scopes")?;
            row.get(0)
        })
        .optional()?;
    Ok(id.map(ScopeId))
}

/// By the index and by the row, as [`artifacts::FIND`]: of another scope everything would be found.
pub(super) const FIND_ISOLATED: &str =
    "SELECT place.id, place.workspace_id = ?1 AND place.name = ?2 AND place.kind = 'isolated'
     FROM scopes AS key INDEXED BY sqlite_autoindex_scopes_1
     CROSS JOIN scopes AS place NOT INDEXED ON place.id = key.id
     WHERE key.workspace_id = ?1 AND key.name = ?2";

fn create_isolated(
    connection: &Connection,
    workspace: WorkspaceId,
    name: &Name,
) -> Result<ScopeId, StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO scopes (workspace_id, kind, name, created_at_ms) VALUES (?1, 'isolated', ?2, ?3)",
        )?
        .execute(params![workspace.0, name.as_str(), super::now_ms()])?;
    Ok(ScopeId(connection.last_insert_rowid()))
}

/// What an isolated scope holds.
pub(super) fn usage(
    connection: &Connection,
    workspace: WorkspaceId,
    name: &Name,
) -> Result<Usage, StoreError> {
    let usage = connection
        .prepare_cached(
            "SELECT entries, isolated_usage.size_bytes FROM scopes
             JOIN isolated_usage ON scope_id = scopes.id
             WHERE scopes.workspace_id = ?1 AND name = ?2",
        )?
        .query_row(params![workspace.0, name.as_str()], |row| {
            Ok(Usage {
                entries: row.get::<_, i64>(0)? as u64,
                size_bytes: row.get::<_, i64>(1)? as u64,
            })
        })
        .optional()?;
    Ok(usage.unwrap_or_default())
}

/// What the isolated scopes of a workspace hold together, in bytes, and how many of them hold entries.
pub(super) fn isolated_total(
    connection: &Connection,
    workspace: WorkspaceId,
) -> Result<Total, StoreError> {
    let total = connection
        .prepare_cached(
            "SELECT scopes, entries, size_bytes FROM isolated_totals WHERE workspace_id = ?1",
        )?
        .query_row([workspace.0], |row| {
            Ok(Total {
                scopes: row.get::<_, i64>(0)? as u64,
                entries: row.get::<_, i64>(1)? as u64,
                size_bytes: row.get::<_, i64>(2)? as u64,
            })
        })?;
    Ok(total)
}
