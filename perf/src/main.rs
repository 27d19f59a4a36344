//! `selvedge-perf`: load, contenders, measurements.

fn main() {}
