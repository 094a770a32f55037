//! Removes entries that an operator no longer wants, beside a server at work or without one.
//!
//! Entries are found by a walk outside of the write lock and hidden in short transactions: from then on the
//! server misses them, and its cleaner frees their chunks after its grace, so that whoever reads one of
//! them can finish. A purge that is interrupted has done a part, and the rest when it is run again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};

use super::artifacts;
use super::catalog::{self, Met, ScopeRecord, Selection, Walk};
use super::connection::{self, Synchronous};
use super::error::StoreError;
use super::model::{Access, Condemned, ScopeId, ScopeKind, TokenId, TokenRecord, WorkspaceId};

/// Entries hidden in one transaction: the server's writer waits for a few milliseconds at the most.
const BATCH_ROWS: usize = 500;

/// How long the write lock is left alone after each batch, at the least, and for as long as it was held.
/// SQLite has no queue for it: who finds it taken sleeps for a while and looks again, so a purge without
/// pauses would keep the server's writer out.
const PAUSE: Duration = Duration::from_millis(10);

/// What to remove.
#[derive(Debug, Clone)]
pub struct Purge {
    /// The entries that are meant.
    pub selection: Selection,
    /// And every one that was stored since the first of them: builds may have used it. Of a selection by
    /// writers, by hash or by both, and by nothing else.
    pub transitive: bool,
    /// Count only.
    pub dry_run: bool,
}

/// How far a purge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PurgeProgress {
    /// Rows behind it; a measure, not a count.
    pub done: u64,
    /// The same, at its end.
    pub total: u64,
    /// Artifacts removed, or counted.
    pub artifacts: u64,
}

/// What was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purged {
    /// By scope: trusted before isolated, those by name.
    pub scopes: Vec<(ScopeRecord, Sum)>,
    /// It was told to stop; these are gone, and others are not.
    pub is_interrupted: bool,
    /// A transitive purge knows of no entry to begin with: there never was one, or nothing is left of it.
    pub is_without_beginning: bool,
}

/// A number of artifacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// How many.
    pub artifacts: u64,
    /// Their bytes together.
    pub size_bytes: u64,
}

impl Purged {
    /// All scopes together.
    pub fn total(&self) -> Sum {
        let mut total = Sum::default();
        for (_, sum) in &self.scopes {
            total.artifacts += sum.artifacts;
            total.size_bytes = total.size_bytes.saturating_add(sum.size_bytes);
        }
        total
    }
}

/// From which artifact on entries may descend from what is removed, by row ids: those are given when an
/// upload begins and only grow, so that no clock can hide anything. Isolated scopes are written by builds
/// that read the trusted one, so they are suspect from the earlier of the two on; trusted scopes never read
/// isolated ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Suspect {
    trusted_from_id: Option<i64>,
    isolated_from_id: Option<i64>,
}

impl Suspect {
    fn add(&mut self, kind: ScopeKind, artifact_id: i64) {
        let earlier = |from: Option<i64>| Some(from.map_or(artifact_id, |id| id.min(artifact_id)));
        if kind == ScopeKind::Trusted {
            self.trusted_from_id = earlier(self.trusted_from_id);
        }
        self.isolated_from_id = earlier(self.isolated_from_id);
    }

    fn includes(&self, met: &Met) -> bool {
        let from_id = match met.kind {
            ScopeKind::Trusted => self.trusted_from_id,
            ScopeKind::Isolated => self.isolated_from_id,
        };
        from_id.is_some_and(|from_id| met.id >= from_id)
    }
}

/// What decides about each entry that the walk meets.
#[derive(Debug)]
struct Rule {
    workspace: WorkspaceId,
    scope: Option<ScopeId>,
    writers: Option<HashSet<TokenId>>,
    since_ms: Option<i64>,
    /// The walk shows entries of one hash only, so this does not look at it.
    suspect: Option<Suspect>,
}

impl Rule {
    fn admits(&self, met: &Met) -> bool {
        if met.workspace != self.workspace || self.scope.is_some_and(|scope| met.scope != scope) {
            return false;
        }
        let is_recent = self.since_ms.is_none_or(|ms| met.created_at_ms >= ms);
        let is_by = |writers: &HashSet<TokenId>| writers.contains(&met.writer);
        match (&self.suspect, &self.writers) {
            (None, writers) => is_recent && writers.as_ref().is_none_or(is_by),
            // What the token itself wrote goes, too, if its upload began first and ended second.
            (Some(suspect), Some(writers)) => is_by(writers) || suspect.includes(met),
            (Some(suspect), None) => suspect.includes(met),
        }
    }
}

/// Does it; `watch` hears of every step.
pub(super) fn run(
    connection: &mut Connection,
    purge: &Purge,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(PurgeProgress),
) -> Result<Purged, StoreError> {
    let Some((rule, walk)) = prepare(connection, purge)? else {
        return Ok(Purged::default());
    };
    let mut is_interrupted = false;
    let mut watch = |now| {
        watch(now);
        is_interrupted = stop.load(Ordering::Relaxed);
        !is_interrupted
    };
    let sums = if purge.dry_run {
        remove(connection, walk, &rule, &mut watch, |_, batch| {
            Ok(batch.to_vec())
        })?
    } else {
        // Not in every batch, which would hold the write lock while the disk is slow, but at the end.
        connection::set_synchronous(connection, Synchronous::Normal)?;
        let removed = remove(connection, walk, &rule, &mut watch, condemn);
        connection::set_synchronous(connection, Synchronous::Full)?;
        let removed = removed?;
        if !removed.is_empty() {
            connection::write_through(connection)?;
        }
        removed
    };
    Ok(Purged {
        scopes: named(connection, &sums)?,
        is_interrupted,
        is_without_beginning: rule.suspect == Some(Suspect::default()),
    })
}

/// Walks, and hands what the rule admits to `condemn`, by batches; the sums of what that says is gone. Ends
/// early where `watch` says no.
fn remove(
    connection: &mut Connection,
    mut walk: Walk,
    rule: &Rule,
    watch: &mut dyn FnMut(PurgeProgress) -> bool,
    condemn: impl Fn(&mut Connection, &[Met]) -> Result<Vec<Met>, StoreError>,
) -> Result<HashMap<ScopeId, Sum>, StoreError> {
    let mut tally = Tally::default();
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    'walk: while let Some(page) = walk.next_page(connection)? {
        (tally.progress.done, tally.progress.total) = walk.progress();
        for met in page.into_iter().filter(|met| rule.admits(met)) {
            if batch.len() == BATCH_ROWS {
                tally.add(&condemn(connection, &batch)?);
                batch.clear();
                if !watch(tally.progress) {
                    break 'walk;
                }
            }
            batch.push(met);
        }
        if !watch(tally.progress) {
            break;
        }
    }
    tally.add(&condemn(connection, &batch)?);
    Ok(tally.sums)
}

/// What is gone so far.
#[derive(Default)]
struct Tally {
    sums: HashMap<ScopeId, Sum>,
    progress: PurgeProgress,
}

impl Tally {
    fn add(&mut self, gone: &[Met]) {
        for met in gone {
            let sum = self.sums.entry(met.scope).or_default();
            sum.artifacts += 1;
            sum.size_bytes = sum.size_bytes.saturating_add(met.size_bytes);
        }
        self.progress.artifacts += gone.len() as u64;
    }
}

/// Where to look and what to take; `None` where a scope is meant that does not exist.
fn prepare(connection: &Connection, purge: &Purge) -> Result<Option<(Rule, Walk)>, StoreError> {
    let selection = &purge.selection;
    let workspace = selection.workspace;
    let Ok(scope) = catalog::resolve(connection, workspace, &selection.scopes)? else {
        return Ok(None);
    };
    let writers = selection.writers.as_deref();
    let ids = |tokens: &[TokenRecord]| tokens.iter().map(|token| token.id).collect();
    let mut rule = Rule {
        workspace,
        scope,
        writers: writers.map(ids),
        since_ms: selection.since_ms,
        suspect: None,
    };
    let walk = match &selection.hash {
        Some(hash) if !purge.transitive => Walk::of_hash(connection, workspace, hash)?,
        _ => Walk::all(connection)?,
    };
    if purge.transitive {
        rule.suspect = Some(match &selection.hash {
            Some(hash) => {
                suspect_by_hash(connection, workspace, hash, rule.writers.take().as_ref())?
            }
            None => suspect_by_writers(writers.unwrap_or_default()),
        });
    }
    Ok(Some((rule, walk)))
}

/// By what tokens remember of their first artifacts, which outlives the artifacts.
fn suspect_by_writers(writers: &[TokenRecord]) -> Suspect {
    let mut suspect = Suspect::default();
    for token in writers {
        let kind = match token.access {
            Access::Isolated => ScopeKind::Isolated,
            Access::Read | Access::Write | Access::WriteOnly => ScopeKind::Trusted,
        };
        if let Some(artifact_id) = token.first_artifact_id {
            suspect.add(kind, artifact_id);
        }
    }
    suspect
}

/// By the entries of a hash that are there, or were until a moment ago.
fn suspect_by_hash(
    connection: &Connection,
    workspace: WorkspaceId,
    hash: &str,
    writers: Option<&HashSet<TokenId>>,
) -> Result<Suspect, StoreError> {
    // A row without a digest was an upload that nobody could read.
    let mut statement = connection.prepare_cached(
        "SELECT kind = 'trusted', artifacts.id, writer_token_id
         FROM scopes CROSS JOIN artifacts ON scope_id = scopes.id
         WHERE workspace_id = ?1 AND hash = ?2 AND state = 'stored'
         UNION ALL
         SELECT kind = 'trusted', artifacts.id, writer_token_id
         FROM artifacts JOIN scopes ON scopes.id = scope_id
         WHERE workspace_id = ?1 AND hash = ?2 AND state = 'condemned' AND digest IS NOT NULL",
    )?;
    let mut rows = statement.query(params![workspace.0, hash])?;
    let mut suspect = Suspect::default();
    while let Some(row) = rows.next()? {
        let kind = if row.get(0)? {
            ScopeKind::Trusted
        } else {
            ScopeKind::Isolated
        };
        let writer = TokenId(row.get(2)?);
        if writers.is_none_or(|ids| ids.contains(&writer)) {
            suspect.add(kind, row.get(1)?);
        }
    }
    Ok(suspect)
}

/// Hides the entries of a batch; those that were still there.
fn condemn(connection: &mut Connection, batch: &[Met]) -> Result<Vec<Met>, StoreError> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let began = Instant::now();
    let mut gone = Vec::with_capacity(batch.len());
    for met in batch {
        if artifacts::condemn(&transaction, met.id, Condemned::Purged)? {
            gone.push(*met);
        }
    }
    transaction.commit()?;
    thread::sleep(PAUSE.max(began.elapsed()));
    Ok(gone)
}

fn named(
    connection: &Connection,
    sums: &HashMap<ScopeId, Sum>,
) -> Result<Vec<(ScopeRecord, Sum)>, StoreError> {
    let mut scopes = Vec::with_capacity(sums.len());
    for (id, sum) in sums {
        scopes.push((catalog::scope(connection, *id)?, *sum));
    }
    // The trusted scope has no name and comes first.
    scopes.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    Ok(scopes)
}
