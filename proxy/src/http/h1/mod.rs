//! HTTP/1.1, sans-IO.

pub mod body;
pub mod encode;
pub mod head;
pub mod request;
pub mod response;

#[cfg(test)]
mod tests;
