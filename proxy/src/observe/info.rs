//! All that log operators read of one stream.
