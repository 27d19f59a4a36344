//! Compiles an HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use crate::config::access_log::{self, AccessLog};
use crate::config::cluster::IDLE_TIMEOUT;
use crate::config::rejection::{At, Fault};
use crate::config::route::{self, Lookup};
use crate::config::values;
use crate::filters;
use crate::http::edge::{Cidr, EdgePolicy, ServerHeader};
use crate::http::h1::head::Underscores;
use crate::limits;
use crate::route::table::{RouteTable, Upgrade};

/// A compiled HTTP connection manager.
#[derive(Debug)]
pub struct Hcm {
    pub stat_prefix: Arc<str>,
    /// The chain, without the router: that is the end of every chain.
    pub filters: Arc<[filters::Entry]>,
    pub router: RouterOptions,
    pub access_logs: Vec<AccessLog>,

    pub server_name: Arc<[u8]>,
    pub server_header: ServerHeader,
    pub edge: EdgePolicy,
    pub proxy_100_continue: bool,
    pub always_set_request_id_in_response: bool,

    /// `None`: no bound.
    pub request_timeout: Option<Duration>,
    pub request_headers_timeout: Option<Duration>,
    /// 5 minutes by default.
    pub stream_idle_timeout: Option<Duration>,
    /// Of a connection without a stream; 1 hour by default.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
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
    pub http1: Http1Options,
    pub upgrades: Vec<Upgrade>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Options {
    pub accept_http_10: bool,
    /// Host for HTTP/1.0 requests without one.
    pub default_host: Arc<[u8]>,
    pub allow_absolute_url: bool,
    pub enable_trailers: bool,
    pub allow_chunked_length: bool,
}

/// The router's options that change its visible behaviour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouterOptions {
    pub suppress_envoy_headers: bool,
}

const MESSAGE: &str = "HttpConnectionManager";
const ENUM: &str = "value must be one of the defined enum values";
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST_HEADERS_KB: u32 = 60;
const HEADERS_COUNT: u32 = 100;

/// Compiles a connection manager and its routes: connections keep the one, requests take the other when they come.
/// `at` is the field that holds it.
pub fn compile(
    config: &hcm::HttpConnectionManager,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<(Hcm, RouteTable), Fault> {
    use hcm::http_connection_manager::RouteSpecifier;
    if config.stat_prefix.is_empty() {
        return Err(at.field(MESSAGE, "stat_prefix").violates("value length must be at least 1 characters"));
    }
    match config.codec_type {
        0 | 1 => {}
        2 | 3 => return Err(at.field(MESSAGE, "codec_type").not_implemented()),
        _ => return Err(at.field(MESSAGE, "codec_type").violates(ENUM)),
    }
    let routes = match &config.route_specifier {
        Some(RouteSpecifier::RouteConfig(table)) => {
            route::table(table, lookup, &at.field(MESSAGE, "route_config"))?
        }
        Some(RouteSpecifier::Rds(_)) => return Err(at.field(MESSAGE, "rds").not_implemented()),
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(at.field(MESSAGE, "scoped_routes").not_implemented());
        }
        None => return Err(at.lacks("route_specifier")),
    };
    let common = config.common_http_protocol_options.unwrap_or_default();
    let common_at = at.field(MESSAGE, "common_http_protocol_options");
    let timeout =
        |value: Option<&_>, default, field| values::timeout(value, default, &at.field(MESSAGE, field));
    let (chain, router) = chain(config, lookup, at)?;
    let manager = Hcm {
        stat_prefix: Arc::from(config.stat_prefix.as_str()),
        filters: chain.into(),
        router,
        access_logs: access_log::list(&config.access_log, lookup.runtime, MESSAGE, at)?,
        server_name: if config.server_name.is_empty() {
            Arc::from(&b"envoy"[..])
        } else {
            Arc::from(config.server_name.as_bytes())
        },
        server_header: match config.server_header_transformation {
            0 => ServerHeader::Overwrite,
            1 => ServerHeader::AppendIfAbsent,
            2 => ServerHeader::PassThrough,
            _ => return Err(at.field(MESSAGE, "server_header_transformation").violates(ENUM)),
        },
        edge: edge(config, at)?,
        proxy_100_continue: config.proxy_100_continue,
        always_set_request_id_in_response: config.always_set_request_id_in_response,
        request_timeout: timeout(config.request_timeout.as_ref(), None, "request_timeout")?,
        request_headers_timeout: timeout(
            config.request_headers_timeout.as_ref(),
            None,
            "request_headers_timeout",
        )?,
        stream_idle_timeout: timeout(
            config.stream_idle_timeout.as_ref(),
            Some(STREAM_IDLE_TIMEOUT),
            "stream_idle_timeout",
        )?,
        idle_timeout: values::timeout(common.idle_timeout.as_ref(), Some(IDLE_TIMEOUT), &common_at)?,
        max_connection_duration: values::timeout(common.max_connection_duration.as_ref(), None, &common_at)?,
        max_stream_duration: values::timeout(common.max_stream_duration.as_ref(), None, &common_at)?,
        max_requests_per_connection: common.max_requests_per_connection.map_or(0, |v| v.value),
        drain_timeout: values::duration_or(
            config.drain_timeout.as_ref(),
            DRAIN_TIMEOUT,
            &at.field(MESSAGE, "drain_timeout"),
        )?,
        delayed_close_timeout: values::duration_or(
            config.delayed_close_timeout.as_ref(),
            DELAYED_CLOSE_TIMEOUT,
            &at.field(MESSAGE, "delayed_close_timeout"),
        )?,
        max_request_headers_kb: headers_kb(config, at)?,
        max_headers_count: match common.max_headers_count {
            Some(count) if count.value == 0 => {
                let here = common_at.field("HttpProtocolOptions", "max_headers_count");
                return Err(here.violates("value must be greater than or equal to 1"));
            }
            count => count.map_or(HEADERS_COUNT, |c| c.value),
        },
        underscores: match common.headers_with_underscores_action {
            0 => Underscores::Allow,
            1 => Underscores::Reject,
            2 => Underscores::Drop,
            _ => {
                let here = common_at.field("HttpProtocolOptions", "headers_with_underscores_action");
                return Err(here.violates(ENUM));
            }
        },
        http1: http1(config.http_protocol_options.as_ref()),
        upgrades: upgrades(config, at)?,
    };
    Ok((manager, routes))
}

fn headers_kb(config: &hcm::HttpConnectionManager, at: &At<'_>) -> Result<u32, Fault> {
    let Some(value) = &config.max_request_headers_kb else { return Ok(REQUEST_HEADERS_KB) };
    let here = at.field(MESSAGE, "max_request_headers_kb");
    if value.value == 0 {
        return Err(here.violates("value must be inside range (0, 8192]"));
    }
    if value.value > 8192 {
        return Err(here.violates("value must be inside range (0, 8192]"));
    }
    Ok(value.value)
}

fn http1(config: Option<&core::Http1ProtocolOptions>) -> Http1Options {
    let config = config.cloned().unwrap_or_default();
    Http1Options {
        accept_http_10: config.accept_http_10,
        default_host: Arc::from(config.default_host_for_http_10.as_bytes()),
        allow_absolute_url: config.allow_absolute_url.is_none_or(|v| v.value),
        enable_trailers: config.enable_trailers,
        allow_chunked_length: config.allow_chunked_length,
    }
}

fn edge(config: &hcm::HttpConnectionManager, at: &At<'_>) -> Result<EdgePolicy, Fault> {
    let mut internal = Vec::new();
    let own = config.internal_address_config.clone().unwrap_or_default();
    let here = at.field(MESSAGE, "internal_address_config");
    for (i, range) in own.cidr_ranges.iter().enumerate() {
        let item = here.item("InternalAddressConfig", "cidr_ranges", i);
        let address = range
            .address_prefix
            .parse()
            .map_err(|_| item.refuse(format!("malformed IP address: {}", range.address_prefix)))?;
        let longest = if matches!(address, std::net::IpAddr::V4(_)) { 32 } else { 128 };
        let length = range.prefix_len.map_or(0, |l| l.value);
        if length > longest {
            return Err(item.refuse(format!("prefix_len {length} is above {longest}")));
        }
        internal.push(Cidr { address, prefix: u8::try_from(length).expect("at most 128") });
    }
    Ok(EdgePolicy {
        use_remote_address: config.use_remote_address.is_some_and(|v| v.value),
        trusted_hops: config.xff_num_trusted_hops,
        skip_xff_append: config.skip_xff_append,
        generate_request_id: config.generate_request_id.is_none_or(|v| v.value),
        preserve_external_request_id: config.preserve_external_request_id,
        internal: internal.into(),
        unix_is_internal: own.unix_sockets,
        via: config.via.as_bytes().into(),
    })
}

fn upgrades(config: &hcm::HttpConnectionManager, at: &At<'_>) -> Result<Vec<Upgrade>, Fault> {
    let mut list: Vec<Upgrade> = Vec::new();
    for (i, one) in config.upgrade_configs.iter().enumerate() {
        let here = at.item(MESSAGE, "upgrade_configs", i);
        let protocol: Box<[u8]> = one.upgrade_type.to_ascii_lowercase().as_bytes().into();
        if list.iter().any(|u| u.protocol == protocol) {
            return Err(here.refuse(format!(
                "Error: multiple upgrade configs with the same name: '{}'",
                one.upgrade_type
            )));
        }
        if &*protocol == b"connect" {
            return Err(here.field("UpgradeConfig", "upgrade_type").not_implemented());
        }
        list.push(Upgrade { protocol, enabled: one.enabled.is_none_or(|e| e.value) });
    }
    Ok(list)
}

const ROUTER_NAME: &str = "envoy.filters.http.router";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// The filters before the router, and the router's options. //= envoy: the router is the last filter
fn chain(
    config: &hcm::HttpConnectionManager,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<(Vec<filters::Entry>, RouterOptions), Fault> {
    use hcm::http_filter::ConfigType;
    let mut chain = Vec::new();
    let mut router = None;
    let last = config.http_filters.len().wrapping_sub(1);
    for (i, filter) in config.http_filters.iter().enumerate() {
        let here = at.item(MESSAGE, "http_filters", i);
        if filter.name.is_empty() {
            let name = here.field("HttpFilter", "name");
            return Err(name.violates("value length must be at least 1 characters"));
        }
        let inner = here.field("HttpFilter", "typed_config").unpacked();
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            if filter.is_optional {
                filters::left_out(filter);
                continue;
            }
            return Err(here.refuse(format!(
                "Didn't find a registered implementation for '{}' with type URL: ''",
                filter.name
            )));
        };
        if values::type_name(any) == ROUTER {
            if i != last {
                return Err(here.refuse(format!(
                    "Error: terminal filter named {} of type {ROUTER_NAME} must be the last filter in a http filter chain.",
                    filter.name
                )));
            }
            if filter.disabled {
                return Err(here.field("HttpFilter", "disabled").refuse(format!(
                    "Error: the last (terminal) filter ({}) in the chain cannot be disabled by default.",
                    filter.name
                )));
            }
            let own: router::Router = values::unpack(any, &inner)?;
            router = Some(RouterOptions { suppress_envoy_headers: own.suppress_envoy_headers });
        } else {
            if i == last {
                return Err(here.refuse(format!(
                    "Error: non-terminal filter named {} of type {} is the last filter in a http filter chain.",
                    filter.name,
                    values::type_name(any)
                )));
            }
            chain.extend(filters::compile(filter, any, lookup, &inner)?);
        }
    }
    if chain.len() > limits::FILTERS_PER_CHAIN {
        let reason = format!("more than {} filters in a chain", limits::FILTERS_PER_CHAIN);
        return Err(at.field(MESSAGE, "http_filters").refuse(reason));
    }
    match router {
        Some(router) => Ok((chain, router)),
        None => {
            let here = at.field(MESSAGE, "http_filters");
            Err(here.refuse("no http filter is configured: the chain must end with the router"))
        }
    }
}
