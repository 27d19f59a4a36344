//! Names of well-known header fields.
