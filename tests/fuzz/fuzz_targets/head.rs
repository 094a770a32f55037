//! The bytes of the fuzzer as the head of one request; what has to hold stands in checks/head.rs.

#![no_main]

use cachesrv_fuzz::checks::head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| head::check(bytes));
