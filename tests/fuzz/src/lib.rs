//! What the fuzz targets check. tests/parser.rs includes `checks`, too: what the fuzzer found is replayed
//! in every run of the tests.

pub mod checks;
