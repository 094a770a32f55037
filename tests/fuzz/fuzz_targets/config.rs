#![no_main]

use cachesrv_fuzz::checks::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| config::check(bytes));
