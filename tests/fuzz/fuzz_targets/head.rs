#![no_main]

use cachesrv_fuzz::checks::head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| head::check(bytes));
