//! Control side: bytes in, compiled parts out.

pub mod bootstrap;
pub mod cluster;
pub mod endpoint;
pub mod fields;
pub mod listener;
pub mod regex;
pub mod route;
pub mod snapshot;
