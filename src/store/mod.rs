//! The store: everything that is kept in the one SQLite file, and the only place with SQL.

pub mod model;
