//! Checks that every version of HTTP shares.
