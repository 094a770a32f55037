//! The thread that does what nobody waits for, a small step at a time: one chore after the other, every second.
//!
//! Each chore submits jobs of its own to the writer and bounds them; the housekeeper only says when.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cleaner::{self, Leftovers, Progress};
use super::space::Space;
use super::usage::Counts;
use super::writer::Writer;

/// How often there may be something to do.
const TICK: Duration = Duration::from_secs(1);

/// How long a stop waits for a chore that must not be left undone, if it can be done at all.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What the chores work on.
pub(super) struct Chores {
    pub writer: Arc<Writer>,
    pub space: Arc<Space>,
    pub leftovers: Arc<Leftovers>,
    pub usage: Arc<Counts>,
}

/// The thread; ends when dropped.
pub(super) struct Housekeeper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Housekeeper {
    /// Starts the thread.
    pub fn start(chores: Chores) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let signal = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || {
                while !signal.wait(TICK) {
                    chores.tick(&signal);
                }
                chores.finish();
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // What it left undone is found again at the next start.
            let _ = thread.join();
        }
    }
}

impl Chores {
    fn tick(&self, stop: &Stop) {
        self.leftovers.condemn(&self.writer, cleaner::WAIT);
        self.usage.flush_if_due(&self.writer, cleaner::WAIT);
        while matches!(
            cleaner::clean_some(&self.writer, &self.space),
            Ok(Progress::More)
        ) && !stop.is_set()
        {}
    }

    /// What must not be lost when the server stops.
    fn finish(&self) {
        self.leftovers.condemn(&self.writer, STOP_WAIT);
        self.usage.flush(&self.writer, STOP_WAIT);
    }
}

impl Stop {
    fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time` or for the stop; whether it is set.
    fn wait(&self, time: Duration) -> bool {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(is_set, time, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
