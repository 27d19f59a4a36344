//! HTTP/1.1, sans-IO.

pub mod body;
pub mod encode;
#[doc(hidden)]
pub mod fuzz;
pub mod head;
#[doc(hidden)]
pub mod oracle;
pub mod request;
pub mod response;

#[cfg(test)]
mod tests;
