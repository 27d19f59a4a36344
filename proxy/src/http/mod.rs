//! HTTP as values: messages, HTTP/1.1, paths, validation.

pub mod edge;
pub mod h1;
pub mod header_id;
pub mod hop_by_hop;
pub mod message;
pub mod path;
pub mod validate;
