//! Longest known prefix of a string, by halving.
