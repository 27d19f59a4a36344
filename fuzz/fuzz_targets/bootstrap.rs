//! Bootstraps in their four forms, compiled.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge::config::fuzz::bootstrap(data));
