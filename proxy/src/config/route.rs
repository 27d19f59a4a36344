//! Compiles route configurations.
