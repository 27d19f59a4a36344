//! Compiles what routes do: forward, redirect, reply.

#![expect(deprecated, reason = "the older forms of actions are part of the API")]

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use crate::config::matchers::rewrite_regex;
use crate::config::mutations::{lists, mutations, per_filter};
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values::{self, header_safe, refuse_set};
use crate::route::table::{
    ClusterId, Direct, Forward, HostRewrite, PathRewrite, Priority, Redirect, RedirectPath, RedirectScheme,
    RegexRewrite, Target, Upgrade, Weighted, WeightedEntry, WeightedTarget,
};

/// Bytes of a `direct_response` body unless the table says otherwise.
pub const DIRECT_BODY_BYTES_MAX: usize = 4096;
/// `route.timeout` unless set.
const TIMEOUT: Duration = Duration::from_secs(15);
const AT_LEAST_ONE: &str = "value length must be at least 1 characters";
const ENUM: &str = "value must be one of the defined enum values";

pub fn forward(
    action: &route::RouteAction,
    route_name: &str,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<Forward, Fault> {
    refuse_set!(
        at,
        "RouteAction",
        action,
        [
            metadata_match,
            path_rewrite_policy,
            path_rewrite,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_grpc_timeout,
            grpc_timeout_offset,
            flush_timeout
        ]
    );
    let max_stream_duration = match &action.max_stream_duration {
        None => None,
        Some(inner) => {
            let here = at.field("RouteAction", "max_stream_duration");
            refuse_set!(
                here,
                "MaxStreamDuration",
                inner,
                [grpc_timeout_header_max, grpc_timeout_header_offset]
            );
            values::overriding(inner.max_stream_duration.as_ref(), &here)?
        }
    };
    let cluster_not_found_status = match action.cluster_not_found_response_code {
        0 => 503,
        1 => 404,
        2 => 500,
        _ => return Err(at.field("RouteAction", "cluster_not_found_response_code").violates(ENUM)),
    };
    let priority = match action.priority {
        0 => Priority::Default,
        1 => Priority::High,
        _ => return Err(at.field("RouteAction", "priority").violates(ENUM)),
    };
    Ok(Forward {
        target: target(action, route_name, lookup, at)?,
        cluster_not_found_status,
        priority,
        path: path_rewrite(action, at)?,
        host: host_rewrite(action, at)?,
        append_x_forwarded_host: action.append_x_forwarded_host,
        timeout: values::timeout(
            action.timeout.as_ref(),
            Some(TIMEOUT),
            &at.field("RouteAction", "timeout"),
        )?,
        idle_timeout: values::overriding(
            action.idle_timeout.as_ref(),
            &at.field("RouteAction", "idle_timeout"),
        )?,
        max_stream_duration,
        upgrades: upgrades(&action.upgrade_configs, at)?,
    })
}

fn target(
    action: &route::RouteAction,
    route_name: &str,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<Target, Fault> {
    use route::route_action::ClusterSpecifier;
    Ok(match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            let here = at.field("RouteAction", "cluster");
            if name.is_empty() {
                return Err(here.violates(AT_LEAST_ONE));
            }
            let id = find(name, "cluster", lookup, &here)?;
            Target::Cluster { name: Arc::from(name.as_str()), id }
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            let here = at.field("RouteAction", "cluster_header");
            if name.is_empty() {
                return Err(here.violates(AT_LEAST_ONE));
            }
            header_safe(name, &here)?;
            Target::Header(name.to_ascii_lowercase().as_bytes().into())
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let here = at.field("RouteAction", "weighted_clusters");
            Target::Weighted(self::weighted(weighted, route_name, lookup, &here)?)
        }
        Some(
            ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_),
        ) => {
            return Err(at.field("RouteAction", "cluster_specifier_plugin").not_implemented());
        }
        None => return Err(at.lacks("cluster_specifier")),
    })
}

fn find(name: &str, what: &str, lookup: Lookup<'_>, at: &At<'_>) -> Result<Option<ClusterId>, Fault> {
    let id = lookup.clusters.find(name.as_bytes());
    if id.is_none() && lookup.validate_clusters {
        return Err(at.refuse(format!("route: unknown {what} '{name}'")));
    }
    Ok(id)
}

fn weighted(
    config: &route::WeightedCluster,
    route_name: &str,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<Weighted, Fault> {
    use route::weighted_cluster::RandomValueSpecifier;
    if config.clusters.is_empty() {
        return Err(at
            .field("WeightedCluster", "clusters")
            .violates("value must contain at least 1 item(s)"));
    }
    let random_header = match &config.random_value_specifier {
        None => None,
        Some(RandomValueSpecifier::HeaderName(name)) => Some(name.to_ascii_lowercase().as_bytes().into()),
        Some(RandomValueSpecifier::UseHashPolicy(_)) => {
            return Err(at.field("WeightedCluster", "use_hash_policy").not_implemented());
        }
    };
    let mut total = 0_u64;
    let mut entries = Vec::new();
    for (i, cluster) in config.clusters.iter().enumerate() {
        let here = at.item("WeightedCluster", "clusters", i);
        let mut entry = weighted_entry(cluster, lookup, &here)?;
        let configured = cluster.weight.as_ref().map_or(0, |w| u64::from(w.value));
        let key = format!("{}.{}", config.runtime_key_prefix, cluster.name);
        let weight = match config.runtime_key_prefix.as_str() {
            "" => configured,
            _ => lookup.runtime.integer(&key).unwrap_or(configured),
        };
        total += weight;
        entry.upto = total;
        entries.push(entry);
    }
    if total > u64::from(u32::MAX) {
        return Err(at.refuse(format!(
            "The sum of weights of all weighted clusters of route {route_name} exceeds {}",
            u32::MAX
        )));
    }
    if total == 0 {
        return Err(at.refuse("Sum of weights in the weighted_cluster must be greater than 0."));
    }
    Ok(Weighted { total, entries, random_header })
}

fn weighted_entry(
    cluster: &route::weighted_cluster::ClusterWeight,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<WeightedEntry, Fault> {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    const MESSAGE: &str = "ClusterWeight";
    refuse_set!(at, "ClusterWeight", cluster, [metadata_match]);
    let target = match (cluster.name.as_str(), cluster.cluster_header.as_str()) {
        ("", "") => return Err(at.refuse("At least one of name or cluster_header need to be specified")),
        (name, "") => {
            let id = find(name, "weighted cluster", lookup, &at.field(MESSAGE, "name"))?;
            WeightedTarget::Cluster { name: Arc::from(name), id }
        }
        ("", header) => WeightedTarget::Header(header.to_ascii_lowercase().as_bytes().into()),
        _ => return Err(at.refuse("Only one of name or cluster_header can be specified")),
    };
    let host_rewrite = match &cluster.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            header_safe(host, &at.field(MESSAGE, "host_rewrite_literal"))?;
            Some(host).filter(|h| !h.is_empty()).map(|h| h.as_bytes().into())
        }
        None => None,
    };
    Ok(WeightedEntry {
        upto: 0,
        target,
        mutations: mutations(lists!("ClusterWeight", cluster), at)?,
        host_rewrite,
        per_filter: per_filter(&cluster.typed_per_filter_config, lookup, MESSAGE, at)?,
    })
}

fn path_rewrite(action: &route::RouteAction, at: &At<'_>) -> Result<PathRewrite, Fault> {
    header_safe(&action.prefix_rewrite, &at.field("RouteAction", "prefix_rewrite"))?;
    Ok(match (&action.prefix_rewrite, &action.regex_rewrite) {
        (prefix, Some(_)) if !prefix.is_empty() => {
            return Err(at.refuse("Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy"));
        }
        (_, Some(rewrite)) => {
            PathRewrite::Regex(regex_rewrite(rewrite, &at.field("RouteAction", "regex_rewrite"))?)
        }
        (prefix, None) if !prefix.is_empty() => PathRewrite::Matched(prefix.as_bytes().into()),
        _ => PathRewrite::Keep,
    })
}

fn host_rewrite(action: &route::RouteAction, at: &At<'_>) -> Result<HostRewrite, Fault> {
    use route::route_action::HostRewriteSpecifier as Spec;
    Ok(match &action.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(Spec::HostRewriteLiteral(host)) => {
            header_safe(host, &at.field("RouteAction", "host_rewrite_literal"))?;
            if host.is_empty() { HostRewrite::Keep } else { HostRewrite::Literal(host.as_bytes().into()) }
        }
        Some(Spec::AutoHostRewrite(auto)) if auto.value => HostRewrite::Auto,
        Some(Spec::AutoHostRewrite(_)) => HostRewrite::Keep,
        Some(Spec::HostRewriteHeader(name)) => {
            header_safe(name, &at.field("RouteAction", "host_rewrite_header"))?;
            if name.is_empty() {
                HostRewrite::Keep
            } else {
                HostRewrite::Header(name.to_ascii_lowercase().as_bytes().into())
            }
        }
        Some(Spec::HostRewritePathRegex(rewrite)) => HostRewrite::PathRegex(regex_rewrite(
            rewrite,
            &at.field("RouteAction", "host_rewrite_path_regex"),
        )?),
        Some(Spec::HostRewrite(_)) => return Err(at.field("RouteAction", "host_rewrite").not_implemented()),
    })
}

fn regex_rewrite(config: &matcher::RegexMatchAndSubstitute, at: &At<'_>) -> Result<RegexRewrite, Fault> {
    let here = at.field("RegexMatchAndSubstitute", "pattern");
    let Some(pattern) = &config.pattern else { return Err(here.violates("value is required")) };
    header_safe(&config.substitution, &at.field("RegexMatchAndSubstitute", "substitution"))?;
    Ok(RegexRewrite::new(rewrite_regex(pattern, &here)?, &config.substitution))
}

fn upgrades(list: &[route::route_action::UpgradeConfig], at: &At<'_>) -> Result<Vec<Upgrade>, Fault> {
    let mut out: Vec<Upgrade> = Vec::new();
    for (i, config) in list.iter().enumerate() {
        let here = at.item("RouteAction", "upgrade_configs", i);
        refuse_set!(here, "UpgradeConfig", config, [connect_config]);
        let upgrade_type = here.field("UpgradeConfig", "upgrade_type");
        if config.upgrade_type.is_empty() {
            return Err(upgrade_type.violates(AT_LEAST_ONE));
        }
        header_safe(&config.upgrade_type, &upgrade_type)?;
        let protocol: Box<[u8]> = config.upgrade_type.to_ascii_lowercase().as_bytes().into();
        if out.iter().any(|u| u.protocol == protocol) {
            return Err(here.refuse(format!("Duplicate upgrade {}", config.upgrade_type)));
        }
        out.push(Upgrade { protocol, enabled: config.enabled.as_ref().is_none_or(|e| e.value) });
    }
    Ok(out)
}

pub fn redirect(config: &route::RedirectAction, at: &At<'_>) -> Result<Redirect, Fault> {
    use route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    const MESSAGE: &str = "RedirectAction";
    header_safe(&config.host_redirect, &at.field(MESSAGE, "host_redirect"))?;
    let scheme = match &config.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => RedirectScheme::Https,
        Some(SchemeRewriteSpecifier::SchemeRedirect(name)) if !name.is_empty() => {
            RedirectScheme::Named(name.as_bytes().into())
        }
        _ => RedirectScheme::Keep,
    };
    let path = match &config.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            header_safe(path, &at.field(MESSAGE, "path_redirect"))?;
            if path.is_empty() { RedirectPath::Keep } else { RedirectPath::Whole(path.as_bytes().into()) }
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            header_safe(prefix, &at.field(MESSAGE, "prefix_rewrite"))?;
            if prefix.is_empty() {
                RedirectPath::Keep
            } else {
                RedirectPath::Matched(prefix.as_bytes().into())
            }
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            RedirectPath::Regex(regex_rewrite(rewrite, &at.field(MESSAGE, "regex_rewrite"))?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(at.field(MESSAGE, "path_rewrite").not_implemented());
        }
        None => RedirectPath::Keep,
    };
    let status = match config.response_code {
        0 => 301,
        1 => 302,
        2 => 303,
        3 => 307,
        4 => 308,
        _ => return Err(at.field(MESSAGE, "response_code").violates(ENUM)),
    };
    Ok(Redirect {
        status,
        scheme,
        host: (!config.host_redirect.is_empty()).then(|| config.host_redirect.as_bytes().into()),
        port: (config.port_redirect != 0).then_some(config.port_redirect),
        path,
        strip_query: config.strip_query,
    })
}

pub fn direct(config: &route::DirectResponseAction, bytes_max: usize, at: &At<'_>) -> Result<Direct, Fault> {
    refuse_set!(at, "DirectResponseAction", config, [body_format]);
    let status = match u16::try_from(config.status) {
        Ok(status @ 200..600) => status,
        _ => {
            let here = at.field("DirectResponseAction", "status");
            return Err(here.violates("value must be inside range [200, 600)"));
        }
    };
    let body = match &config.body {
        None => Vec::new(),
        Some(source) => data(source, bytes_max, &at.field("DirectResponseAction", "body"))?,
    };
    if body.len() > bytes_max {
        let here = at.field("DirectResponseAction", "body");
        return Err(
            here.refuse(format!("response body size is {} bytes; maximum is {bytes_max}", body.len()))
        );
    }
    Ok(Direct { status, body: body.into() })
}

/// The bytes of a data source: at most one more than `bytes_max` of a file.
pub fn data(source: &core::DataSource, bytes_max: usize, at: &At<'_>) -> Result<Vec<u8>, Fault> {
    use core::data_source::Specifier;
    refuse_set!(at, "DataSource", source, [watched_directory]);
    match &source.specifier {
        None => Err(at.lacks("specifier")),
        Some(Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(Specifier::Filename(name)) => {
            if name.is_empty() {
                return Err(at.field("DataSource", "filename").violates(AT_LEAST_ONE));
            }
            let Ok(file) = File::open(name) else {
                return Err(at.refuse(format!("file {name} does not exist")));
            };
            let size = file.metadata().map_or(0, |m| m.len());
            if size > bytes_max as u64 {
                return Err(at.refuse(format!("file {name} size is {size} bytes; maximum is {bytes_max}")));
            }
            let mut bytes = Vec::new();
            match file.take(bytes_max as u64 + 1).read_to_end(&mut bytes) {
                Ok(_) => Ok(bytes),
                Err(_) => Err(at.refuse(format!("unable to read file: {name}"))),
            }
        }
        Some(Specifier::EnvironmentVariable(name)) => {
            if name.is_empty() {
                return Err(at.field("DataSource", "environment_variable").violates(AT_LEAST_ONE));
            }
            match std::env::var(name) {
                Ok(value) => Ok(value.into_bytes()),
                Err(_) => Err(at.refuse(format!("Environment variable doesn't exist: {name}"))),
            }
        }
    }
}
