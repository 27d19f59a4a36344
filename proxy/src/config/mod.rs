//! Control side: bytes in, compiled parts out.

pub mod access_log;
pub mod bootstrap;
pub mod cluster;
pub mod endpoint;
pub mod fields;
#[doc(hidden)]
pub mod fuzz;
pub mod hcm;
pub mod listener;
pub mod matchers;
pub mod mutations;
pub mod overload;
pub mod regex;
pub mod rejection;
pub mod route;
pub mod route_action;
pub mod runtime_values;
pub mod snapshot;
pub mod values;
