#![no_main]

use cachesrv_fuzz::checks::token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| token::check(bytes));
