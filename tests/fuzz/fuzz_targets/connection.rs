//! The bytes of the fuzzer as a whole conversation; what has to hold stands in checks/connection.rs.

#![no_main]

use cachesrv_fuzz::checks::connection;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| connection::check(bytes));
