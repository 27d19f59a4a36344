//! One message type for all versions of HTTP.
