//! Towards the servers: clusters, pools, connections, balancing.

pub mod breaker;
pub mod cluster;
pub mod dns;
pub mod endpoint;
pub mod lb;
pub mod pool;
pub mod reaper;
