//! Messages to bytes.
