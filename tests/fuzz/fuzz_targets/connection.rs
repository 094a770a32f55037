#![no_main]

use cachesrv_fuzz::checks::connection;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| connection::check(bytes));
