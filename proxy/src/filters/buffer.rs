//! Collects the whole request before it goes on.
