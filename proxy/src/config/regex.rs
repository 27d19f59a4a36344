//! RE2 patterns, translated or refused.
