//! What the tests of the real binary share: a directory with its database, the command line, a running
//! server with its log, and a client that knows the cache.
//!
//! Nothing here sleeps for readiness: a server says when it listens, and what no byte announces is
//! looked at again and again, within a bound.

#![allow(dead_code, unused_imports)] // Each test binary uses its own part.

pub mod authority;
pub mod book;
pub mod client;
pub mod dir;
pub mod disk;
pub mod entries;
pub mod evidence;
pub mod fake;
pub mod fault;
pub mod footprint;
pub mod guess;
pub mod load;
pub mod old;
pub mod outage;
pub mod pages;
pub mod passed;
pub mod preload;
pub mod random;
pub mod raw;
pub mod rich;
pub mod secure;
pub mod server;
pub mod trace;

pub use authority::{Authority, Pair};
pub use client::Client;
pub use dir::{Dir, Outcome, Token};
pub use entries::{Entries, Entry, Key, TRUSTED};
pub use fake::Fake;
pub use footprint::Footprint;
pub use load::Load;
pub use random::{Random, noise, rounds};
pub use raw::{Answer, Raw};
pub use server::Server;

use std::time::{Duration, Instant};

/// How long anything may take on a machine that does much else, before a test calls it stuck.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Looks until `look` yields something; for states that no byte announces.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
