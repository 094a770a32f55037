#![no_main]

use cachesrv_fuzz::checks::route;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| route::check(bytes));
