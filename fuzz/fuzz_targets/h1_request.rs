//! Heads of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge::http::h1::fuzz::request(data));
