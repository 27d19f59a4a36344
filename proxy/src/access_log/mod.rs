//! Access logs: compiled formats and the sinks that the writer thread owns.

pub mod format;
pub mod sink;
