//! Compiles route configurations.

#![expect(deprecated, reason = "older fields are part of the API")]

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as route;

use crate::config::matchers::route_match;
use crate::config::mutations::{lists, mutations, per_filter};
use crate::config::rejection::{At, Fault};
use crate::config::route_action::{self, DIRECT_BODY_BYTES_MAX};
use crate::config::runtime_values::RuntimeValues;
use crate::config::snapshot::ClusterNames;
use crate::config::values::refuse_set;
use crate::route::pick::{DomainIndex, PathIndex};
use crate::route::table::{Action, RequireTls, Route, RouteTable, VirtualHost};

/// What routes are compiled against.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    pub clusters: &'a ClusterNames,
    pub runtime: &'a RuntimeValues,
    /// A route to an unknown cluster is refused; without this, such requests get a reply when they come.
    pub validate_clusters: bool,
    pub direct_body_bytes_max: usize,
}

impl<'a> Lookup<'a> {
    pub fn new(clusters: &'a ClusterNames, runtime: &'a RuntimeValues) -> Lookup<'a> {
        Lookup { clusters, runtime, validate_clusters: true, direct_body_bytes_max: DIRECT_BODY_BYTES_MAX }
    }
}

const MESSAGE: &str = "RouteConfiguration";

/// Compiles a route configuration. `at` is the field that holds it.
pub fn table(
    config: &route::RouteConfiguration,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<RouteTable, Fault> {
    refuse_set!(
        at,
        "RouteConfiguration",
        config,
        [vhds, cluster_specifier_plugins, request_mirror_policies, vhost_header, route_specifiers]
    );
    refuse_set!(
        at,
        "RouteConfiguration",
        config,
        [internal_only_headers, ignore_path_parameters_in_path_matching]
    );
    let mut lookup = lookup;
    //= envoy: validate_clusters: true by default for a table inside a listener
    if let Some(validate) = &config.validate_clusters {
        lookup.validate_clusters = validate.value;
    }
    if let Some(bytes) = &config.max_direct_response_body_size_bytes {
        lookup.direct_body_bytes_max = bytes.value as usize;
    }
    let mut hosts = Vec::new();
    for (i, host) in config.virtual_hosts.iter().enumerate() {
        hosts.push(virtual_host(host, lookup, &at.item(MESSAGE, "virtual_hosts", i))?);
    }
    Ok(RouteTable {
        name: Arc::from(config.name.as_str()),
        hosts,
        domains: domains(config, at)?,
        ignore_port_in_host: config.ignore_port_in_host_matching,
        mutations: mutations(lists!("RouteConfiguration", config), at)?,
        most_specific_wins: config.most_specific_header_mutations_wins,
        per_filter: per_filter(&config.typed_per_filter_config, lookup, MESSAGE, at)?,
    })
}

fn domains(config: &route::RouteConfiguration, at: &At<'_>) -> Result<DomainIndex, Fault> {
    let mut all = Vec::new();
    for (i, (host, number)) in config.virtual_hosts.iter().zip(0_u32..).enumerate() {
        let here = at.item(MESSAGE, "virtual_hosts", i);
        all.extend(host.domains.iter().map(|d| (d.to_ascii_lowercase(), number)));
        if host.domains.iter().any(String::is_empty) {
            return Err(here.field("VirtualHost", "domains").refuse("an empty domain matches nothing"));
        }
    }
    let mut sorted: Vec<&(String, u32)> = all.iter().collect();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let (domain, number) = pair[1];
        let item = at.item(MESSAGE, "virtual_hosts", *number as usize);
        let here = item.field("VirtualHost", "domains");
        return Err(here.refuse(if domain == "*" {
            format!("Only a single wildcard domain is permitted in route {}", config.name)
        } else {
            format!(
                "Only unique values for domains are permitted. Duplicate entry of domain {domain} in route {}",
                config.name
            )
        }));
    }
    Ok(DomainIndex::new(all))
}

fn virtual_host(host: &route::VirtualHost, lookup: Lookup<'_>, at: &At<'_>) -> Result<VirtualHost, Fault> {
    const MESSAGE: &str = "VirtualHost";
    if host.name.is_empty() {
        return Err(at.field(MESSAGE, "name").violates("value length must be at least 1 characters"));
    }
    if host.domains.is_empty() {
        return Err(at.field(MESSAGE, "domains").violates("value must contain at least 1 item(s)"));
    }
    refuse_set!(
        at,
        "VirtualHost",
        host,
        [
            matcher,
            virtual_clusters,
            rate_limits,
            cors,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            request_mirror_policies,
            route_specifiers
        ]
    );
    let mut routes = Vec::new();
    for (i, one) in host.routes.iter().enumerate() {
        routes.push(route(one, lookup, &at.item(MESSAGE, "routes", i))?);
    }
    Ok(VirtualHost {
        name: Arc::from(host.name.as_str()),
        paths: PathIndex::new(routes.iter().map(|r| &r.matcher.path)),
        routes,
        require_tls: match host.require_tls {
            0 => RequireTls::None,
            1 => RequireTls::ExternalOnly,
            2 => RequireTls::All,
            _ => {
                let here = at.field(MESSAGE, "require_tls");
                return Err(here.violates("value must be one of the defined enum values"));
            }
        },
        mutations: mutations(lists!("VirtualHost", host), at)?,
        per_filter: per_filter(&host.typed_per_filter_config, lookup, MESSAGE, at)?,
    })
}

fn route(one: &route::Route, lookup: Lookup<'_>, at: &At<'_>) -> Result<Route, Fault> {
    const MESSAGE: &str = "Route";
    refuse_set!(at, "Route", one, [tracing, route_specifiers]);
    let rule_at = at.field(MESSAGE, "match");
    let Some(rule) = &one.r#match else { return Err(rule_at.violates("value is required")) };
    let matcher = route_match(rule, lookup.runtime, &rule_at)?;
    let action = match &one.action {
        Some(route::route::Action::Route(forward)) => {
            let here = at.field(MESSAGE, "route");
            Action::Forward(Box::new(route_action::forward(forward, &one.name, lookup, &here)?))
        }
        Some(route::route::Action::Redirect(redirect)) => {
            let here = at.field(MESSAGE, "redirect");
            Action::Redirect(Box::new(route_action::redirect(redirect, &here)?))
        }
        Some(route::route::Action::DirectResponse(direct)) => {
            let here = at.field(MESSAGE, "direct_response");
            Action::Direct(route_action::direct(direct, lookup.direct_body_bytes_max, &here)?)
        }
        Some(route::route::Action::FilterAction(_)) => {
            return Err(at.field(MESSAGE, "filter_action").not_implemented());
        }
        Some(route::route::Action::NonForwardingAction(_)) => {
            return Err(at.field(MESSAGE, "non_forwarding_action").not_implemented());
        }
        None => return Err(at.lacks("action")),
    };
    if one.decorator.as_ref().is_some_and(|d| d.operation.is_empty()) {
        let here = at.field(MESSAGE, "decorator");
        return Err(here
            .field("Decorator", "operation")
            .violates("value length must be at least 1 characters"));
    }
    Ok(Route {
        name: Arc::from(one.name.as_str()),
        matcher,
        action,
        mutations: mutations(lists!("Route", one), at)?,
        per_filter: per_filter(&one.typed_per_filter_config, lookup, MESSAGE, at)?,
    })
}
