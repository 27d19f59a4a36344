//! Compiled route tables.
