//! The checks of the fuzz targets: each is a function of bytes that panics where a rule is broken.
//!
//! The fuzzer (tests/fuzz) calls them with bytes that its coverage suggests, tests/parser.rs with the
//! corpus and with what proptest makes. A check that needs choices takes them from the bytes, so that a
//! file of the corpus is the whole case.

pub mod config;
pub mod connection;
pub mod differential;
pub mod head;
pub mod restated;
pub mod route;
pub mod split;
pub mod token;

/// A check by the name of its target.
pub type Check = fn(&[u8]);

/// Every target, by the name of its folder in the corpus.
pub const TARGETS: [(&str, Check); 6] = [
    ("config", config::check),
    ("connection", connection::check),
    ("differential", differential::check),
    ("head", head::check),
    ("route", route::check),
    ("token", token::check),
];
