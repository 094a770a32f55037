//! The bytes of the fuzzer as the path of a request; what has to hold stands in checks/route.rs.

#![no_main]

use cachesrv_fuzz::checks::route;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| route::check(bytes));
