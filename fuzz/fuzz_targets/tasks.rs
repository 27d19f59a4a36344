//! The executor.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_runtime::fuzz::tasks(data));
