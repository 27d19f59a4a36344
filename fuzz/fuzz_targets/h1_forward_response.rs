//! Responses, forwarded: the smuggling oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge::http::h1::fuzz::forward_response(data));
