//! Load balancers: pure picks.

pub mod least_request;
pub mod random;
pub mod round_robin;
