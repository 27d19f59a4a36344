//! `/listeners`: names and bound addresses.

use std::fmt::Write;

use selvedge_runtime::SocketAddress;
use serde_json::{Value, json};

use super::Admin;
use super::query::Query;
use super::reply::Reply;

pub(super) fn listeners(admin: &Admin, query: &Query) -> Reply {
    let listeners = &admin.state.listeners;
    if query.get("format") == Some("json") {
        let statuses: Vec<Value> = listeners.iter().map(|(name, all)| status(name, all)).collect();
        let whole = if statuses.is_empty() { json!({}) } else { json!({ "listener_statuses": statuses }) };
        return Reply::json(&whole);
    }
    let mut out = String::new();
    for (name, addresses) in listeners {
        for address in addresses {
            let _infallible = writeln!(out, "{name}::{address}");
        }
    }
    Reply::text(out)
}

fn status(name: &str, addresses: &[SocketAddress]) -> Value {
    let mut out = json!({ "name": name });
    if let Some(first) = addresses.first() {
        out["local_address"] = address(first);
    }
    if addresses.len() > 1 {
        out["additional_local_addresses"] = addresses[1..].iter().map(address).collect();
    }
    out
}

/// An address as `envoy.config.core.v3.Address` in JSON.
pub(super) fn address(address: &SocketAddress) -> Value {
    match address {
        SocketAddress::Ip(ip) => {
            json!({"socket_address": {"address": ip.ip().to_string(), "port_value": ip.port()}})
        }
        SocketAddress::Unix(path) => json!({"pipe": {"path": &**path}}),
    }
}
