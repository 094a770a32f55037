#![no_main]

use cachesrv_fuzz::checks::differential;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| differential::check(bytes));
