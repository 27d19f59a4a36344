//! The compiled whole, its epoch and its ids.
