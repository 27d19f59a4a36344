//! The process as operators meet it: command line, files, signals, limits, drain.
//!
//! Each test starts the binary with ports chosen by the kernel and ends it. What peers see of requests is the parity
//! suite's matter.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test harness: blocking sockets, threads, deadlines by the wall clock"
)]

mod breakers;
mod command_line;
mod drain;
mod ends;
mod examples;
mod files;
mod limits;
mod process;
mod siege;
