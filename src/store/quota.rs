//! What isolated scopes may hold, so that pull requests can fill neither the disk nor each other's room.
//!
//! Uploads in flight count, from before their first byte on: the promise here is against other uploads of
//! this process. What is stored is counted in the database, and looked at again in the transaction that
//! publishes. Trusted scopes have no quota.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::error::StoreError;
use super::model::{Quota, Scope, WorkspaceId};
use super::name::Name;
use super::scopes;

/// Isolated scopes of one workspace that may hold entries at a time.
const SCOPES_MAX: u64 = 10_000;

/// Entries of one isolated scope, and of all of one workspace. Each costs some 300 bytes beside its own, so
/// without this limit tiny entries would fill a disk long before they fill a quota.
const SCOPE_ENTRIES_MAX: u64 = 100_000;
const WORKSPACE_ENTRIES_MAX: u64 = 1_000_000;

/// The limits, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct IsolatedLimits {
    /// What one isolated scope may hold.
    pub scope_max_bytes: u64,
    /// What all isolated scopes of one workspace may hold together.
    pub workspace_max_bytes: u64,
}

/// What uploads in flight were promised.
#[derive(Debug)]
pub(super) struct Quotas {
    limits: IsolatedLimits,
    promised: Mutex<Promised>,
}

#[derive(Debug, Default)]
struct Promised {
    scopes: HashMap<(WorkspaceId, Name), u64>,
    workspaces: HashMap<WorkspaceId, u64>,
}

/// Room for one upload; given back when dropped.
#[derive(Debug)]
pub(super) struct Promise {
    quotas: Arc<Quotas>,
    workspace: WorkspaceId,
    name: Name,
    bytes: u64,
}

/// What is in the way of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    scope_entries: u64,
    scope_bytes: u64,
    workspace_scopes: u64,
    workspace_entries: u64,
    workspace_bytes: u64,
}

impl IsolatedLimits {
    /// The limit that `size_bytes` more in `scope` would exceed, by what is stored.
    pub(super) fn exceeded(
        &self,
        connection: &Connection,
        scope: &Scope,
        size_bytes: u64,
    ) -> Result<Option<Quota>, StoreError> {
        match scope {
            Scope::Trusted(_) => Ok(None),
            Scope::Isolated(workspace, name) => {
                Ok(self.exceeded_by(&Load::stored(connection, *workspace, name)?, size_bytes))
            }
        }
    }

    fn exceeded_by(&self, load: &Load, size_bytes: u64) -> Option<Quota> {
        // An empty entry takes room, too: what is full, or may hold nothing, takes none.
        let size_bytes = size_bytes.max(1);
        if load.scope_bytes.saturating_add(size_bytes) > self.scope_max_bytes {
            Some(Quota::Scope(self.scope_max_bytes))
        } else if load.workspace_bytes.saturating_add(size_bytes) > self.workspace_max_bytes {
            Some(Quota::Workspace(self.workspace_max_bytes))
        } else if load.scope_entries >= SCOPE_ENTRIES_MAX {
            Some(Quota::ScopeEntries(SCOPE_ENTRIES_MAX))
        } else if load.workspace_entries >= WORKSPACE_ENTRIES_MAX {
            Some(Quota::WorkspaceEntries(WORKSPACE_ENTRIES_MAX))
        } else if load.scope_entries == 0 && load.workspace_scopes >= SCOPES_MAX {
            Some(Quota::Scopes(SCOPES_MAX))
        } else {
            None
        }
    }
}

impl Load {
    fn stored(
        connection: &Connection,
        workspace: WorkspaceId,
        name: &Name,
    ) -> Result<Self, StoreError> {
        let usage = scopes::usage(connection, workspace, name)?;
        let total = scopes::isolated_total(connection, workspace)?;
        Ok(Self {
            scope_entries: usage.entries,
            scope_bytes: usage.size_bytes,
            workspace_scopes: total.scopes,
            workspace_entries: total.entries,
            workspace_bytes: total.size_bytes,
        })
    }
}

impl Quotas {
    pub fn new(limits: IsolatedLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            promised: Mutex::default(),
        })
    }

    pub fn limits(&self) -> IsolatedLimits {
        self.limits
    }

    /// Promises room for `size_bytes` in an isolated scope, or says which limit is in the way.
    pub fn promise(
        self: &Arc<Self>,
        connection: &Connection,
        workspace: WorkspaceId,
        name: &Name,
        size_bytes: u64,
    ) -> Result<Result<Promise, Quota>, StoreError> {
        let mut load = Load::stored(connection, workspace, name)?;
        let key = (workspace, name.clone());
        let mut promised = self.lock();
        let of = |bytes: Option<&u64>| bytes.copied().unwrap_or_default();
        // The counters may be damaged.
        load.scope_bytes = load
            .scope_bytes
            .saturating_add(of(promised.scopes.get(&key)));
        let promised_bytes = of(promised.workspaces.get(&workspace));
        load.workspace_bytes = load.workspace_bytes.saturating_add(promised_bytes);
        if let Some(quota) = self.limits.exceeded_by(&load, size_bytes) {
            return Ok(Err(quota));
        }
        *promised.scopes.entry(key).or_default() += size_bytes;
        *promised.workspaces.entry(workspace).or_default() += size_bytes;
        drop(promised);
        Ok(Ok(Promise {
            quotas: Arc::clone(self),
            workspace,
            name: name.clone(),
            bytes: size_bytes,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Promised> {
        // Nothing here can panic while it holds the lock.
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promised = self.quotas.lock();
        let key = (self.workspace, self.name.clone());
        give_back(&mut promised.scopes, &key, self.bytes);
        give_back(&mut promised.workspaces, &self.workspace, self.bytes);
    }
}

/// Takes `bytes` off; nothing stays of what is down to zero, so the maps are as large as what is in flight.
fn give_back<K: std::hash::Hash + Eq>(promised: &mut HashMap<K, u64>, key: &K, bytes: u64) {
    let left = promised
        .get(key)
        .copied()
        .unwrap_or_default()
        .saturating_sub(bytes);
    if left == 0 {
        promised.remove(key);
    } else if let Some(promised) = promised.get_mut(key) {
        *promised = left;
    }
}
