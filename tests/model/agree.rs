//! Whether the file holds what the model says: every row that a request could be answered by.

use std::collections::{BTreeMap, BTreeSet};

use super::play::{Play, World};
use super::rules::Sums;
use super::tools::*;

/// An entry: workspace, scope, hash, size, times, writer, digest.
type EntryRow = (
    String,
    Option<String>,
    String,
    i64,
    i64,
    i64,
    String,
    [u8; 32],
);

/// A token: id, workspace, access, scope, name, end, whether it was revoked, who replaced it.
type TokenRow = (
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<i64>,
    bool,
    Option<String>,
);

/// A workspace, and a scope or the number of scopes.
type Counter = (String, Option<String>);

impl Play<'_> {
    pub(super) fn numbers(&self, sql: &str) -> Outcome<Vec<i64>> {
        self.rows(sql, |row| row.get(0))
    }

    pub(super) fn rows<T>(
        &self,
        sql: &str,
        map: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Vec<T>> {
        let mut statement = self.admin.connection.prepare_cached(sql).must(sql)?;
        let rows = statement.query_map([], |row| map(row)).must(sql)?;
        rows.collect::<rusqlite::Result<_>>().must(sql)
    }

    /// Every row that a request could be answered by is what the model says.
    pub(super) fn agrees(&self, world: &mut World) -> Outcome {
        // In one snapshot, for its price.
        self.run("BEGIN")?;
        let agrees = self
            .entries_agree(world)
            .and_then(|()| self.tokens_agree(world))
            .and_then(|()| self.counters_agree(world));
        self.run("COMMIT")?;
        agrees
    }

    fn run(&self, sql: &str) -> Outcome {
        let mut statement = self.admin.connection.prepare_cached(sql).must(sql)?;
        statement.execute([]).map(drop).must(sql)
    }

    pub(super) fn entries_agree(&self, world: &mut World) -> Outcome {
        let sql = "SELECT artifacts.id, workspaces.name, scopes.name, hash, size_bytes, artifacts.created_at_ms, read_at_ms,
                          public_id, digest
                   FROM artifacts JOIN scopes ON scopes.id = scope_id JOIN workspaces ON workspaces.id = scopes.workspace_id
                   JOIN tokens ON tokens.id = writer_token_id WHERE state = 'stored' ORDER BY artifacts.id";
        let found: Vec<(i64, EntryRow)> = self.rows(sql, |row| {
            let rest = (
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(7)?,
                row.get(8)?,
            );
            Ok((row.get(0)?, rest))
        })?;
        let entries = world.model.entries.clone();
        same("entries", found.len(), entries.len())?;
        for ((number, entry), (id, found)) in entries.iter().zip(found) {
            let row = (
                workspace_name(entry.place.0),
                entry.place.1.map(scope_name),
                entry.hash.to_string(),
                entry.size as i64,
                entry.created,
                entry.read,
                world.credentials[entry.writer].public_id.clone(),
                world.bytes(entry.seed, entry.size).digest,
            );
            same("an entry", found, row)?;
            let known = *world.ids.entry(*number).or_insert(id);
            same("the id of an entry", id, known)?;
        }
        Ok(())
    }

    pub(super) fn tokens_agree(&self, world: &World) -> Outcome {
        let sql = "SELECT public_id, workspaces.name, access, isolated_scope, tokens.name, expires_at_ms,
                          revoked_at_ms IS NOT NULL, (SELECT public_id FROM tokens AS other WHERE other.id = tokens.replaced_by),
                          first_artifact_id
                   FROM tokens JOIN workspaces ON workspaces.id = workspace_id ORDER BY tokens.id";
        let found: Vec<(TokenRow, Option<i64>)> = self.rows(sql, |row| {
            let first = row.get(8)?;
            let rest = (
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(7)?,
            );
            Ok((rest, first))
        })?;
        let tokens = &world.model.tokens;
        same("tokens", found.len(), tokens.len())?;
        let id = |number: usize| world.credentials[number].public_id.clone();
        for ((number, token), (found, first)) in tokens.iter().zip(found) {
            let row = (
                id(*number),
                workspace_name(token.workspace),
                access(token.may).as_str().to_owned(),
                token.bound.map(scope_name),
                token.name.map(token_name),
                token.expires,
                token.is_revoked,
                token.replaced_by.map(id),
            );
            same("a token", found, row)?;
            same(
                "its first artifact",
                first,
                token.first.map(|number| world.ids[&number]),
            )?;
        }
        Ok(())
    }

    pub(super) fn counters_agree(&self, world: &World) -> Outcome {
        let sql = "SELECT workspaces.name, scopes.name, entries, size_bytes FROM
                     (SELECT scope_id, entries, size_bytes FROM trusted_usage
                      UNION ALL SELECT scope_id, entries, size_bytes FROM isolated_usage)
                   JOIN scopes ON scopes.id = scope_id JOIN workspaces ON workspaces.id = workspace_id WHERE entries + size_bytes > 0
                   UNION ALL
                   SELECT workspaces.name, ':' || scopes, entries, size_bytes FROM isolated_totals
                   JOIN workspaces ON workspaces.id = workspace_id WHERE scopes + entries + size_bytes > 0";
        let found = self.rows(sql, |row| {
            let count = |at| row.get::<_, i64>(at).map(|count| count as u64);
            Ok(((row.get(0)?, row.get(1)?), (count(2)?, count(3)?)))
        })?;
        let mut expected: Sums<Counter> = Sums::new();
        let mut scopes: BTreeMap<usize, BTreeSet<u8>> = BTreeMap::new();
        for entry in world.model.entries.values() {
            scopes
                .entry(entry.place.0)
                .or_default()
                .extend(entry.place.1);
        }
        for entry in world.model.entries.values() {
            let name = workspace_name(entry.place.0);
            let total = entry.place.1.map(|_| {
                (
                    name.clone(),
                    Some(format!(":{}", scopes[&entry.place.0].len())),
                )
            });
            let own = (name, entry.place.1.map(scope_name));
            for counter in [own].into_iter().chain(total) {
                let sum = expected.entry(counter).or_default();
                *sum = (sum.0 + 1, sum.1 + entry.size);
            }
        }
        same("counters", found.into_iter().collect(), expected)?;
        let sql = "SELECT day, is_isolated, reason, entries, size_bytes FROM evictions_by_day";
        let found = self.rows(sql, |row| {
            let reason: String = row.get(2)?;
            let reason = ["age", "size"]
                .into_iter()
                .find(|word| *word == reason)
                .unwrap_or("?");
            let count = |at| row.get::<_, i64>(at).map(|count| count as u64);
            Ok(((row.get(0)?, row.get(1)?, reason), (count(3)?, count(4)?)))
        })?;
        same(
            "evictions",
            found.into_iter().collect(),
            world.model.evicted.clone(),
        )
    }
}
