//! The bytes of the fuzzer as a configuration file; what has to hold stands in checks/config.rs.

#![no_main]

use cachesrv_fuzz::checks::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| config::check(bytes));
