//! Compiles a cluster. Opens nothing, resolves nothing.

use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::SocketAddress;

use crate::config::endpoint::LocalityEndpoints;
use crate::route::table::ClusterId;

/// A compiled cluster.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub id: ClusterId,
    /// The name in statistics: `alt_stat_name`, or the name, with `:` written as `_`.
    pub stat_name: Arc<str>,
    pub kind: ClusterKind,
    pub endpoints: Vec<LocalityEndpoints>,
    /// Percent; 140 by default.
    pub overprovisioning_factor: u32,
    pub lb: LbPolicy,
    /// Percent of healthy endpoints below which health is disregarded; 50 by default.
    pub healthy_panic_threshold: f64,
    pub connect_timeout: Duration,
    /// By priority of the request: default, high.
    pub breakers: [Breakers; 2],
    /// How long an upstream connection may be without a request; `None` for ever. 1 hour by default.
    pub idle_timeout: Option<Duration>,
    /// 0: no bound.
    pub max_requests_per_connection: u32,
    pub max_connection_duration: Option<Duration>,
    /// Bound of the fields of a response head; 100 by default.
    pub max_headers_count: u32,
    pub max_response_headers_kb: u32,
    pub h1: UpstreamHttp1,
    /// 1 MiB by default.
    pub per_connection_buffer_limit_bytes: u32,
    pub source_address: Option<SocketAddress>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub track_remaining: [bool; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterKind {
    Static,
    StrictDns(DnsOptions),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOptions {
    pub refresh_rate: Duration,
    /// Back-off between failed look-ups: base and bound. `None`: the refresh rate.
    pub failure_refresh: Option<(Duration, Duration)>,
    pub respect_ttl: bool,
    pub jitter: Duration,
    pub family: DnsFamily,
    /// The cluster counts as warm only after the first answer.
    pub wait_for_warm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LbPolicy {
    RoundRobin,
    Random,
    LeastRequest { choice_count: u32, active_request_bias: f64 },
}

/// Bounds of what one cluster may have in flight for one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    pub max_connection_pools: u32,
}

impl Default for Breakers {
    fn default() -> Self {
        //= envoy: circuit_breakers.Thresholds
        Breakers {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            max_connection_pools: u32::MAX,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpstreamHttp1 {
    pub enable_trailers: bool,
    pub allow_chunked_length: bool,
    pub header_case: HeaderCase,
    pub send_fully_qualified_url: bool,
}

/// How names of fields are written to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderCase {
    #[default]
    Lower,
    ProperWords,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time_s: Option<u32>,
    pub interval_s: Option<u32>,
}
