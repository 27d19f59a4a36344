//! Access-log formats and their operators.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge::access_log::fuzz::format(data));
