//! The timer wheel.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_runtime::fuzz::timers(data));
