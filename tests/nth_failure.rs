//! The Nth operation fails, for each N: reads, writes, syncs, cuts, opens, mappings and removals of files, and SQLite's
//! memory, below the real executable, while it stores, serves, evicts, folds its log, backs up, restores, migrates,
//! starts and stops.
//!
//! Whatever fails, clients get what Nx survives, never wrong bytes, and commands one sentence. Once nothing fails any
//! more all is well at once, without a restart: uploads, downloads, the file, the counters, the descriptors.
//!
//! Not tried here: a page of the mapped file that cannot be read is a SIGBUS, which no library can cause
//! (`durability.mmap`), and what rustix asks of the kernel (flock, statvfs, a rename that replaces nothing) fails in
//! other tests. SQLite as it is built here calls no `fallocate`; that its series stay empty is in the table.

mod support;

#[path = "nth_failure/commands.rs"]
mod commands;
#[path = "nth_failure/life.rs"]
mod life;
#[path = "nth_failure/requests.rs"]
mod requests;
#[path = "nth_failure/stopped.rs"]
mod stopped;
#[path = "nth_failure/upkeep.rs"]
mod upkeep;
#[path = "nth_failure/watched.rs"]
mod watched;
