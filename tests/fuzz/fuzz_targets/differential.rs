//! The bytes of the fuzzer as a whole conversation, for two parsers; what has to hold stands in checks/differential.rs.

#![no_main]

use cachesrv_fuzz::checks::differential;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| differential::check(bytes));
