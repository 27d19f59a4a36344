//! `/config_dump`: the configuration in use, as `envoy.admin.v3.ConfigDump` in JSON.
//!
//! The descriptors of the API are loaded for one answer and dropped again. Fields annotated as sensitive are hidden.

use ::regex::bytes::Regex;
use envoy_types::pb::envoy::admin::v3 as dump;
use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{Any, Timestamp, UInt32Value};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions, Value};
use selvedge_runtime::SocketAddress;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::Admin;
use super::mask::{Mask, redact};
use super::query::Query;
use super::reply::{BARE_TEXT, JSON, Reply};
use crate::config::bootstrap::descriptors;
use crate::config::cluster::ClusterKind;
use crate::config::endpoint::ConfiguredHealth;
use crate::config::regex;
use crate::upstream::cluster::ClusterShared;
use crate::upstream::endpoint::EndpointShared;

pub(super) fn config_dump(admin: &Admin, query: &Query) -> Reply {
    let reply = answer(admin, query).unwrap_or_else(|fault| fault);
    // The descriptors took 17 MB.
    selvedge_runtime::memory::give_back();
    reply
}

fn fault(status: u16, text: String) -> Reply {
    Reply::new(status, BARE_TEXT, text)
}

fn answer(admin: &Admin, query: &Query) -> Result<Reply, Reply> {
    let name = query.filled("name_regex").map(regex::whole).transpose().map_err(|e| {
        let pattern = query.get("name_regex").unwrap_or_default();
        fault(400, format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {e}"))
    })?;
    let mask = query.filled("mask").map(Mask::parse);
    let pool = descriptors();
    let configs = collect(admin, name.as_ref(), query.has("include_eds"));
    let mut shown = Vec::new();
    if let Some(resource) = query.filled("resource") {
        for mut element in elements(&configs, resource, &pool)? {
            if let Some(mask) = &mask {
                if !mask.fits(&element.descriptor()) {
                    let text = query.get("mask").unwrap_or_default();
                    let text = format!("FieldMask paths: \"{text}\"\n could not be successfully used.");
                    return Err(fault(400, text));
                }
                mask.apply(&mut element, &pool);
            }
            shown.push(element);
        }
    } else {
        shown = configs.iter().filter_map(|any| decoded(any, &pool)).collect();
        if let Some(mask) = &mask {
            shown.retain(|m| mask.fits(&m.descriptor()));
            if shown.is_empty() {
                let text = query.get("mask").unwrap_or_default();
                let text = format!("FieldMask {text} could not be successfully applied to any configs.");
                return Err(fault(400, text));
            }
            shown.iter_mut().for_each(|m| mask.apply(m, &pool));
        }
    }
    let mut whole = dump::ConfigDump::default();
    for message in &mut shown {
        redact(message, &pool);
        whole.configs.push(Any {
            type_url: type_url(message.descriptor().full_name()),
            value: message.encode_to_vec(),
        });
    }
    Ok(Reply::new(200, JSON, json(&whole, &pool)?))
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

fn decoded(any: &Any, pool: &DescriptorPool) -> Option<DynamicMessage> {
    let desc = pool.get_message_by_name(any.type_url.rsplit('/').next()?)?;
    DynamicMessage::decode(desc, &any.value[..]).ok()
}

/// The elements of the one repeated field of that name.
fn elements(configs: &[Any], resource: &str, pool: &DescriptorPool) -> Result<Vec<DynamicMessage>, Reply> {
    for message in configs.iter().filter_map(|any| decoded(any, pool)) {
        let Some(field) = message.descriptor().get_field_by_name(resource) else { continue };
        if !field.is_list() {
            return Err(fault(
                400,
                format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field"),
            ));
        }
        let value = message.get_field(&field);
        let list = value.as_list().unwrap_or_default();
        return Ok(list.iter().filter_map(Value::as_message).cloned().collect());
    }
    Err(fault(404, format!("{resource} not found in config dump")))
}

fn json(whole: &dump::ConfigDump, pool: &DescriptorPool) -> Result<String, Reply> {
    let broken = |e: &dyn std::fmt::Display| fault(500, format!("the configuration cannot be shown: {e}\n"));
    let desc =
        pool.get_message_by_name("envoy.admin.v3.ConfigDump").ok_or_else(|| broken(&"no descriptor"))?;
    let message = DynamicMessage::decode(desc, &whole.encode_to_vec()[..]).map_err(|e| broken(&e))?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    message.serialize_with_options(&mut serializer, &options).map_err(|e| broken(&e))?;
    out.push(b'\n');
    String::from_utf8(out).map_err(|e| broken(&e))
}

/// Every part of the dump, in Envoy's order.
fn collect(admin: &Admin, name: Option<&Regex>, with_endpoints: bool) -> Vec<Any> {
    let mut bootstrap = Bootstrap::decode(&*admin.state.bootstrap_bytes).unwrap_or_default();
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let wanted = |text: &str| name.is_none_or(|n| n.is_match(text.as_bytes()));
    let at = timestamp(admin);
    bootstrap.node = Some(admin.node.clone());
    let mut clusters = dump::ClustersConfigDump::default();
    for cluster in resources.clusters.iter().filter(|c| wanted(&c.name)) {
        let cluster = Some(packed(cluster));
        clusters
            .static_clusters
            .push(dump::clusters_config_dump::StaticCluster { cluster, last_updated: at });
    }
    let mut listeners = dump::ListenersConfigDump::default();
    for listener in resources.listeners.iter().filter(|l| wanted(&l.name)) {
        let listener = Some(packed(listener));
        listeners
            .static_listeners
            .push(dump::listeners_config_dump::StaticListener { listener, last_updated: at });
    }
    let mut routes = dump::RoutesConfigDump::default();
    for route in resources.listeners.iter().flat_map(inline_routes).filter(|r| wanted(&r.name)) {
        let route_config = Some(packed(&route));
        routes
            .static_route_configs
            .push(dump::routes_config_dump::StaticRouteConfig { route_config, last_updated: at });
    }
    let mut out = vec![
        packed(&dump::BootstrapConfigDump { bootstrap: Some(bootstrap), last_updated: at }),
        packed(&clusters),
    ];
    if with_endpoints {
        out.push(packed(&endpoints(admin, &wanted)));
    }
    out.extend([
        packed(&listeners),
        packed(&dump::ScopedRoutesConfigDump::default()),
        packed(&routes),
        packed(&dump::SecretsConfigDump::default()),
    ]);
    out
}

fn packed<M: Message + Name>(message: &M) -> Any {
    Any { type_url: type_url(&M::full_name()), value: message.encode_to_vec() }
}

fn timestamp(admin: &Admin) -> Option<Timestamp> {
    let since = admin.state.started_wall.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    let millis = i32::try_from(since.subsec_millis()).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: millis * 1_000_000 })
}

/// The route configurations that stand within a listener's connection managers.
fn inline_routes(listener: &listener::Listener) -> Vec<RouteConfiguration> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let filters = chains.flat_map(|chain| &chain.filters);
    let managers = filters.filter_map(|filter| match &filter.config_type {
        Some(listener::filter::ConfigType::TypedConfig(any)) if any.type_url.ends_with(MANAGER) => {
            hcm::HttpConnectionManager::decode(&any.value[..]).ok()
        }
        _ => None,
    });
    let routes = managers.filter_map(|manager| match manager.route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)) => Some(routes),
        _ => None,
    });
    routes.collect()
}

const MANAGER: &str = ".http_connection_manager.v3.HttpConnectionManager";

/// The endpoints in use, names resolved.
fn endpoints(admin: &Admin, wanted: &dyn Fn(&str) -> bool) -> dump::EndpointsConfigDump {
    let mut out = dump::EndpointsConfigDump::default();
    for cluster in admin.state.process.epoch().clusters.iter().filter(|c| wanted(&c.config.name)) {
        let endpoint_config = Some(packed(&assignment(cluster)));
        out.static_endpoint_configs
            .push(dump::endpoints_config_dump::StaticEndpointConfig { endpoint_config, last_updated: None });
    }
    out
}

fn assignment(cluster: &ClusterShared) -> endpoint::ClusterLoadAssignment {
    let mut localities: Vec<endpoint::LocalityLbEndpoints> = Vec::new();
    let resolved = cluster.config.kind != ClusterKind::Static;
    for host in cluster.endpoints().iter() {
        let locality = core::Locality {
            region: host.region.to_string(),
            zone: host.zone.to_string(),
            sub_zone: host.sub_zone.to_string(),
        };
        let own = |l: &endpoint::LocalityLbEndpoints| {
            l.priority == host.priority && l.locality.as_ref() == Some(&locality)
        };
        let at = localities.iter().position(own).unwrap_or_else(|| {
            localities.push(endpoint::LocalityLbEndpoints {
                locality: Some(locality.clone()),
                priority: host.priority,
                load_balancing_weight: Some(UInt32Value { value: host.locality_weight }),
                ..endpoint::LocalityLbEndpoints::default()
            });
            localities.len() - 1
        });
        let mut own = lb_endpoint(host);
        // envoy: endpoints that were resolved have metadata, empty or not
        let configured = host.metadata.as_deref().cloned();
        own.metadata = configured.or_else(|| resolved.then(core::Metadata::default));
        localities[at].lb_endpoints.push(own);
    }
    //= envoy: localities stand by their names
    let key = |l: &endpoint::LocalityLbEndpoints| {
        let place = l.locality.clone().unwrap_or_default();
        (l.priority, place.region, place.zone, place.sub_zone)
    };
    localities.sort_by_key(key);
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.config.name.to_string(),
        endpoints: localities,
        policy: Some(endpoint::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(UInt32Value { value: cluster.config.overprovisioning_factor }),
            ..Default::default()
        }),
        ..endpoint::ClusterLoadAssignment::default()
    }
}

fn lb_endpoint(host: &EndpointShared) -> endpoint::LbEndpoint {
    let address = match &host.address {
        SocketAddress::Ip(ip) => core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(ip.port().into())),
            ..core::SocketAddress::default()
        }),
        SocketAddress::Unix(path) => {
            core::address::Address::Pipe(core::Pipe { path: path.to_string(), mode: 0 })
        }
    };
    let health = match host.health {
        ConfiguredHealth::Healthy => core::HealthStatus::Healthy,
        //= envoy: here, unlike in /clusters, one that drains is unhealthy
        ConfiguredHealth::Unhealthy | ConfiguredHealth::Draining => core::HealthStatus::Unhealthy,
        ConfiguredHealth::Degraded => core::HealthStatus::Degraded,
    };
    let endpoint = endpoint::Endpoint {
        address: Some(core::Address { address: Some(address) }),
        health_check_config: Some(endpoint::endpoint::HealthCheckConfig::default()),
        hostname: host.hostname.to_string(),
        ..endpoint::Endpoint::default()
    };
    endpoint::LbEndpoint {
        health_status: health.into(),
        load_balancing_weight: Some(UInt32Value { value: host.weight }),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..endpoint::LbEndpoint::default()
    }
}
