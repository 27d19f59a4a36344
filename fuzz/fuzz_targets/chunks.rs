//! Buffers of a shard.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_runtime::fuzz::chunks(data));
