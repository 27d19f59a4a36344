//! A filter's question to another service.
