//! Field masks over messages, and what must not be shown.

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

/// Paths of a field mask, cut at their dots.
#[derive(Debug)]
pub(super) struct Mask<'a> {
    paths: Vec<Vec<&'a str>>,
}

impl<'a> Mask<'a> {
    pub(super) fn parse(text: &'a str) -> Mask<'a> {
        let paths = text.split(',').filter(|p| !p.is_empty()).map(|p| p.split('.').collect()).collect();
        Mask { paths }
    }

    /// Whether every path names a field of messages of this kind. What an `Any` holds is not known here.
    pub(super) fn fits(&self, desc: &MessageDescriptor) -> bool {
        self.paths.iter().all(|path| names_field(desc, path))
    }

    /// Keeps the named fields alone, within an `Any` too.
    pub(super) fn apply(&self, message: &mut DynamicMessage, pool: &DescriptorPool) {
        let paths: Vec<&[&str]> = self.paths.iter().map(Vec::as_slice).collect();
        keep(message, &paths, pool);
    }
}

fn names_field(desc: &MessageDescriptor, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let Some(field) = desc.get_field_by_name(first) else { return false };
    match field.kind() {
        _ if rest.is_empty() => true,
        Kind::Message(inner) if inner.full_name() == ANY => true,
        Kind::Message(inner) if !field.is_list() && !field.is_map() => names_field(&inner, rest),
        _ => false,
    }
}

const ANY: &str = "google.protobuf.Any";

fn keep(message: &mut DynamicMessage, paths: &[&[&str]], pool: &DescriptorPool) {
    if message.descriptor().full_name() == ANY {
        if let Some(mut inner) = unpacked(message, pool) {
            keep(&mut inner, paths, pool);
            repack(message, &inner);
        }
        return;
    }
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in set {
        let deeper: Vec<&[&str]> =
            paths.iter().filter(|p| p.first() == Some(&field.name())).map(|p| &p[1..]).collect();
        if deeper.is_empty() {
            message.clear_field(&field);
        } else if !deeper.iter().any(|p| p.is_empty())
            && let Value::Message(inner) = message.get_field_mut(&field)
        {
            keep(inner, &deeper, pool);
        }
    }
}

fn unpacked(any: &DynamicMessage, pool: &DescriptorPool) -> Option<DynamicMessage> {
    let url = any.get_field_by_name("type_url")?;
    let name = url.as_str()?.rsplit('/').next()?;
    let desc = pool.get_message_by_name(name)?;
    let value = any.get_field_by_name("value")?;
    DynamicMessage::decode(desc, &value.as_bytes()?[..]).ok()
}

fn repack(any: &mut DynamicMessage, inner: &DynamicMessage) {
    any.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
}

/// Hides every field that is annotated as sensitive, at any depth and within every `Any`.
//= envoy: udpa.annotations.sensitive
pub(super) fn redact(message: &mut DynamicMessage, pool: &DescriptorPool) {
    if message.descriptor().full_name() == ANY {
        if let Some(mut inner) = unpacked(message, pool) {
            redact(&mut inner, pool);
            repack(message, &inner);
        }
        return;
    }
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in set {
        if is_sensitive(&field, pool) {
            hide(message.get_field_mut(&field));
        } else {
            each_message(message.get_field_mut(&field), &mut |inner| redact(inner, pool));
        }
    }
}

fn is_sensitive(field: &FieldDescriptor, pool: &DescriptorPool) -> bool {
    let Some(extension) = pool.get_extension_by_name("udpa.annotations.sensitive") else { return false };
    field.options().get_extension(&extension).as_bool() == Some(true)
}

fn each_message(value: &mut Value, visit: &mut dyn FnMut(&mut DynamicMessage)) {
    match value {
        Value::Message(inner) => visit(inner),
        Value::List(list) => list.iter_mut().for_each(|v| each_message(v, visit)),
        Value::Map(map) => map.values_mut().for_each(|v| each_message(v, visit)),
        _ => {}
    }
}

const HIDDEN: &str = "[redacted]";

/// Strings and bytes say that they are hidden; other values become their default.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) => HIDDEN.clone_into(text),
        Value::Bytes(bytes) => *bytes = HIDDEN.as_bytes().to_vec().into(),
        Value::Message(inner) => {
            let set: Vec<FieldDescriptor> = inner.fields().map(|(field, _)| field).collect();
            // A payload in an `Any` cannot be hidden field by field without its meaning: all of it goes.
            if inner.descriptor().full_name() == ANY {
                inner.clear_field_by_name("value");
                return;
            }
            set.iter().for_each(|field| hide(inner.get_field_mut(field)));
        }
        Value::List(list) => list.iter_mut().for_each(hide),
        Value::Map(map) => map.values_mut().for_each(hide),
        Value::Bool(b) => *b = false,
        Value::I32(n) => *n = 0,
        Value::I64(n) => *n = 0,
        Value::U32(n) => *n = 0,
        Value::U64(n) => *n = 0,
        Value::F32(n) => *n = 0.0,
        Value::F64(n) => *n = 0.0,
        Value::EnumNumber(n) => *n = 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bootstrap::descriptors;

    fn message(pool: &DescriptorPool, name: &str, json: serde_json::Value) -> DynamicMessage {
        let desc = pool.get_message_by_name(name).expect("a message of the API");
        DynamicMessage::deserialize(desc, json).expect("that message")
    }

    #[test]
    fn sensitive_fields_are_hidden_within_any() {
        let pool = descriptors();
        let mut dump = message(
            &pool,
            "envoy.admin.v3.SecretsConfigDump.StaticSecret",
            serde_json::json!({"name": "s", "secret": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": "kept",
                "tls_certificate": {
                    "certificate_chain": {"inline_string": "chain"},
                    "private_key": {"inline_bytes": "aHVzaA=="},
                    "password": {"inline_string": "hush"}
                }
            }}),
        );
        redact(&mut dump, &pool);
        let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
        let shown =
            dump.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON").to_string();
        for expected in [
            r#""name":"kept""#,
            r#""certificate_chain":{"inline_string":"chain"}"#,
            r#""private_key":{"inline_bytes":"W3JlZGFjdGVkXQ=="}"#,
            r#""password":{"inline_string":"[redacted]"}"#,
        ] {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
    }

    #[test]
    fn masks_reach_into_any_and_keep_what_they_name() {
        let pool = descriptors();
        let mut cluster = message(
            &pool,
            "envoy.admin.v3.ClustersConfigDump.StaticCluster",
            serde_json::json!({"last_updated": "2026-01-01T00:00:00Z", "cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a", "connect_timeout": "1s"
            }}),
        );
        let mask = Mask::parse("cluster.name");
        assert!(mask.fits(&cluster.descriptor()));
        assert!(!Mask::parse("nope").fits(&cluster.descriptor()));
        assert!(!Mask::parse("cluster.name,last_updated.x").fits(&cluster.descriptor()));
        mask.apply(&mut cluster, &pool);
        let shown = serde_json::to_string(&cluster).expect("JSON");
        assert_eq!(
            shown,
            r#"{"cluster":{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"a"}}"#
        );
    }
}
