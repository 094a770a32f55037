//! What the parts of the model test share: outcomes, names, and what was seen.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::super::tests::WAIT;
use super::super::*;
use super::rules::{May, Told};

/// How often each kind of thing happened: a test in which it did not tests nothing.
pub(super) static SEEN: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

pub(super) type Outcome<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

pub(super) use ensure;

#[allow(clippy::needless_pass_by_value)] // what is compared is mostly made on the spot
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    ensure!(
        found == expected,
        "{what}: is {found:?}, should be {expected:?}"
    );
    Ok(())
}

/// A failure that no model foresees.
pub(super) trait Must<T> {
    fn must(self, what: &str) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Must<T> for Result<T, E> {
    fn must(self, what: &str) -> Outcome<T> {
        self.map_err(|error| format!("{what} failed: {error}"))
    }
}

/// Runs `work` behind everything that the writer was given before.
pub(super) fn on_writer<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    store
        .writer
        .submit(Weight::Bulk, work)
        .wait(Instant::now() + WAIT)
}

pub(super) fn scope_name(scope: u8) -> String {
    format!("pr-{scope}")
}

pub(super) fn workspace_name(workspace: usize) -> String {
    match workspace {
        0 => "default".to_owned(),
        other => format!("shop-{other}"),
    }
}

pub(super) fn token_name(name: u8) -> String {
    format!("ci-{name}")
}

pub(super) fn access(may: May) -> Access {
    match may {
        May::Read => Access::Read,
        May::Write => Access::Write,
        May::Isolated => Access::Isolated,
        May::WriteOnly => Access::WriteOnly,
    }
}

/// The one that `number` means among those that are there.
pub(super) fn pick<T: Copy>(number: u8, of: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let length = of.len();
    (length > 0)
        .then(|| of.skip(usize::from(number) % length).take(1).last())
        .flatten()
}

pub(super) fn seen(what: impl Into<String>) {
    *SEEN.lock().unwrap().entry(what.into()).or_default() += 1;
}

pub(super) fn told(stored: Stored) -> Told {
    match stored {
        Stored::New => Told::Stored,
        Stored::Exists => Told::Exists,
        Stored::TokenNotLive => Told::Died,
        Stored::OverQuota(Quota::Scope(_)) => Told::OverScope,
        Stored::OverQuota(Quota::Workspace(_)) => Told::OverWorkspace,
        Stored::OverQuota(other) => panic!("{other:?} is far away"),
    }
}

pub(super) fn same_revoked(revoked: &Revoked, is_there: bool, count: usize) -> Outcome {
    let (word, found) = match revoked {
        Revoked::Done(tokens) => ("done", tokens.len()),
        Revoked::Already(_) => ("already", 0),
        Revoked::NotFound(_) => ("not found", 0),
    };
    let expected = match (is_there, count) {
        (false, _) => "not found",
        (true, 0) => "already",
        (true, _) => "done",
    };
    seen(format!("revoke {expected}"));
    same("token revoke", (word, found), (expected, count))
}
