//! Answers that the proxy makes itself.
