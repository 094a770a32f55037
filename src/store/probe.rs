//! The rows of a probe: what `doctor` stores through a running server, with tokens of its own, and takes away again.
//!
//! Invariant: nothing here changes a row that is not a probe's. All its names derive from one word that nobody
//! chose; and tokens go only when they are dead, and nothing refers to them.

use rusqlite::{Connection, TransactionBehavior, params};

use super::admin::Admin;
use super::error::StoreError;
use super::model::{Condemned, WorkspaceId};
use super::{artifacts, chunks, now_ms};

/// Chunks of a probe that are deleted at once; it has one.
const CHUNKS_A_STEP: usize = 16;

/// Artifacts that are looked at for those of a token, under the write lock.
const ARTIFACTS_LOOKED_AT: i64 = 10_000;

/// No probe lives longer than this, milliseconds.
const LIFE_MAX_MS: i64 = 10 * 60 * 1000;

/// The rows of one probe: all their names derive from one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeName(String);

impl ProbeName {
    const BEGIN: &str = "doctor-";
    const WORD_LENGTH: usize = 16;
    const ROLES: [&str; 3] = ["read", "write", "isolated"];
    const HASHES: [&str; 3] = ["trusted", "isolated", "refused"];

    /// The probe of this word: 16 of `a-z0-9`.
    pub fn new(word: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = word.len() == Self::WORD_LENGTH && word.bytes().all(is_plain);
        fits.then(|| Self(word.to_owned()))
    }

    /// The name of its isolated scope, with which all its names begin.
    pub fn scope(&self) -> String {
        format!("{}{}", Self::BEGIN, self.0)
    }

    /// The name of its token for `role`: read, write or isolated.
    pub fn token(&self, role: &str) -> String {
        format!("{}-{role}", self.scope())
    }

    /// The hash of its entry for `purpose`: trusted, isolated or refused.
    pub fn hash(&self, purpose: &str) -> String {
        format!("{}-{purpose}", self.scope())
    }

    /// Whether this is how a probe names its tokens: nobody else's may be called so, because they are deleted.
    pub fn is_of_token(name: &str) -> bool {
        Self::of_token(name).is_some()
    }

    /// The probe that a token of this name belongs to.
    fn of_token(name: &str) -> Option<Self> {
        let (word, role) = name.strip_prefix(Self::BEGIN)?.split_once('-')?;
        Self::new(word).filter(|_| Self::ROLES.contains(&role))
    }
}

impl Admin {
    /// Revokes the tokens of a probe.
    pub fn revoke_probe(
        &mut self,
        workspace: WorkspaceId,
        probe: &ProbeName,
    ) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for role in ProbeName::ROLES {
            transaction
                .prepare_cached(
                    "UPDATE tokens SET revoked_at_ms = ?3
                     WHERE workspace_id = ?1 AND name = ?2 AND revoked_at_ms IS NULL",
                )?
                .execute(params![workspace.0, probe.token(role), now_ms()])?;
        }
        Ok(transaction.commit()?)
    }

    /// Removes what a probe stored, its scope and its tokens, which must be dead.
    pub fn remove_probe(
        &mut self,
        workspace: WorkspaceId,
        probe: &ProbeName,
    ) -> Result<(), StoreError> {
        // SQLite would look through all artifacts for one that refers to a row that goes, under the write lock.
        // Nobody but the probe knows its tokens, and its entries are found by their keys.
        self.connection.pragma_update(None, "foreign_keys", false)?;
        let removed = self.remove_rows(workspace, probe);
        self.connection.pragma_update(None, "foreign_keys", true)?;
        removed
    }

    fn remove_rows(&mut self, workspace: WorkspaceId, probe: &ProbeName) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for purpose in ProbeName::HASHES {
            let hash = probe.hash(purpose);
            for id in entries_under(&transaction, workspace, &hash)? {
                artifacts::condemn(&transaction, id, Condemned::Purged)?;
                while !chunks::delete_some(&transaction, id, CHUNKS_A_STEP)?.is_all {}
                artifacts::delete(&transaction, id)?;
            }
            // An upload that was cut: the server sweeps it away, and the next doctor the tokens.
            if is_uploading(&transaction, &hash)? {
                return Ok(transaction.commit()?);
            }
        }
        let scope = probe.scope();
        transaction.execute(
            "DELETE FROM isolated_usage WHERE entries = 0 AND scope_id IN
                 (SELECT id FROM scopes WHERE workspace_id = ?1 AND name = ?2)",
            params![workspace.0, scope],
        )?;
        transaction.execute(
            "DELETE FROM scopes WHERE workspace_id = ?1 AND name = ?2 AND kind = 'isolated'
             AND id NOT IN (SELECT scope_id FROM isolated_usage)",
            params![workspace.0, scope],
        )?;
        for role in ProbeName::ROLES {
            for (id, first_artifact) in dead_tokens(&transaction, workspace, &probe.token(role))? {
                // An older version let people choose such names.
                if !may_have_written(&transaction, id, first_artifact)? {
                    transaction.execute("DELETE FROM tokens WHERE id = ?1", [id])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// The probes of which a killed doctor left dead tokens behind.
    pub fn dead_probes(&self, workspace: WorkspaceId) -> Result<Vec<ProbeName>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name FROM tokens WHERE workspace_id = ?1 AND name GLOB 'doctor-*'
             AND expires_at_ms - created_at_ms <= ?2 AND expires_at_ms <= ?3",
        )?;
        let values = params![workspace.0, LIFE_MAX_MS, now_ms()];
        let names = statement.query_map(values, |row| row.get::<_, String>(0))?;
        let mut probes: Vec<ProbeName> = Vec::new();
        for name in names {
            let probe = ProbeName::of_token(&name?);
            probes.extend(probe.filter(|probe| !probes.contains(probe)));
        }
        Ok(probes)
    }
}

/// The dead tokens of a name that took no other's place, with the first artifact of each.
fn dead_tokens(
    connection: &Connection,
    workspace: WorkspaceId,
    name: &str,
) -> Result<Vec<(i64, Option<i64>)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, first_artifact_id FROM tokens WHERE workspace_id = ?1 AND name = ?2
         AND (revoked_at_ms IS NOT NULL OR expires_at_ms <= ?3)
         AND NOT EXISTS (SELECT 1 FROM tokens AS other WHERE other.replaced_by = tokens.id)",
    )?;
    let values = params![workspace.0, name, now_ms()];
    let rows = statement.query_map(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether there may be an artifact of a token: no index tells, so only some that follow its first one are
/// looked at. A probe's are younger than that.
fn may_have_written(
    connection: &Connection,
    token: i64,
    first_artifact: Option<i64>,
) -> Result<bool, StoreError> {
    let Some(first_id) = first_artifact else {
        return Ok(false);
    };
    let (looked_at, own): (i64, i64) = connection
        .prepare_cached(
            "SELECT count(*), count(CASE WHEN writer_token_id = ?1 THEN 1 END) FROM
                 (SELECT writer_token_id FROM artifacts NOT INDEXED WHERE id >= ?2 ORDER BY id LIMIT ?3)",
        )?
        .query_row([token, first_id, ARTIFACTS_LOOKED_AT], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(own > 0 || looked_at == ARTIFACTS_LOOKED_AT)
}

/// The entries under a hash that nobody but a probe has, condemned ones too.
fn entries_under(
    connection: &Connection,
    workspace: WorkspaceId,
    hash: &str,
) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT artifacts.id FROM scopes CROSS JOIN artifacts ON scope_id = scopes.id
         WHERE workspace_id = ?1 AND hash = ?2 AND state = 'stored'
         UNION ALL
         SELECT artifacts.id FROM artifacts JOIN scopes ON scopes.id = scope_id
         WHERE workspace_id = ?1 AND hash = ?2 AND state = 'condemned' AND state <> 'stored'",
    )?;
    let ids = statement.query_map(params![workspace.0, hash], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn is_uploading(connection: &Connection, hash: &str) -> Result<bool, StoreError> {
    let sql =
        "SELECT 1 FROM artifacts WHERE state = 'uploading' AND state <> 'stored' AND hash = ?1";
    Ok(connection.prepare_cached(sql)?.exists([hash])?)
}
