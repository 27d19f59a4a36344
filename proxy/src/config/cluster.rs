//! Compiles a cluster. Opens nothing, resolves nothing.

#![expect(deprecated, reason = "the older places of protocol options are part of the API")]

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3 as least_request;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstreams;
use envoy_types::pb::google::protobuf::Any;
use selvedge_runtime::SocketAddress;

use crate::config::endpoint::{self, LocalityEndpoints};
use crate::config::rejection::{At, Fault};
use crate::config::runtime_values::RuntimeValues;
use crate::config::values::{self, refuse_set};
use crate::http::h1::head::{HeadLimits, Underscores};

/// A compiled cluster.
#[derive(Debug, PartialEq)]
pub struct Cluster {
    pub name: Arc<str>,
    /// The name in statistics: `alt_stat_name`, or the name, with `:` written as `_`.
    pub stat_name: Arc<str>,
    /// The name in logs: `alt_stat_name`, or the name.
    pub observability_name: Arc<str>,
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
    /// Whether what they still allow is shown.
    pub track_remaining: [bool; 2],
    /// How long an upstream connection may be without a request; `None` for ever. 1 hour by default.
    pub idle_timeout: Option<Duration>,
    /// 0: no bound.
    pub max_requests_per_connection: u32,
    pub max_connection_duration: Option<Duration>,
    /// Bound of the fields of a response head; 100 by default.
    pub max_headers_count: u32,
    pub max_response_headers_kb: u32,
    pub h1: UpstreamHttp1,
    pub source_address: Option<SocketAddress>,
    pub tcp_keepalive: Option<TcpKeepalive>,
}

impl Cluster {
    /// Bounds of the heads that its endpoints answer with.
    pub fn response_head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes_max: self.max_response_headers_kb as usize * 1024,
            fields_max: self.max_headers_count as usize,
            accept_http_10: true,
            allow_chunked_length: self.h1.allow_chunked_length,
            allow_absolute_url: true,
            underscores: Underscores::Allow,
        }
    }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
}

impl Default for Breakers {
    fn default() -> Self {
        //= envoy: circuit_breakers.Thresholds
        Breakers { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpstreamHttp1 {
    pub enable_trailers: bool,
    pub allow_chunked_length: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time_s: Option<u32>,
    pub interval_s: Option<u32>,
}

const MESSAGE: &str = "Cluster";
/// envoy: of its HTTP/1 codec
const RESPONSE_HEADERS_KB: u32 = 80;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Compiles a cluster. `at` is the field that holds it.
pub fn compile(config: &cluster::Cluster, runtime: &RuntimeValues, at: &At<'_>) -> Result<Cluster, Fault> {
    if config.name.is_empty() {
        return Err(at.field(MESSAGE, "name").violates("value length must be at least 1 characters"));
    }
    refuse(config, at)?;
    let connect_timeout_at = at.field(MESSAGE, "connect_timeout");
    let connect_timeout =
        values::duration_or(config.connect_timeout.as_ref(), CONNECT_TIMEOUT, &connect_timeout_at)?;
    // Less than a millisecond is none, and allowed.
    if config.connect_timeout.is_some_and(|t| (t.seconds, t.nanos) == (0, 0)) {
        return Err(connect_timeout_at.violates("value must be greater than 0s"));
    }
    let kind = kind(config, at)?;
    let assignment_at = at.field(MESSAGE, "load_assignment");
    let endpoints = match &config.load_assignment {
        Some(load) => endpoint::assignment(load, kind != ClusterKind::Static, &assignment_at)?,
        None => Vec::new(),
    };
    let overprovisioning_factor = config
        .load_assignment
        .as_ref()
        .and_then(|l| l.policy.as_ref()?.overprovisioning_factor.as_ref())
        .map_or(140, |f| f.value);
    let (breakers, track_remaining) = breakers(config, runtime);
    let http = http_options(config, at)?;
    let name: Arc<str> = Arc::from(config.name.as_str());
    let stat_name = if config.alt_stat_name.is_empty() { &config.name } else { &config.alt_stat_name };
    let panic = panic_threshold(config, at)?;
    Ok(Cluster {
        stat_name: Arc::from(stat_name.replace(':', "_")),
        observability_name: Arc::from(stat_name.as_str()),
        name,
        kind,
        endpoints,
        overprovisioning_factor,
        lb: lb_policy(config, runtime, at)?,
        healthy_panic_threshold: runtime.number("upstream.healthy_panic_threshold").unwrap_or(panic),
        connect_timeout,
        breakers,
        track_remaining,
        idle_timeout: http.idle_timeout,
        max_requests_per_connection: http.max_requests_per_connection,
        max_connection_duration: http.max_connection_duration,
        max_headers_count: http.max_headers_count,
        max_response_headers_kb: http.max_response_headers_kb,
        h1: http.h1,
        source_address: source_address(config, at)?,
        tcp_keepalive: config
            .upstream_connection_options
            .as_ref()
            .and_then(|o| o.tcp_keepalive.as_ref())
            .map(tcp_keepalive),
    })
}

fn refuse(config: &cluster::Cluster, at: &At<'_>) -> Result<(), Fault> {
    refuse_set!(
        at,
        "Cluster",
        config,
        [
            transport_socket_matches,
            transport_socket_matcher,
            eds_cluster_config,
            health_checks,
            http2_protocol_options,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            outlier_detection,
            lb_subset_config,
            protocol_selection,
            filters,
            lrs_server,
            upstream_config,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies,
            track_timeout_budgets
        ]
    );
    if let Some(socket) = &config.transport_socket {
        use core::transport_socket::ConfigType;
        let ConfigType::TypedConfig(any) = socket
            .config_type
            .as_ref()
            .ok_or_else(|| at.field(MESSAGE, "transport_socket").not_implemented())?;
        if values::type_name(any) != "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" {
            return Err(at.field(MESSAGE, "transport_socket").not_implemented());
        }
    }
    if let Some(lb) = &config.common_lb_config {
        let here = at.field(MESSAGE, "common_lb_config");
        refuse_set!(
            here,
            "CommonLbConfig",
            lb,
            [consistent_hashing_lb_config, override_host_status, locality_config_specifier]
        );
    }
    Ok(())
}

fn kind(config: &cluster::Cluster, at: &At<'_>) -> Result<ClusterKind, Fault> {
    use cluster::cluster::ClusterDiscoveryType;
    let here = at.field(MESSAGE, "type");
    match &config.cluster_discovery_type {
        None | Some(ClusterDiscoveryType::Type(0)) => Ok(ClusterKind::Static),
        Some(ClusterDiscoveryType::Type(1)) => dns(config, at).map(ClusterKind::StrictDns),
        Some(ClusterDiscoveryType::Type(_)) => Err(here.not_implemented()),
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            Err(at.field(MESSAGE, "cluster_type").not_implemented())
        }
    }
}

/// In percent.
fn panic_threshold(config: &cluster::Cluster, at: &At<'_>) -> Result<f64, Fault> {
    let set = config.common_lb_config.as_ref().and_then(|c| c.healthy_panic_threshold.as_ref());
    match set {
        None => Ok(50.0),
        Some(percent) if (0.0..=100.0).contains(&percent.value) => Ok(percent.value),
        Some(_) => {
            let here = at.field(MESSAGE, "common_lb_config");
            let here = here.field("CommonLbConfig", "healthy_panic_threshold");
            Err(here.field("Percent", "value").violates("value must be inside range [0, 100]"))
        }
    }
}

fn dns(config: &cluster::Cluster, at: &At<'_>) -> Result<DnsOptions, Fault> {
    let rate_at = at.field(MESSAGE, "dns_refresh_rate");
    let refresh_rate =
        values::duration_or(config.dns_refresh_rate.as_ref(), Duration::from_secs(5), &rate_at)?;
    if refresh_rate < Duration::from_millis(1) || config.dns_refresh_rate.as_ref().is_some_and(one_ms) {
        return Err(rate_at.violates("value must be greater than 1ms"));
    }
    let failure_refresh = match &config.dns_failure_refresh_rate {
        None => None,
        Some(rate) => {
            let here = at.field(MESSAGE, "dns_failure_refresh_rate");
            let base_at = here.field("RefreshRate", "base_interval");
            let Some(base) = &rate.base_interval else { return Err(base_at.violates("value is required")) };
            if base.seconds == 0 && base.nanos <= 1_000_000 {
                return Err(base_at.violates("value must be greater than 1ms"));
            }
            let base = values::duration(base, &base_at)?;
            let bound = match &rate.max_interval {
                Some(bound) => values::duration(bound, &here.field("RefreshRate", "max_interval"))?,
                None => base * 10,
            };
            if bound < base {
                return Err(here.refuse("dns_failure_refresh_rate must have max_interval >= base_interval"));
            }
            Some((base, bound))
        }
    };
    Ok(DnsOptions {
        refresh_rate,
        failure_refresh,
        respect_ttl: config.respect_dns_ttl,
        jitter: values::duration_or(
            config.dns_jitter.as_ref(),
            Duration::ZERO,
            &at.field(MESSAGE, "dns_jitter"),
        )?,
        family: match config.dns_lookup_family {
            0 => DnsFamily::Auto,
            1 => DnsFamily::V4Only,
            2 => DnsFamily::V6Only,
            3 => DnsFamily::V4Preferred,
            4 => DnsFamily::All,
            _ => {
                let here = at.field(MESSAGE, "dns_lookup_family");
                return Err(here.violates("value must be one of the defined enum values"));
            }
        },
        wait_for_warm: config.wait_for_warm_on_init.as_ref().is_none_or(|w| w.value),
    })
}

fn one_ms(d: &envoy_types::pb::google::protobuf::Duration) -> bool {
    d.seconds == 0 && d.nanos <= 1_000_000
}

fn lb_policy(config: &cluster::Cluster, runtime: &RuntimeValues, at: &At<'_>) -> Result<LbPolicy, Fault> {
    use cluster::cluster::LbConfig;
    if let Some(policy) = &config.load_balancing_policy {
        return typed_lb_policy(config, policy, runtime, &at.field(MESSAGE, "load_balancing_policy"));
    }
    if let Some(LbConfig::RoundRobinLbConfig(own)) = &config.lb_config {
        let here = at.field(MESSAGE, "round_robin_lb_config");
        refuse_set!(here, "RoundRobinLbConfig", own, [slow_start_config]);
    }
    let here = at.field(MESSAGE, "least_request_lb_config");
    let least = match &config.lb_config {
        Some(LbConfig::LeastRequestLbConfig(own)) => {
            refuse_set!(here, "LeastRequestLbConfig", own, [slow_start_config]);
            let choices = own.choice_count.as_ref().map(|c| c.value);
            least_request(choices, own.active_request_bias.as_ref(), runtime, "LeastRequestLbConfig", &here)?
        }
        _ => least_request(None, None, runtime, "LeastRequestLbConfig", &here)?,
    };
    match config.lb_policy {
        0 => Ok(LbPolicy::RoundRobin),
        1 => Ok(least),
        3 => Ok(LbPolicy::Random),
        6 => Err(at.refuse(format!(
            "cluster manager: cluster provided LB specified but cluster '{}' did not provide one. Check cluster \
             documentation.",
            config.name
        ))),
        _ => Err(at.field(MESSAGE, "lb_policy").not_implemented()),
    }
}

fn least_request(
    choices: Option<u32>,
    bias: Option<&core::RuntimeDouble>,
    runtime: &RuntimeValues,
    message: &'static str,
    at: &At<'_>,
) -> Result<LbPolicy, Fault> {
    let choice_count = choices.unwrap_or(2);
    if choice_count < 2 {
        let here = at.field(message, "choice_count");
        return Err(here.violates("value must be greater than or equal to 2"));
    }
    let bias = bias.map_or(1.0, |b| runtime.number(&b.runtime_key).unwrap_or(b.default_value));
    Ok(LbPolicy::LeastRequest { choice_count, active_request_bias: bias })
}

/// `load_balancing_policy`: the first of the list that is known here.
fn typed_lb_policy(
    config: &cluster::Cluster,
    policy: &cluster::LoadBalancingPolicy,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<LbPolicy, Fault> {
    let mut names = Vec::new();
    for (i, one) in policy.policies.iter().enumerate() {
        let here = at.item("LoadBalancingPolicy", "policies", i);
        let Some(extension) = &one.typed_extension_config else {
            let here = here.field("Policy", "typed_extension_config");
            return Err(here.violates("value is required"));
        };
        names.push(extension.name.as_str());
        let empty = Any::default();
        let any = extension.typed_config.as_ref().unwrap_or(&empty);
        let name = values::type_name(any);
        let Some(short) = name.strip_prefix("envoy.extensions.load_balancing_policies.") else { continue };
        let here = here.unpacked();
        match short {
            "round_robin.v3.RoundRobin" | "random.v3.Random" if !any.value.is_empty() => {
                return Err(here.not_implemented());
            }
            "round_robin.v3.RoundRobin" => return Ok(LbPolicy::RoundRobin),
            "random.v3.Random" => return Ok(LbPolicy::Random),
            "least_request.v3.LeastRequest" => {
                let own: least_request::LeastRequest = values::unpack(any, &here)?;
                refuse_set!(
                    here,
                    "LeastRequest",
                    own,
                    [slow_start_config, locality_lb_config, enable_full_scan, selection_method]
                );
                let choices = own.choice_count.as_ref().map(|c| c.value);
                let bias = own.active_request_bias.as_ref();
                return least_request(choices, bias, runtime, "LeastRequest", &here);
            }
            _ => {}
        }
    }
    Err(at.refuse(format!(
        "cluster: didn't find a registered load balancer factory implementation for cluster: '{}' with names from \
         [{}]",
        config.name,
        names.join(", ")
    )))
}

fn breakers(config: &cluster::Cluster, runtime: &RuntimeValues) -> ([Breakers; 2], [bool; 2]) {
    let (mut out, mut track) = ([Breakers::default(); 2], [false; 2]);
    let thresholds = config.circuit_breakers.iter().flat_map(|b| &b.thresholds);
    let mut seen = [false; 2];
    for threshold in thresholds {
        let at = usize::from(threshold.priority != 0);
        //= envoy: of several thresholds of one priority the first counts
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        let own = &mut out[at];
        let set = |slot: &mut u32, value: &Option<envoy_types::pb::google::protobuf::UInt32Value>| {
            if let Some(value) = value {
                *slot = value.value;
            }
        };
        set(&mut own.max_connections, &threshold.max_connections);
        set(&mut own.max_pending_requests, &threshold.max_pending_requests);
        set(&mut own.max_requests, &threshold.max_requests);
        set(&mut own.max_retries, &threshold.max_retries);
        track[at] = threshold.track_remaining;
    }
    for (priority, own) in ["default", "high"].iter().zip(&mut out) {
        //= envoy: circuit_breakers.<cluster_name>.<priority>.<setting>
        let set = |slot: &mut u32, setting: &str| {
            let key = format!("circuit_breakers.{}.{priority}.{setting}", config.name);
            if let Some(value) = runtime.integer(&key) {
                *slot = u32::try_from(value).unwrap_or(u32::MAX);
            }
        };
        set(&mut own.max_connections, "max_connections");
        set(&mut own.max_pending_requests, "max_pending_requests");
        set(&mut own.max_requests, "max_requests");
        set(&mut own.max_retries, "max_retries");
    }
    (out, track)
}

struct HttpOptions {
    idle_timeout: Option<Duration>,
    max_requests_per_connection: u32,
    max_connection_duration: Option<Duration>,
    max_headers_count: u32,
    max_response_headers_kb: u32,
    h1: UpstreamHttp1,
}

fn http_options(config: &cluster::Cluster, at: &At<'_>) -> Result<HttpOptions, Fault> {
    use upstreams::http_protocol_options::UpstreamProtocolOptions as Options;
    use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig;
    let here = at.field(MESSAGE, "typed_extension_protocol_options");
    let typed: Option<upstreams::HttpProtocolOptions> =
        match config.typed_extension_protocol_options.get(OPTIONS) {
            Some(any) => Some(values::unpack(any, &here)?),
            None => None,
        };
    if let Some(name) = config.typed_extension_protocol_options.keys().find(|name| *name != OPTIONS) {
        return Err(here.refuse(format!(
            "Didn't find a registered network or http filter or protocol options implementation for name: '{name}'"
        )));
    }
    let Some(typed) = typed else {
        let common = config.common_http_protocol_options.as_ref();
        let common_at = at.field(MESSAGE, "common_http_protocol_options");
        let mut out = common_options(common, &common_at)?;
        if let Some(requests) = &config.max_requests_per_connection {
            out.max_requests_per_connection = requests.value;
        }
        out.h1 = http1(config.http_protocol_options.as_ref());
        return Ok(out);
    };
    let here = here.unpacked();
    refuse_set!(
        here,
        "HttpProtocolOptions",
        typed,
        [
            upstream_http_protocol_options,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy
        ]
    );
    if !typed.http_filters.is_empty() {
        return Err(here.field("HttpProtocolOptions", "http_filters").not_implemented());
    }
    let common_at = here.field("HttpProtocolOptions", "common_http_protocol_options");
    let mut out = common_options(typed.common_http_protocol_options.as_ref(), &common_at)?;
    match &typed.upstream_protocol_options {
        None => return Err(here.lacks("upstream_protocol_options")),
        Some(Options::ExplicitHttpConfig(explicit)) => {
            let explicit_at = here.field("HttpProtocolOptions", "explicit_http_config");
            out.h1 = match &explicit.protocol_config {
                None => return Err(explicit_at.lacks("protocol_config")),
                Some(ProtocolConfig::HttpProtocolOptions(own)) => http1(Some(own)),
                Some(ProtocolConfig::Http2ProtocolOptions(_)) => {
                    return Err(explicit_at
                        .field("ExplicitHttpConfig", "http2_protocol_options")
                        .not_implemented());
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    return Err(explicit_at
                        .field("ExplicitHttpConfig", "http3_protocol_options")
                        .not_implemented());
                }
            };
        }
        Some(Options::UseDownstreamProtocolConfig(own)) => {
            // All downstream connections here are HTTP/1.
            out.h1 = http1(own.http_protocol_options.as_ref());
        }
        Some(Options::AutoConfig(_)) => {
            return Err(here.field("HttpProtocolOptions", "auto_config").not_implemented());
        }
    }
    Ok(out)
}

fn common_options(config: Option<&core::HttpProtocolOptions>, at: &At<'_>) -> Result<HttpOptions, Fault> {
    const MESSAGE: &str = "HttpProtocolOptions";
    let empty = core::HttpProtocolOptions::default();
    let config = config.unwrap_or(&empty);
    refuse_set!(at, "HttpProtocolOptions", config, [max_stream_duration]);
    let idle = at.field(MESSAGE, "idle_timeout");
    Ok(HttpOptions {
        idle_timeout: values::timeout(config.idle_timeout.as_ref(), Some(IDLE_TIMEOUT), &idle)?,
        max_requests_per_connection: config.max_requests_per_connection.as_ref().map_or(0, |m| m.value),
        max_connection_duration: values::timeout(
            config.max_connection_duration.as_ref(),
            None,
            &at.field(MESSAGE, "max_connection_duration"),
        )?,
        max_headers_count: headers_count(config, at)?,
        max_response_headers_kb: response_headers_kb(config, at)?,
        h1: UpstreamHttp1::default(),
    })
}

fn response_headers_kb(config: &core::HttpProtocolOptions, at: &At<'_>) -> Result<u32, Fault> {
    match &config.max_response_headers_kb {
        None => Ok(RESPONSE_HEADERS_KB),
        Some(kb) if (1..=8192).contains(&kb.value) => Ok(kb.value),
        Some(_) => {
            let here = at.field("HttpProtocolOptions", "max_response_headers_kb");
            Err(here.violates("value must be inside range (0, 8192]"))
        }
    }
}

/// `max_headers_count`, 100 by default.
pub(crate) fn headers_count(config: &core::HttpProtocolOptions, at: &At<'_>) -> Result<u32, Fault> {
    match &config.max_headers_count {
        None => Ok(100),
        Some(count) if count.value == 0 => {
            let here = at.field("HttpProtocolOptions", "max_headers_count");
            Err(here.violates("value must be greater than or equal to 1"))
        }
        Some(count) => Ok(count.value),
    }
}

fn http1(config: Option<&core::Http1ProtocolOptions>) -> UpstreamHttp1 {
    config.map_or_else(UpstreamHttp1::default, |config| UpstreamHttp1 {
        enable_trailers: config.enable_trailers,
        allow_chunked_length: config.allow_chunked_length,
    })
}

fn source_address(config: &cluster::Cluster, at: &At<'_>) -> Result<Option<SocketAddress>, Fault> {
    let Some(bind) = &config.upstream_bind_config else { return Ok(None) };
    let here = at.field(MESSAGE, "upstream_bind_config");
    refuse_set!(
        here,
        "BindConfig",
        bind,
        [
            freebind,
            socket_options,
            extra_source_addresses,
            additional_source_addresses,
            local_address_selector
        ]
    );
    let here = here.field("BindConfig", "source_address");
    match &bind.source_address {
        None => Ok(None),
        Some(socket) => values::known(values::socket_place(socket, &here)?, &here).map(Some),
    }
}

pub(crate) fn tcp_keepalive(config: &core::TcpKeepalive) -> TcpKeepalive {
    let value = |v: &Option<envoy_types::pb::google::protobuf::UInt32Value>| v.as_ref().map(|v| v.value);
    TcpKeepalive {
        probes: value(&config.keepalive_probes),
        time_s: value(&config.keepalive_time),
        interval_s: value(&config.keepalive_interval),
    }
}
