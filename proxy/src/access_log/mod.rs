//! Access logs: formats and their operators, the buffers of the shards, the writer thread.

pub(crate) mod dates;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
mod grpc;
pub(crate) mod json;
mod operator;
pub mod sink;
