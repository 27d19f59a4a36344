//! Each in its turn, by weight.
