//! The admin thread: one list of endpoints, one file per group.
