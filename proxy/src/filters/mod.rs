//! The HTTP filters: trait, verdicts and THE LIST.

pub mod buffer;
pub mod chain;
pub mod ext_authz;
pub mod fault;
