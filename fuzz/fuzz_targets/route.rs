//! The choice of a route, against a scan.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge::route::fuzz::choice(data));
