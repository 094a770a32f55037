//! What the store does on its own, told to whoever wants to log or count it: the store itself has no log.

use std::fmt;
use std::sync::Arc;

use super::error::StoreError;
use super::model::{Reason, ScopeKind};
use super::purge::Sum;

/// Something that no request asked for.
#[derive(Debug)]
pub enum Event<'e> {
    /// Entries of this kind were evicted for this reason, all of a minute together.
    Evicted(ScopeKind, Reason, Sum),
    /// Eviction could not do its work, and did so before. It is tried again.
    EvictionFailed(&'e StoreError),
    /// What is hidden could not be freed. Where its pages are malformed, it stays and is told once.
    CleaningFailed(&'e StoreError),
}

/// Who is told. Called by threads of the store, which wait for it.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&Event<'_>) + Send + Sync>);

impl Observer {
    /// Tells `hear` of each event.
    pub fn new(hear: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    pub(super) fn tell(&self, event: &Event<'_>) {
        (self.0)(event);
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
