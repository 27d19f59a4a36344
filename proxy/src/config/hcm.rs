//! Compiles an HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use crate::config::access_log::AccessLog;
use crate::config::cluster::HeaderCase;
use crate::route::table::{RouteTable, Upgrade};

/// A compiled HTTP connection manager.
#[derive(Debug)]
pub struct Hcm {
    pub stat_prefix: Arc<str>,
    pub codec: CodecType,
    pub routes: Arc<RouteTable>,
    pub filters: Arc<[HttpFilter]>,
    pub router: RouterOptions,
    pub access_logs: Vec<AccessLog>,
    /// Log running streams that often.
    pub access_log_interval: Option<Duration>,
    pub access_log_on_new_request: bool,

    pub server_name: Arc<[u8]>,
    pub server_header: ServerHeader,
    /// Overrides `x-forwarded-proto` and the scheme.
    pub scheme_overwrite: Option<Scheme>,
    pub scheme_match_upstream: bool,
    pub via: Arc<[u8]>,
    pub add_user_agent: bool,
    pub proxy_100_continue: bool,

    pub use_remote_address: bool,
    pub xff_num_trusted_hops: u32,
    pub skip_xff_append: bool,
    pub append_x_forwarded_port: bool,
    pub ipv4_as_mapped_ipv6: bool,
    pub internal: InternalAddresses,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
    pub forward_client_cert: ForwardClientCert,

    /// `None`: no bound.
    pub request_timeout: Option<Duration>,
    pub request_headers_timeout: Option<Duration>,
    /// 5 minutes by default.
    pub stream_idle_timeout: Option<Duration>,
    /// Of a connection without a stream; 1 hour by default.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub safe_max_connection_duration: bool,
    pub max_stream_duration: Option<Duration>,
    /// 0: no bound.
    pub max_requests_per_connection: u32,
    /// 5 s by default.
    pub drain_timeout: Duration,
    /// 1 s by default; zero: close at once.
    pub delayed_close_timeout: Duration,

    pub max_request_headers_kb: u32,
    pub max_headers_count: u32,
    pub underscores: Underscores,
    /// Close the connection upon a malformed message, rather than answer and go on. `true` by default for h1.
    pub stream_error_on_invalid_message: bool,

    pub normalize_path: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    pub strip_port: StripPort,
    pub strip_trailing_host_dot: bool,

    pub http1: Http1Options,
    pub upgrades: Vec<Upgrade>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecType {
    Auto,
    Http1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    Allow,
    RejectRequest,
    DropHeader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    KeepUnchanged,
    RejectRequest,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    Keep,
    /// Only when it is the listener's.
    Matching,
    Any,
}

/// Which addresses count as internal. Without ranges: private addresses, as Envoy's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InternalAddresses {
    pub unix_sockets: bool,
    pub ranges: Option<Box<[Cidr]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: std::net::IpAddr,
    pub length: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Options {
    pub accept_http_10: bool,
    /// Host for HTTP/1.0 requests without one.
    pub default_host: Arc<[u8]>,
    pub allow_absolute_url: bool,
    pub enable_trailers: bool,
    pub allow_chunked_length: bool,
    pub header_case: HeaderCase,
    /// An error of one message does not close the connection.
    pub stream_error_on_invalid_message: bool,
}

/// One entry of `http_filters`, the router excluded: it is the end of every chain.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    pub name: Arc<str>,
    pub disabled: bool,
    pub type_url: Arc<str>,
    /// The filter's own message, for its `compile`.
    pub bytes: Arc<[u8]>,
}

/// The router's options that change its visible behaviour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouterOptions {
    pub suppress_envoy_headers: bool,
    pub respect_expected_rq_timeout: bool,
    pub dynamic_stats: bool,
}
