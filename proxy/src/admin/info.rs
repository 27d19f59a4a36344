//! `/server_info`, `/memory`, `/certs`, `/hot_restart_version` and other short facts of the process.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
use serde_json::{Map, Value, json};

use super::query::Query;
use super::reply::Reply;
use super::{Admin, AdminState, extensions};
use crate::args::{DrainStrategy, IpVersion, Mode};
use crate::version;

/// Who this process is, as control planes and `/config_dump` see it.
pub(super) fn node(state: &AdminState, mut node: core::Node) -> core::Node {
    let epoch = state.process.epoch();
    let known = &epoch.snapshot.node;
    node.id.clone_from(&known.id);
    node.cluster.clone_from(&known.cluster);
    if node.locality.is_some() || !known.zone.is_empty() {
        node.locality.get_or_insert_default().zone.clone_from(&known.zone);
    }
    version::USER_AGENT.clone_into(&mut node.user_agent_name);
    node.user_agent_version_type = Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build()));
    node.extensions = extensions::messages(&state.options.disabled_extensions);
    node
}

/// Our own name stands in the metadata: readers of the version look at its numbers alone.
fn build() -> core::BuildVersion {
    let numbers: Vec<u32> = version::ENVOY.split('.').filter_map(|n| n.parse().ok()).collect();
    let part = |at: usize| numbers.get(at).copied().unwrap_or(0);
    let fields: HashMap<String, PbValue> = METADATA
        .iter()
        .map(|(k, v)| ((*k).to_owned(), PbValue { kind: Some(Kind::StringValue((*v).to_owned())) }))
        .collect();
    core::BuildVersion {
        version: Some(envoy_types::pb::envoy::r#type::v3::SemanticVersion {
            major_number: part(0),
            minor_number: part(1),
            patch: part(2),
        }),
        metadata: Some(Struct { fields }),
    }
}

const METADATA: [(&str, &str); 5] = [
    ("revision.sha", version::REVISION),
    ("build.type", version::TYPE),
    ("revision.status", version::STATUS),
    ("ssl.version", version::TLS),
    (version::NAME, version::VERSION),
];

/// As `envoy.admin.v3.ServerInfo`, with every field, in Envoy's order.
pub(super) fn server_info(admin: &Admin, _: &Query) -> Reply {
    let state = &admin.state;
    let uptime = seconds(Duration::from_secs(state.started.elapsed().as_secs()));
    Reply::json(&json!({
        "version": version::line(),
        "state": admin.state_name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": hot_restart(state),
        "command_line_options": command_line(state),
        "node": node_json(&admin.node),
        "hot_restart_initializing": false,
    }))
}

fn hot_restart(state: &AdminState) -> &'static str {
    if state.options.disable_hot_restart { "disabled" } else { version::HOT_RESTART }
}

/// A duration in the JSON of messages.
fn seconds(d: Duration) -> String {
    match d.subsec_millis() {
        0 => format!("{}s", d.as_secs()),
        ms => format!("{}.{ms:03}s", d.as_secs()),
    }
}

fn command_line(state: &AdminState) -> Value {
    let o = &state.options;
    let concurrency = o.concurrency.map_or_else(selvedge_runtime::cpu::available_cores, |n| n as usize);
    json!({
        "base_id": o.base_id.to_string(),
        "concurrency": concurrency,
        "config_path": o.config_path,
        "config_yaml": o.config_yaml,
        "allow_unknown_static_fields": o.allow_unknown_static_fields,
        "admin_address_path": o.admin_address_path,
        "local_address_ip_version": match o.local_address_ip_version {
            IpVersion::V4 => "v4",
            IpVersion::V6 => "v6",
        },
        "log_level": o.log_level.name(),
        "component_log_level": o.component_log_level,
        "log_format": o.log_format,
        "log_path": o.log_path,
        "service_cluster": o.service_cluster,
        "service_node": o.service_node,
        "service_zone": o.service_zone,
        "file_flush_interval": seconds(o.file_flush_interval),
        "drain_time": format!("{}s", o.drain_time_s),
        "parent_shutdown_time": format!("{}s", o.parent_shutdown_time_s),
        "mode": match o.mode {
            Mode::Serve => "Serve",
            Mode::Validate => "Validate",
            Mode::InitOnly => "InitOnly",
        },
        "disable_hot_restart": o.disable_hot_restart,
        "enable_mutex_tracing": o.enable_mutex_tracing,
        "restart_epoch": o.restart_epoch,
        "cpuset_threads": o.cpuset_threads,
        "reject_unknown_dynamic_fields": o.reject_unknown_dynamic_fields,
        "log_format_escaped": o.log_format_escaped,
        "disabled_extensions": o.disabled_extensions,
        "ignore_unknown_dynamic_fields": o.ignore_unknown_dynamic_fields,
        "use_dynamic_base_id": o.use_dynamic_base_id,
        "base_id_path": o.base_id_path,
        "drain_strategy": match o.drain_strategy {
            DrainStrategy::Gradual => "Gradual",
            DrainStrategy::Immediate => "Immediate",
        },
        "enable_fine_grain_logging": o.enable_fine_grain_logging,
        "socket_path": o.socket_path,
        // envoy: these two are always shown as 0
        "socket_mode": 0,
        "enable_core_dump": o.enable_core_dump,
        "stats_tag": o.stats_tag,
        "skip_hot_restart_on_no_parent": o.skip_hot_restart_on_no_parent,
        "skip_hot_restart_parent_stats": o.skip_hot_restart_parent_stats,
        "skip_deprecated_logs": o.skip_deprecated_logs,
        "file_flush_min_size": 0,
        "log_stacktrace_single_entry": o.log_stacktrace_single_entry,
    })
}

fn node_json(node: &core::Node) -> Value {
    let mut out = json!({ "id": node.id, "cluster": node.cluster });
    if let Some(metadata) = &node.metadata {
        out["metadata"] = struct_json(metadata);
    }
    if let Some(l) = &node.locality {
        out["locality"] = json!({"region": l.region, "zone": l.zone, "sub_zone": l.sub_zone});
    }
    out["user_agent_name"] = node.user_agent_name.as_str().into();
    if let Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build)) =
        &node.user_agent_version_type
    {
        let v = build.version.unwrap_or_default();
        let metadata: Map<String, Value> =
            METADATA.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        out["user_agent_build_version"] = json!({
            "version": {"major_number": v.major_number, "minor_number": v.minor_number, "patch": v.patch},
            "metadata": metadata,
        });
    }
    let extensions = node.extensions.iter().map(|e| {
        json!({
            "name": e.name,
            "category": e.category,
            "type_descriptor": "",
            "disabled": e.disabled,
            "type_urls": e.type_urls,
        })
    });
    out["extensions"] = extensions.collect();
    out["client_features"] = json!(node.client_features);
    out["listening_addresses"] = json!([]);
    out["dynamic_parameters"] = json!({});
    out
}

/// A `Struct` as the JSON that it stands for. Keys are sorted: a map has no order of its own.
fn struct_json(value: &Struct) -> Value {
    let mut keys: Vec<&String> = value.fields.keys().collect();
    keys.sort();
    keys.into_iter().map(|k| (k.clone(), value_json(&value.fields[k]))).collect::<Map<_, _>>().into()
}

fn value_json(value: &PbValue) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => (*b).into(),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the fraction is nothing and the size is bounded"
        )]
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 1e15 => (*n as i64).into(),
        Some(Kind::NumberValue(n)) => serde_json::Number::from_f64(*n).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(s)) => s.as_str().into(),
        Some(Kind::StructValue(s)) => struct_json(s),
        Some(Kind::ListValue(l)) => l.values.iter().map(value_json).collect(),
    }
}

pub(super) fn hot_restart_version(admin: &Admin, _: &Query) -> Reply {
    Reply::text(hot_restart(&admin.state))
}

/// As `envoy.admin.v3.Memory`, of what the kernel tells: nothing is known of the allocator's own lists.
pub(super) fn memory(_: &Admin, _: &Query) -> Reply {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        let kib = line.split_ascii_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        (kib.unwrap_or(0) * 1024).to_string()
    };
    Reply::json(&json!({
        "allocated": bytes("RssAnon:"),
        "heap_size": bytes("RssAnon:"),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": bytes("VmRSS:"),
    }))
}

pub(super) fn tcmalloc(_: &Admin, _: &Query) -> Reply {
    Reply::error(501, "The current build does not use TCMalloc; /memory shows what the kernel knows\n")
}

/// No listener and no cluster speaks TLS yet.
pub(super) fn certs(_: &Admin, _: &Query) -> Reply {
    Reply::json(&json!({"certificates": []}))
}

/// Shards share no lock, so that there is nothing to count.
pub(super) fn contention(admin: &Admin, _: &Query) -> Reply {
    if !admin.state.options.enable_mutex_tracing {
        let flag = "--enable-mutex-tracing";
        return Reply::text(format!(
            "Mutex contention tracing is not enabled. To enable, run Envoy with flag {flag}."
        ));
    }
    Reply::json(&json!({"num_contentions": "0", "current_wait_cycles": "0", "lifetime_wait_cycles": "0"}))
}

/// What the start still waits for: it waits for names before the admin server is bound to listeners, and shows none.
pub(super) fn init_dump(_: &Admin, _: &Query) -> Reply {
    Reply::json(&json!({}))
}
