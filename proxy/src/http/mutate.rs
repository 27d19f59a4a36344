//! Compiled header mutations.
