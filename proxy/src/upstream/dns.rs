//! STRICT_DNS resolution on the control thread.
