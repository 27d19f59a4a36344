//! Compiles load assignments.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::google::protobuf::value::Kind;
use selvedge_runtime::SocketAddress;

use crate::config::rejection::{At, Fault};
use crate::config::values::{self, Place, refuse_set};

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
    /// For dumps; of it only `envoy.lb: {canary: true}` is read.
    pub metadata: Option<Arc<core::Metadata>>,
}

impl Endpoint {
    //= envoy: the endpoint's metadata envoy.lb says whether it is a canary
    pub fn is_canary(&self) -> bool {
        let fields = self.metadata.as_ref().and_then(|m| m.filter_metadata.get("envoy.lb"));
        let value = fields.and_then(|s| s.fields.get("canary")?.kind.as_ref());
        matches!(value, Some(Kind::BoolValue(true)))
    }
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
    /// Gets nothing, and does not count when it is asked how many are healthy.
    Draining,
}

const MESSAGE: &str = "ClusterLoadAssignment";

/// Compiles a load assignment. `at` is the field that holds it; `names`: endpoints may be names to resolve.
pub fn assignment(
    config: &endpoint::ClusterLoadAssignment,
    names: bool,
    at: &At<'_>,
) -> Result<Vec<LocalityEndpoints>, Fault> {
    if config.cluster_name.is_empty() {
        return Err(at.field(MESSAGE, "cluster_name").violates("value length must be at least 1 characters"));
    }
    refuse_set!(at, "ClusterLoadAssignment", config, [named_endpoints]);
    if let Some(policy) = &config.policy {
        let here = at.field(MESSAGE, "policy");
        refuse_set!(here, "Policy", policy, [drop_overloads, weighted_priority_health]);
    }
    let mut out = Vec::new();
    for (i, locality) in config.endpoints.iter().enumerate() {
        out.push(self::locality(locality, names, &at.item(MESSAGE, "endpoints", i))?);
    }
    Ok(out)
}

fn locality(
    config: &endpoint::LocalityLbEndpoints,
    names: bool,
    at: &At<'_>,
) -> Result<LocalityEndpoints, Fault> {
    const MESSAGE: &str = "LocalityLbEndpoints";
    refuse_set!(at, "LocalityLbEndpoints", config, [lb_config]);
    let priority = at.field(MESSAGE, "priority");
    if config.priority > 128 {
        return Err(priority.violates("value must be less than or equal to 128"));
    }
    if config.priority > 0 {
        return Err(priority.not_implemented());
    }
    if config.load_balancing_weight.as_ref().is_some_and(|w| w.value == 0) {
        let here = at.field(MESSAGE, "load_balancing_weight");
        return Err(here.violates("value must be greater than or equal to 1"));
    }
    let mut endpoints = Vec::new();
    for (i, one) in config.lb_endpoints.iter().enumerate() {
        endpoints.push(lb_endpoint(one, names, &at.item(MESSAGE, "lb_endpoints", i))?);
    }
    let place = config.locality.as_ref();
    let text = |field: fn(&envoy_types::pb::envoy::config::core::v3::Locality) -> &String| -> Arc<str> {
        Arc::from(place.map_or("", |l| field(l)))
    };
    Ok(LocalityEndpoints {
        region: text(|l| &l.region),
        zone: text(|l| &l.zone),
        sub_zone: text(|l| &l.sub_zone),
        priority: config.priority,
        weight: config.load_balancing_weight.as_ref().map(|w| w.value),
        endpoints,
    })
}

fn lb_endpoint(config: &endpoint::LbEndpoint, names: bool, at: &At<'_>) -> Result<Endpoint, Fault> {
    use endpoint::lb_endpoint::HostIdentifier;
    const MESSAGE: &str = "LbEndpoint";
    let weight = config.load_balancing_weight.as_ref().map_or(1, |w| w.value);
    if weight == 0 {
        let here = at.field(MESSAGE, "load_balancing_weight");
        return Err(here.violates("value must be greater than or equal to 1"));
    }
    let health = match config.health_status {
        // UNKNOWN, HEALTHY
        0 | 1 => ConfiguredHealth::Healthy,
        // UNHEALTHY, TIMEOUT
        2 | 4 => ConfiguredHealth::Unhealthy,
        3 => ConfiguredHealth::Draining,
        5 => ConfiguredHealth::Degraded,
        _ => {
            let here = at.field(MESSAGE, "health_status");
            return Err(here.violates("value must be one of the defined enum values"));
        }
    };
    let here = at.field(MESSAGE, "endpoint");
    let endpoint = match &config.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(at.field(MESSAGE, "endpoint_name").not_implemented());
        }
        None => return Err(here.refuse("Address must be set")),
    };
    refuse_set!(here, "Endpoint", endpoint, [additional_addresses]);
    let address_at = here.field("Endpoint", "address");
    let Some(address) = &endpoint.address else { return Err(address_at.refuse("Address must be set")) };
    let target = match values::place(address, &address_at)? {
        Place::Known(SocketAddress::Unix(_)) if names => {
            return Err(address_at.refuse("STRICT_DNS clusters must NOT have a custom resolver name set"));
        }
        Place::Known(address) => EndpointTarget::Address(address),
        Place::Name { host, port } if names => EndpointTarget::Name { host: Arc::from(host), port },
        Place::Name { host, .. } => {
            return Err(address_at.refuse(format!(
                "malformed IP address: {host}. Consider setting resolver_name or setting cluster type to \
                 'STRICT_DNS' or 'LOGICAL_DNS'"
            )));
        }
    };
    let hostname = match &target {
        EndpointTarget::Name { host, .. } if endpoint.hostname.is_empty() => Arc::clone(host),
        _ => Arc::from(endpoint.hostname.as_str()),
    };
    let metadata = config.metadata.clone().map(Arc::new);
    Ok(Endpoint { target, hostname, weight, health, metadata })
}
