//! `/clusters`: limits, endpoints and their numbers.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Admin;
use super::listeners::address;
use super::query::Query;
use super::reply::Reply;
use crate::config::cluster::Breakers;
use crate::config::endpoint::ConfiguredHealth;
use crate::config::regex;
use crate::upstream::cluster::ClusterShared;
use crate::upstream::endpoint::{EndpointShared, EndpointStat as Stat};

pub(super) fn clusters(admin: &Admin, query: &Query) -> Reply {
    let filter = match query.filled("filter").map(regex::search).transpose() {
        Ok(filter) => filter,
        Err(_) => return Reply::error(400, "Invalid re2 regex"),
    };
    let epoch = admin.state.process.epoch();
    let all = epoch.clusters.iter();
    let shown = all.filter(|c| filter.as_ref().is_none_or(|f| f.is_match(c.config.name.as_bytes())));
    if query.get("format") == Some("json") {
        let statuses: Vec<Value> = shown.map(|c| status(c)).collect();
        let whole = if statuses.is_empty() { json!({}) } else { json!({ "cluster_statuses": statuses }) };
        return Reply::json(&whole);
    }
    let mut out = String::new();
    shown.for_each(|c| write_cluster(&mut out, c));
    Reply::text(out)
}

/// Names and numbers of an endpoint; the gauges are those that end in `_active`.
fn numbers(endpoint: &EndpointShared) -> [(&'static str, u64); 9] {
    let of = |stat| endpoint.get(stat);
    [
        ("cx_active", of(Stat::CxActive)),
        ("cx_connect_fail", of(Stat::CxConnectFail)),
        ("cx_total", of(Stat::CxTotal)),
        ("rq_active", of(Stat::RqActive)),
        ("rq_error", of(Stat::RqError)),
        // Requests wait for the cluster, not for one of its endpoints.
        ("rq_pending_active", 0),
        ("rq_success", of(Stat::RqSuccess)),
        ("rq_timeout", of(Stat::RqTimeout)),
        ("rq_total", of(Stat::RqTotal)),
    ]
}

fn write_cluster(out: &mut String, cluster: &ClusterShared) {
    let config = &cluster.config;
    let name = &config.name;
    let _infallible = writeln!(out, "{name}::observability_name::{}", config.stat_name);
    for (priority, limits) in ["default", "high"].iter().zip(&config.breakers) {
        let Breakers { max_connections, max_pending_requests, max_requests, max_retries, .. } = limits;
        let _infallible = writeln!(
            out,
            "{name}::{priority}_priority::max_connections::{max_connections}\n\
             {name}::{priority}_priority::max_pending_requests::{max_pending_requests}\n\
             {name}::{priority}_priority::max_requests::{max_requests}\n\
             {name}::{priority}_priority::max_retries::{max_retries}"
        );
    }
    let _infallible = writeln!(out, "{name}::added_via_api::false");
    for endpoint in cluster.endpoints().iter() {
        let at = format!("{name}::{}", endpoint.address);
        for (stat, value) in numbers(endpoint) {
            let _infallible = writeln!(out, "{at}::{stat}::{value}");
        }
        let health = match endpoint.health {
            ConfiguredHealth::Healthy => "healthy",
            ConfiguredHealth::Unhealthy => "/failed_eds_health",
            ConfiguredHealth::Degraded => "/degraded_eds_health",
            ConfiguredHealth::Draining => "/eds_status_draining",
        };
        let _infallible = writeln!(
            out,
            "{at}::hostname::{}\n{at}::health_flags::{health}\n{at}::weight::{}\n{at}::region::{}\n\
             {at}::zone::{}\n{at}::sub_zone::{}\n{at}::canary::{}\n{at}::priority::{}\n\
             {at}::success_rate::-1\n{at}::local_origin_success_rate::-1",
            endpoint.hostname,
            endpoint.weight,
            endpoint.region,
            endpoint.zone,
            endpoint.sub_zone,
            endpoint.canary,
            endpoint.priority
        );
    }
}

/// As `envoy.admin.v3.ClusterStatus`: fields at their default are left out.
fn status(cluster: &ClusterShared) -> Value {
    let config = &cluster.config;
    let mut out = json!({ "name": &*config.name });
    let hosts: Vec<Value> = cluster.endpoints().iter().map(|e| host(e)).collect();
    if !hosts.is_empty() {
        out["host_statuses"] = hosts.into();
    }
    let thresholds = |limits: &Breakers, high: bool| {
        let mut t = if high { json!({ "priority": "HIGH" }) } else { json!({}) };
        t["max_connections"] = limits.max_connections.into();
        t["max_pending_requests"] = limits.max_pending_requests.into();
        t["max_requests"] = limits.max_requests.into();
        t["max_retries"] = limits.max_retries.into();
        t
    };
    let [default, high] = &config.breakers;
    out["circuit_breakers"] = json!({"thresholds": [thresholds(default, false), thresholds(high, true)]});
    out["observability_name"] = (&*config.stat_name).into();
    out
}

fn host(endpoint: &EndpointShared) -> Value {
    let numbers = numbers(endpoint);
    let (gauges, counters): (Vec<_>, Vec<_>) = numbers.iter().partition(|(n, _)| n.ends_with("_active"));
    let stat = |gauge: bool, name: &str, value: u64| {
        let mut s = if gauge { json!({ "type": "GAUGE" }) } else { json!({}) };
        if value > 0 {
            // 64-bit numbers are strings in the JSON of messages.
            s["value"] = value.to_string().into();
        }
        s["name"] = name.into();
        s
    };
    let stats: Vec<Value> = counters
        .iter()
        .map(|(n, v)| stat(false, n, *v))
        .chain(gauges.iter().map(|(n, v)| stat(true, n, *v)))
        .collect();
    let health = match endpoint.health {
        ConfiguredHealth::Healthy => "HEALTHY",
        ConfiguredHealth::Unhealthy => "UNHEALTHY",
        ConfiguredHealth::Degraded => "DEGRADED",
        ConfiguredHealth::Draining => "DRAINING",
    };
    let mut out = json!({
        "address": address(&endpoint.address),
        "stats": stats,
        "health_status": {"eds_health_status": health},
        "weight": endpoint.weight,
    });
    if !endpoint.hostname.is_empty() {
        out["hostname"] = (&*endpoint.hostname).into();
    }
    if endpoint.priority > 0 {
        out["priority"] = endpoint.priority.into();
    }
    let mut locality = json!({});
    let parts = [("region", &endpoint.region), ("zone", &endpoint.zone), ("sub_zone", &endpoint.sub_zone)];
    for (name, value) in parts.into_iter().filter(|(_, v)| !v.is_empty()) {
        locality[name] = (&**value).into();
    }
    out["locality"] = locality;
    out
}
