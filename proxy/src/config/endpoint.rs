//! Compiles endpoints.
