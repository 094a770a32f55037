//! What must be true of every database of ours, whatever happened to it: the counters that triggers keep. A backup
//! makes it so in the copy, `verify` compares.

use std::collections::BTreeMap;
use std::fmt;

use rusqlite::{Connection, params};

use super::error::StoreError;
use super::survey::Read;

/// The names of a table's columns, in their order.
pub(super) fn columns(connection: &Connection, table: &str) -> Result<Vec<String>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT name FROM pragma_table_info(?1) ORDER BY cid")?;
    let names = statement.query_map([table], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// A number of entries and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Held {
    pub entries: i64,
    pub size_bytes: i64,
}

/// A counter and what it should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub table: &'static str,
    /// A scope, or a workspace.
    pub id: i64,
    pub says: Option<(i64, Held)>,
    pub is: (i64, Held),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.table == "isolated_totals" {
            "workspace"
        } else {
            "scope"
        };
        let text = |(scopes, held): (i64, Held)| {
            let scopes = match self.table {
                "isolated_totals" => format!("{scopes} scopes, "),
                _ => String::new(),
            };
            format!(
                "{scopes}{} entries, {} bytes",
                held.entries, held.size_bytes
            )
        };
        let says = self.says.map_or_else(|| "nothing".to_owned(), text);
        let (table, id, is) = (self.table, self.id, text(self.is));
        write!(f, "{table} says {says} of {of} {id}, which holds {is}")
    }
}

/// A table of counters, by the id of its scope or workspace. Those of workspaces count scopes, too.
type Counters = BTreeMap<i64, (i64, Held)>;

/// What the counters must say, by counting; and the scopes to which they belong.
#[derive(Debug, Default)]
pub(super) struct Counted {
    trusted: Counters,
    isolated: Counters,
    totals: Counters,
    workspaces: BTreeMap<i64, i64>,
}

impl Counted {
    /// Counts, in one pass over the rows of the artifacts.
    pub fn of(connection: &Connection) -> Result<Self, StoreError> {
        let mut counted = Self::default();
        let mut held: BTreeMap<i64, Held> = BTreeMap::new();
        let mut statement = connection.prepare(
            "SELECT scope_id, size_bytes FROM artifacts NOT INDEXED WHERE state = 'stored'",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let of_scope = held.entry(row.get(0)?).or_default();
            of_scope.entries += 1;
            // Of a damaged row it may be anything.
            of_scope.size_bytes = of_scope.size_bytes.saturating_add(row.get(1)?);
        }
        let mut statement = connection.prepare("SELECT id FROM workspaces")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            counted.totals.insert(row.get(0)?, Default::default());
        }
        let mut statement =
            connection.prepare("SELECT id, workspace_id, kind = 'trusted' FROM scopes")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (scope, workspace): (i64, i64) = (row.get(0)?, row.get(1)?);
            let held = held.get(&scope).copied().unwrap_or_default();
            counted.workspaces.insert(scope, workspace);
            if row.get(2)? {
                counted.trusted.insert(scope, (0, held));
                continue;
            }
            counted.isolated.insert(scope, (0, held));
            let (scopes, total) = counted.totals.entry(workspace).or_default();
            *scopes += i64::from(held.entries > 0);
            total.entries += held.entries;
            total.size_bytes = total.size_bytes.saturating_add(held.size_bytes);
        }
        Ok(counted)
    }

    /// The counters of a database that say something else.
    pub fn differences(&self, connection: &Connection) -> Result<Vec<Wrong>, StoreError> {
        let mut wrong = Vec::new();
        for (table, key, scopes, facts) in self.tables() {
            if columns(connection, table)?.is_empty() {
                // An older version has no such table, and `shape` tells where it should be.
                continue;
            }
            let mut statement = connection.prepare(&format!(
                "SELECT {key}, {scopes}, entries, size_bytes FROM {table}"
            ))?;
            let rows = statement.query_map([], |row| {
                let held = Held {
                    entries: row.get(2)?,
                    size_bytes: row.get(3)?,
                };
                Ok((row.get(0)?, (row.get(1)?, held)))
            })?;
            let said = rows.collect::<rusqlite::Result<Counters>>()?;
            for (id, is) in facts {
                let says = said.get(id);
                if says != Some(is) {
                    wrong.push(Wrong {
                        table,
                        id: *id,
                        says: says.copied(),
                        is: *is,
                    });
                }
            }
            let unknown = said.iter().filter(|(id, _)| !facts.contains_key(id));
            wrong.extend(unknown.map(|(id, says)| Wrong {
                table,
                id: *id,
                says: Some(*says),
                is: Default::default(),
            }));
        }
        Ok(wrong)
    }

    /// Writes the counters anew, of a file that has no triggers yet.
    pub fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        for (table, _, _, facts) in self.tables() {
            connection.execute(&format!("DELETE FROM {table}"), [])?;
            for (id, (scopes, held)) in facts {
                let Held {
                    entries,
                    size_bytes,
                } = *held;
                if table == "isolated_totals" {
                    connection
                        .prepare_cached(
                            "INSERT INTO isolated_totals (workspace_id, scopes, entries, size_bytes)
                             VALUES (?1, ?2, ?3, ?4)",
                        )?
                        .execute(params![id, scopes, entries, size_bytes])?;
                } else {
                    connection
                        .prepare_cached(&format!(
                            "INSERT INTO {table} (scope_id, workspace_id, entries, size_bytes)
                             VALUES (?1, ?2, ?3, ?4)"
                        ))?
                        .execute(params![id, self.workspaces[id], entries, size_bytes])?;
                }
            }
        }
        Ok(())
    }

    /// All entries.
    pub fn stored(&self) -> Read {
        let mut stored = Read::default();
        for (_, held) in self.trusted.values().chain(self.isolated.values()) {
            stored.entries += held.entries as u64;
            let size_bytes = u64::try_from(held.size_bytes).unwrap_or(0);
            stored.size_bytes = stored.size_bytes.saturating_add(size_bytes);
        }
        stored
    }

    /// Each table of counters: its name, its key, what it says of scopes, and the facts.
    fn tables(&self) -> [(&'static str, &'static str, &'static str, &Counters); 3] {
        [
            ("trusted_usage", "scope_id", "0", &self.trusted),
            ("isolated_usage", "scope_id", "0", &self.isolated),
            ("isolated_totals", "workspace_id", "scopes", &self.totals),
        ]
    }
}
