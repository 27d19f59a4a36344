//! Selvedge: an Envoy-compatible data-plane proxy. This file is the map of the crate.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod args;
pub mod config;
pub mod demo;
pub mod downstream;
pub mod epoch;
pub mod filters;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod limits;
pub mod log;
pub mod observe;
pub mod overload;
pub mod process;
pub mod route;
pub mod server;
pub mod shard;
pub mod side_call;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stats;
pub mod stream;
pub mod upstream;
pub mod version;
