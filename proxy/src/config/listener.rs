//! Compiles a listener . Binds nothing.

use std::sync::Arc;

use selvedge_runtime::SocketAddress;

use crate::config::cluster::TcpKeepalive;

pub use crate::config::access_log::AccessLog;
pub use crate::config::hcm::Hcm;

/// A compiled listener.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub addresses: Vec<ListenAddress>,
    /// The part of statistics after `listener.`: `stat_prefix`, or the address with `:` written as `_`.
    pub stat_name: Arc<str>,
    pub chain: FilterChain,
    /// 1 MiB by default.
    pub per_connection_buffer_limit_bytes: u32,
    pub access_logs: Vec<AccessLog>,
    /// Connections of this listener over all shards (runtime `envoy.resource_limits.listener.<name>.connection_limit`).
    pub max_connections: Option<u64>,
    pub ignore_global_conn_limit: bool,
    pub reuse_port: bool,
    pub backlog: u32,
    pub bind_to_port: bool,
    pub transparent: bool,
    pub freebind: bool,
    pub drain: DrainType,
    pub direction: Direction,
    /// 0: the driver decides.
    pub max_accepts_per_event: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    pub address: SocketAddress,
    pub ipv4_compat: bool,
    /// Permission bits of a Unix socket; 0: as the umask says.
    pub mode: u32,
    pub tcp_keepalive: Option<TcpKeepalive>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainType {
    Default,
    ModifyOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Unspecified,
    Inbound,
    Outbound,
}

/// What is done with an accepted connection.
#[derive(Debug)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub hcm: Arc<Hcm>,
}
