//! The bytes of the fuzzer as text that may be a token; what has to hold stands in checks/token.rs.

#![no_main]

use cachesrv_fuzz::checks::token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| token::check(bytes));
