//! Downloads in progress: what is being read keeps its chunks, however slow its reader is.
//!
//! An artifact that is hidden meanwhile is freed by the cleaner once the last of its downloads has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::model::Artifact;

/// How many downloads of which artifact are going on. As large as the number of connections at the most.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<HashMap<i64, u32>>);

/// One download; it ends when this is dropped.
#[derive(Debug)]
pub struct Reading {
    readings: Arc<Readings>,
    artifact_id: i64,
}

impl Readings {
    /// Begins a download; `None` where all of it is read at once, in the snapshot that found it.
    pub fn begin(self: &Arc<Self>, artifact: &Artifact) -> Option<Reading> {
        if artifact.is_small() {
            return None;
        }
        *self.lock().entry(artifact.id).or_default() += 1;
        Some(Reading {
            readings: Arc::clone(self),
            artifact_id: artifact.id,
        })
    }

    /// Whether somebody is reading this artifact.
    pub fn holds(&self, artifact_id: i64) -> bool {
        self.lock().contains_key(&artifact_id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, u32>> {
        // Nothing here can panic while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readings = self.readings.lock();
        if let Some(count) = readings.get_mut(&self.artifact_id) {
            *count -= 1;
            if *count == 0 {
                readings.remove(&self.artifact_id);
            }
        }
    }
}
