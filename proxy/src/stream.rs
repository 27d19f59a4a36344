//! THE STRAIGHT LINE: one request from head to last byte.
