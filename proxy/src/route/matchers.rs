//! Path, header and query matchers.
