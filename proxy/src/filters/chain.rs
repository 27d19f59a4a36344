//! Runs the filters of one stream.
