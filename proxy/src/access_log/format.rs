//! Compiled log formats and their operators.
