//! Compiles a listener. Binds nothing.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb_hcm;
use selvedge_runtime::SocketAddress;

use crate::config::hcm::{self, Hcm};
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values;
use crate::route::table::RouteTable;

/// A compiled listener.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub addresses: Vec<ListenAddress>,
    /// The part of statistics after `listener.`: `stat_prefix`, or the address with `:` written as `_`.
    pub stat_name: Arc<str>,
    pub hcm: Arc<Hcm>,
    pub routes: Arc<RouteTable>,
    /// Connections of this listener over all shards (runtime `envoy.resource_limits.listener.<name>.connection_limit`).
    pub max_connections: Option<u64>,
    pub reuse_port: bool,
    /// `None`: as the kernel allows.
    pub backlog: Option<u32>,
    pub direction: Direction,
    /// Connections are asked to go while `/healthcheck/fail` holds.
    pub drains_on_health: bool,
    /// Its connections count among all, and are not refused for their number.
    pub ignores_global_limit: bool,
    /// No action of the overload manager touches it.
    pub bypasses_overload: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    pub address: SocketAddress,
    pub ipv4_compat: bool,
    /// Permission bits of a Unix socket; 0: as the umask says.
    pub mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Unspecified,
    Inbound,
    Outbound,
}

impl Direction {
    /// Whether a command for inbound listeners alone, or for all, is meant for a listener of this direction.
    pub fn is_meant(self, inbound_only: bool) -> bool {
        !inbound_only || self == Direction::Inbound
    }
}

const MESSAGE: &str = "Listener";
const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Compiles a listener. `at` is the field that holds it; `number`: stands in for a missing name.
pub fn compile(
    config: &listener::Listener,
    number: usize,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<Listener, Fault> {
    if config.bind_to_port.is_some_and(|b| !b.value) {
        return Err(at.field(MESSAGE, "bind_to_port").refuse("bind_to_port: false is not implemented"));
    }
    if config.max_connections_to_accept_per_socket_event.is_some_and(|most| most.value == 0) {
        let here = at.field(MESSAGE, "max_connections_to_accept_per_socket_event");
        return Err(here.violates("value must be greater than 0"));
    }
    let timeout = config.listener_filters_timeout.as_ref();
    values::timeout(timeout, None, &at.field(MESSAGE, "listener_filters_timeout"))?;
    let mut addresses = Vec::new();
    let here = at.field(MESSAGE, "address");
    let Some(address) = &config.address else { return Err(here.violates("value is required")) };
    addresses.push(listen_address(address, &here)?);
    for (i, more) in config.additional_addresses.iter().enumerate() {
        let item = at.item(MESSAGE, "additional_addresses", i);
        let here = item.field("AdditionalAddress", "address");
        let Some(address) = &more.address else { return Err(here.violates("value is required")) };
        addresses.push(listen_address(address, &here)?);
    }
    let first = addresses[0].address.to_string();
    let name: Arc<str> = if config.name.is_empty() {
        Arc::from(format!("listener_{number}"))
    } else {
        Arc::from(config.name.as_str())
    };
    let stat_name = if config.stat_prefix.is_empty() { &first } else { &config.stat_prefix };
    let limit = format!("envoy.resource_limits.listener.{name}.connection_limit");
    let (hcm, routes) = chain(config, lookup, &first, at)?;
    Ok(Listener {
        stat_name: Arc::from(stat_name.replace(':', "_")),
        max_connections: lookup.runtime.integer(&limit),
        name,
        addresses,
        hcm: Arc::new(hcm),
        routes: Arc::new(routes),
        //= envoy: enable_reuse_port is true by default
        reuse_port: config.enable_reuse_port.is_none_or(|r| r.value),
        backlog: config.tcp_backlog_size.map(|b| b.value),
        direction: match config.traffic_direction {
            1 => Direction::Inbound,
            2 => Direction::Outbound,
            _ => Direction::Unspecified,
        },
        //= envoy: drain_type: DEFAULT
        drains_on_health: config.drain_type == 0,
        ignores_global_limit: config.ignore_global_conn_limit,
        bypasses_overload: config.bypass_overload_manager,
    })
}

fn listen_address(address: &core::Address, at: &At<'_>) -> Result<ListenAddress, Fault> {
    use core::address::Address as Kind;
    let (mode, ipv4_compat) = match &address.address {
        Some(Kind::Pipe(pipe)) => (pipe.mode, false),
        Some(Kind::SocketAddress(socket)) => (0, socket.ipv4_compat),
        _ => (0, false),
    };
    Ok(ListenAddress { address: values::known_place(address, at)?, ipv4_compat, mode })
}

/// The one chain of a listener.
fn chain(
    config: &listener::Listener,
    lookup: Lookup<'_>,
    address: &str,
    at: &At<'_>,
) -> Result<(Hcm, RouteTable), Fault> {
    let (chain, here) = match (config.filter_chains.as_slice(), &config.default_filter_chain) {
        ([one], None) => (one, at.item(MESSAGE, "filter_chains", 0)),
        ([], Some(one)) => (one, at.field(MESSAGE, "default_filter_chain")),
        ([], None) => {
            return Err(at.refuse(format!("error adding listener '{address}': no filter chains specified")));
        }
        _ => {
            let here = at.item(MESSAGE, "filter_chains", 1);
            return Err(here.refuse("more than one filter chain is not implemented yet"));
        }
    };
    let [filter] = chain.filters.as_slice() else {
        let here = here.field("FilterChain", "filters");
        return Err(
            here.refuse("exactly one network filter, the HTTP connection manager, is implemented yet")
        );
    };
    let filter_at = here.item("FilterChain", "filters", 0);
    if filter.name.is_empty() {
        let name = filter_at.field("Filter", "name");
        return Err(name.violates("value length must be at least 1 characters"));
    }
    let inner = filter_at.field("Filter", "typed_config").unpacked();
    let Some(listener::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Err(filter_at.refuse(format!(
            "Didn't find a registered implementation for '{}' with type URL: ''",
            filter.name
        )));
    };
    if values::type_name(any) != HCM {
        return Err(inner.refuse(format!("{} is not implemented yet", values::type_name(any))));
    }
    let config: pb_hcm::HttpConnectionManager = values::unpack(any, &inner)?;
    hcm::compile(&config, lookup, &inner)
}
