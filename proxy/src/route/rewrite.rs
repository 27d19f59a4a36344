//! Paths and hosts as routes rewrite them, and the targets of redirects. Pure.
