//! Patterns of RE2, translated.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge::config::fuzz::regex(data));
