//! Compiles load assignments.

use std::sync::Arc;

use selvedge_runtime::SocketAddress;

/// Endpoints of one locality at one priority.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityEndpoints {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
    pub priority: u32,
    /// Used by locality-weighted policies only.
    pub weight: Option<u32>,
    pub endpoints: Vec<Endpoint>,
}

/// One configured endpoint: an address, or a name to resolve.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub target: EndpointTarget,
    /// Shown by `/clusters` and used by `auto_host_rewrite`. For STRICT_DNS the name itself when empty.
    pub hostname: Arc<str>,
    /// 1 to 2^32-1; 1 by default.
    pub weight: u32,
    pub health: ConfiguredHealth,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointTarget {
    Address(SocketAddress),
    Name { host: Arc<str>, port: u16 },
}

/// `health_status` as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfiguredHealth {
    Healthy,
    Unhealthy,
    Degraded,
}
