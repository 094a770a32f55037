//! The rows of tokens. SQL on a connection; who may do what is decided in `auth`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::artifacts;
use super::error::StoreError;
use super::model::{Access, NewToken, ScopeId, TokenId, TokenRecord, WorkspaceId};
use super::name::Name;

/// What every query of this file selects, in the order of [`from_row`]. The trusted scope is found by an index and
/// asked whether it is one, as [`artifacts::FIND`]: whatever is in it is trusted.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT tokens.id, public_id, workspaces.name, scopes.id, access, tokens.name, secret_phc,
                    secret_tag, tokens.created_at_ms, expires_at_ms, revoked_at_ms, last_used_at_ms,
                    tokens.workspace_id, isolated_scope, replaced_by, first_artifact_id,
                    scopes.workspace_id = tokens.workspace_id AND scopes.kind = 'trusted'
             FROM tokens
             JOIN workspaces ON workspaces.id = tokens.workspace_id
             CROSS JOIN scopes AS key INDEXED BY one_trusted_scope_in_each_workspace
                ON key.workspace_id = tokens.workspace_id AND key.kind = 'trusted'
             CROSS JOIN scopes NOT INDEXED ON scopes.id = key.id ",
            $rest
        )
    };
}

/// The token with this public id.
pub(super) fn find(
    connection: &Connection,
    public_id: &str,
) -> Result<Option<TokenRecord>, StoreError> {
    let record = connection
        .prepare_cached(select!("WHERE public_id = ?1"))?
        .query_row([public_id], from_row)
        .optional()?;
    Ok(record)
}

/// All tokens, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<TokenRecord>, StoreError> {
    let mut statement = connection.prepare_cached(select!("ORDER BY tokens.id"))?;
    let records = statement
        .query_map([], from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(records)
}

/// The token with this row id.
pub(super) fn get(connection: &Connection, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
    let record = connection
        .prepare_cached(select!("WHERE tokens.id = ?1"))?
        .query_row([id.0], from_row)
        .optional()?;
    Ok(record)
}

/// All tokens that ever had this name, in whatever workspace, newest first.
pub(super) fn named(connection: &Connection, name: &str) -> Result<Vec<TokenRecord>, StoreError> {
    let mut statement =
        connection.prepare_cached(select!("WHERE tokens.name = ?1 ORDER BY tokens.id DESC"))?;
    let records = statement
        .query_map([name], from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(records)
}

/// The token of this row, which others refer to and which therefore is there.
pub(super) fn find_by_row_id(
    connection: &Connection,
    id: TokenId,
) -> Result<TokenRecord, StoreError> {
    let record = connection
        .prepare_cached(select!("WHERE tokens.id = ?1"))?
        .query_row([id.0], from_row)?;
    Ok(record)
}

/// The tokens of the workspace that another has replaced, newest first.
pub(super) fn replaced(
    connection: &Connection,
    workspace: WorkspaceId,
) -> Result<Vec<TokenRecord>, StoreError> {
    let mut statement = connection.prepare_cached(select!(
        "WHERE tokens.workspace_id = ?1 AND replaced_by IS NOT NULL ORDER BY tokens.id DESC"
    ))?;
    let records = statement
        .query_map([workspace.0], from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(records)
}

/// Every token of the workspace that ever went by this name, dead ones included; or the one with this public
/// id alone, because anybody may choose a name. Oldest first.
pub(super) fn ever_called(
    connection: &Connection,
    workspace: WorkspaceId,
    name_or_id: &str,
) -> Result<Vec<TokenRecord>, StoreError> {
    if let Some(token) = find(connection, name_or_id)?
        && token.workspace_id == workspace
    {
        return Ok(vec![token]);
    }
    let mut statement = connection.prepare_cached(select!(
        "WHERE tokens.workspace_id = ?1 AND tokens.name = ?2 ORDER BY tokens.id"
    ))?;
    let records = statement
        .query_map(params![workspace.0, name_or_id], from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(records)
}

/// A token that may still do what it was admitted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LiveWriter {
    /// Whether it stored an artifact before.
    pub has_stored: bool,
}

/// The token, if it may still do what it was admitted for.
pub(super) fn live_writer(
    connection: &Connection,
    id: TokenId,
) -> Result<Option<LiveWriter>, StoreError> {
    let live = connection
        .prepare_cached(
            "SELECT first_artifact_id IS NOT NULL FROM tokens WHERE id = ?1 AND revoked_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > ?2)",
        )?
        .query_row(params![id.0, super::now_ms()], |row| row.get(0))
        .optional()?;
    Ok(live.map(|has_stored| LiveWriter { has_stored }))
}

/// Whether a token of the workspace goes by this name that is neither revoked, expired nor replaced.
pub(super) fn name_is_taken(
    connection: &Connection,
    workspace: WorkspaceId,
    name: &str,
) -> Result<bool, StoreError> {
    let taken = connection
        .prepare_cached(
            "SELECT 1 FROM tokens WHERE workspace_id = ?3 AND name = ?1 AND revoked_at_ms IS NULL
             AND replaced_by IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > ?2)",
        )?
        .exists(params![name, super::now_ms(), workspace.0])?;
    Ok(taken)
}

/// Adds a token.
pub(super) fn insert(connection: &Connection, new: &NewToken<'_>) -> Result<TokenId, StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO tokens (public_id, workspace_id, access, isolated_scope, name, secret_phc,
                                 secret_tag, created_at_ms, expires_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            new.public_id,
            new.workspace.0,
            new.access.as_str(),
            new.isolated_scope.map(Name::as_str),
            new.name,
            new.secret_phc,
            new.secret_tag.as_slice(),
            super::now_ms(),
            new.expires_at_ms,
        ])?;
    Ok(TokenId(connection.last_insert_rowid()))
}

/// Notes the first artifact that a token stores.
pub(super) fn note_first_artifact(
    connection: &Connection,
    id: TokenId,
    artifact_id: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE tokens SET first_artifact_id = ?2 WHERE id = ?1")?
        .execute(params![id.0, artifact_id])?;
    Ok(())
}

/// Revokes a token, for good.
pub(super) fn revoke(connection: &Connection, id: TokenId) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE tokens SET revoked_at_ms = ?2 WHERE id = ?1 AND revoked_at_ms IS NULL",
        )?
        .execute(params![id.0, super::now_ms()])?;
    Ok(())
}

/// Notes that another token has taken the place of this one.
pub(super) fn replace(connection: &Connection, id: TokenId, by: TokenId) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE tokens SET replaced_by = ?2 WHERE id = ?1")?
        .execute(params![id.0, by.0])?;
    Ok(())
}

/// Lets a token go on until then at most.
pub(super) fn end_by(
    connection: &Connection,
    id: TokenId,
    until_ms: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE tokens SET expires_at_ms = min(ifnull(expires_at_ms, ?2), ?2) WHERE id = ?1",
        )?
        .execute(params![id.0, until_ms])?;
    Ok(())
}

/// Notes when a token was last used.
pub(super) fn touch(
    connection: &Connection,
    id: TokenId,
    used_at_ms: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE tokens SET last_used_at_ms = ?2 WHERE id = ?1")?
        .execute(params![id.0, used_at_ms])?;
    Ok(())
}

/// Replaces the hash of a token's secret by another of the same secret.
pub(super) fn rehash(
    connection: &Connection,
    id: TokenId,
    secret_phc: &str,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE tokens SET secret_phc = ?2 WHERE id = ?1")?
        .execute(params![id.0, secret_phc])?;
    Ok(())
}

/// Whether there is a token that could still be used.
pub(super) fn any_live(connection: &Connection) -> Result<bool, StoreError> {
    let any = connection
        .prepare_cached(
            "SELECT 1 FROM tokens WHERE revoked_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > ?1)",
        )?
        .exists([super::now_ms()])?;
    Ok(any)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    artifacts::agrees(row, 16, "one_trusted_scope_in_each_workspace")?;
    let access: String = row.get(4)?;
    let isolated_scope: Option<String> = row.get(13)?;
    Ok(TokenRecord {
        id: TokenId(row.get(0)?),
        public_id: row.get(1)?,
        workspace: row.get(2)?,
        trusted_scope: ScopeId(row.get(3)?),
        access: Access::parse(&access).ok_or(rusqlite::Error::InvalidQuery)?,
        name: row.get(5)?,
        secret_phc: row.get(6)?,
        secret_tag: row.get(7)?,
        created_at_ms: row.get(8)?,
        expires_at_ms: row.get(9)?,
        revoked_at_ms: row.get(10)?,
        last_used_at_ms: row.get(11)?,
        workspace_id: WorkspaceId(row.get(12)?),
        isolated_scope: isolated_scope.as_deref().map(parse_name).transpose()?,
        replaced_by: row.get::<_, Option<i64>>(14)?.map(TokenId),
        first_artifact_id: row.get(15)?,
    })
}

/// A name that was checked before it was stored; a file that was changed by hand must not widen anything.
fn parse_name(text: &str) -> rusqlite::Result<Name> {
    Name::parse(text).map_err(|_| rusqlite::Error::InvalidQuery)
}
