//! `/runtime` and `/runtime_modify`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Admin;
use super::query::Query;
use super::reply::Reply;
use crate::config::runtime_values::RuntimeValue;

pub(super) fn runtime(admin: &Admin, _: &Query) -> Reply {
    let epoch = admin.state.process.epoch();
    let layers = &epoch.snapshot.runtime.layers;
    let keys: BTreeSet<&String> = layers.iter().flat_map(|(_, values)| values.keys()).collect();
    let mut entries = Map::new();
    for key in keys {
        let values: Vec<String> =
            layers.iter().map(|(_, values)| values.get(key).map(shown).unwrap_or_default()).collect();
        let last = values.iter().rev().find(|v| !v.is_empty()).cloned().unwrap_or_default();
        entries.insert(key.clone(), json!({"final_value": last, "layer_values": values}));
    }
    let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
    Reply::json(&json!({"entries": Value::Object(entries), "layers": names}))
}

fn shown(value: &RuntimeValue) -> String {
    match value {
        RuntimeValue::Bool(b) => b.to_string(),
        RuntimeValue::Number(n) => n.to_string(),
        RuntimeValue::Text(text) => text.to_string(),
        RuntimeValue::Fraction(f) => format!("{}/{}", f.numerator, f.denominator),
    }
}

const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
    or send the parameters as form values\nuse an empty value to remove a previously added override";

pub(super) fn runtime_modify(admin: &Admin, query: &Query) -> Reply {
    if query.pairs().is_empty() {
        return Reply::error(400, USAGE);
    }
    if admin.admin_layer {
        return Reply::error(501, "changing values of the runtime is not implemented yet\n");
    }
    Reply::error(503, "No admin layer specified")
}
