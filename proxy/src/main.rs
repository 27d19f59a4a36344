//! The `selvedge` binary.
#![forbid(unsafe_code)]

fn main() {}
