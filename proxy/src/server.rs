//! Threads, start and stop.
