//! The rows of workspaces: found, added, listed. SQL on a connection.

use rusqlite::{Connection, OptionalExtension, params};

use super::artifacts;
use super::error::StoreError;
use super::model::{Workspace, WorkspaceId};
use super::name::Name;

/// The workspace of this name.
pub(super) fn find(connection: &Connection, name: &str) -> Result<Option<WorkspaceId>, StoreError> {
    let id = connection
        .prepare_cached(
            "SELECT found.id, found.name = ?1
             FROM workspaces AS key INDEXED BY sqlite_autoindex_workspaces_1
             CROSS JOIN workspaces AS found NOT INDEXED ON found.id = key.id WHERE key.name = ?1",
        )?
        .query_row([name], |row| {
            artifacts::agrees(row, 1, "of workspaces")?;
            row.get(0)
        })
        .optional()?;
    Ok(id.map(WorkspaceId))
}

/// All workspaces, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<Workspace>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT id, name, created_at_ms FROM workspaces ORDER BY id")?;
    let workspaces = statement
        .query_map([], |row| {
            Ok(Workspace {
                id: WorkspaceId(row.get(0)?),
                name: row.get(1)?,
                created_at_ms: row.get(2)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(workspaces)
}

/// Adds a workspace with its trusted scope.
pub(super) fn add(connection: &Connection, name: &Name) -> Result<WorkspaceId, StoreError> {
    let now_ms = super::now_ms();
    connection
        .prepare_cached("INSERT INTO workspaces (name, created_at_ms) VALUES (?1, ?2)")?
        .execute(params![name.as_str(), now_ms])?;
    let id = connection.last_insert_rowid();
    connection
        .prepare_cached(
            "INSERT INTO scopes (workspace_id, kind, name, created_at_ms) VALUES (?1, 'trusted', NULL, ?2)",
        )?
        .execute(params![id, now_ms])?;
    Ok(WorkspaceId(id))
}
