//! A weighted die.
