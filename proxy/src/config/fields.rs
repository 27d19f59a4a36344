//! Which fields of the API are implemented, harmless or refused.
//!
//! A configuration that uses a field we do not implement is refused with that field's path: nothing is parsed and
//! ignored. The table is `fields.txt`: for each message the implemented fields, then the harmless ones.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};

use crate::config::rejection::Fault;

const TABLE: &str = include_str!("fields.txt");

/// How a field is treated when it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Implemented,
    Harmless,
    Refused,
}

#[derive(Debug, Default)]
struct Entry<'a> {
    implemented: Vec<&'a str>,
    harmless: Vec<&'a str>,
}

/// The table by message.
#[derive(Debug)]
pub struct Table<'a>(BTreeMap<&'a str, Entry<'a>>);

impl Table<'static> {
    pub fn read() -> Table<'static> {
        let mut messages = BTreeMap::new();
        for line in TABLE.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let Some((message, fields)) = line.split_once(':') else { continue };
            let (implemented, harmless) = fields.split_once('|').unwrap_or((fields, ""));
            let entry = Entry {
                implemented: implemented.split_whitespace().collect(),
                harmless: harmless.split_whitespace().collect(),
            };
            messages.insert(message.trim(), entry);
        }
        Table(messages)
    }
}

impl Table<'_> {
    pub fn class(&self, message: &str, field: &str) -> Class {
        let Some(entry) = self.0.get(message) else { return Class::Refused };
        if entry.implemented.contains(&"*") || entry.implemented.contains(&field) {
            Class::Implemented
        } else if entry.harmless.contains(&"*") || entry.harmless.contains(&field) {
            Class::Harmless
        } else {
            Class::Refused
        }
    }

    /// Whether an extension of this type may stand in a configuration.
    pub fn knows(&self, message: &str) -> bool {
        self.0.contains_key(message)
    }

    /// Messages of the table with their implemented and their harmless fields.
    pub fn messages(&self) -> impl Iterator<Item = (&str, &[&str], &[&str])> {
        self.0.iter().map(|(m, e)| (*m, &*e.implemented, &*e.harmless))
    }
}

/// What a configuration uses and this proxy does not have, each with its path.
#[derive(Debug, Default)]
pub struct Found {
    pub refused: Vec<Fault>,
    /// Messages with fields that the API does not have; only a binary file still shows them here.
    pub unknown: Vec<String>,
}

pub fn check(message: &DynamicMessage, pool: &DescriptorPool) -> Found {
    let mut walk = Walk { pool, table: Table::read(), found: Found::default() };
    walk.message(message, "");
    walk.found
}

/// Messages that name an extension which may be left out: those with `is_optional`.
const OPTIONAL: [&str; 2] = [
    "envoy.config.route.v3.FilterConfig",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
];

struct Walk<'a> {
    pool: &'a DescriptorPool,
    table: Table<'static>,
    found: Found,
}

impl Walk<'_> {
    fn message(&mut self, message: &DynamicMessage, path: &str) {
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        if name == "google.protobuf.Any" {
            return self.any(message, path);
        }
        if name.starts_with("google.protobuf.") {
            return;
        }
        let unknown: Vec<String> = message.unknown_fields().map(|f| f.number().to_string()).collect();
        if !unknown.is_empty() {
            let at = if path.is_empty() { "root" } else { path };
            let set = unknown.join(", ");
            self.found.unknown.push(format!("type {name}({at}) with unknown field set {{{set}}}"));
        }
        let optional = OPTIONAL.contains(&name)
            && message.get_field_by_name("is_optional").is_some_and(|v| v.as_bool() == Some(true));
        for (field, value) in message.fields() {
            let here =
                if path.is_empty() { field.name().to_owned() } else { format!("{path}.{}", field.name()) };
            match self.table.class(name, field.name()) {
                Class::Implemented if optional && self.is_foreign(value) => {}
                Class::Implemented => self.value(value, &here),
                Class::Harmless => {}
                Class::Refused => {
                    self.refuse(&here, format!("{name}.{} is not implemented yet", field.name()));
                }
            }
        }
    }

    fn refuse(&mut self, path: &str, reason: String) {
        self.found.refused.push(Fault { path: path.to_owned(), reason });
    }

    fn value(&mut self, value: &Value, path: &str) {
        match value {
            Value::Message(message) => self.message(message, path),
            Value::List(list) => {
                for (n, item) in list.iter().enumerate() {
                    self.value(item, &format!("{path}[{n}]"));
                }
            }
            Value::Map(map) => {
                for (key, item) in map {
                    self.value(item, &format!("{path}[{}]", key.as_str().unwrap_or("?")));
                }
            }
            _ => {}
        }
    }

    /// Whether it is an `Any` of a type that is not in the table.
    fn is_foreign(&self, value: &Value) -> bool {
        let Some(url) = value.as_message().and_then(|any| any.get_field_by_name("type_url")) else {
            return false;
        };
        url.as_str().is_some_and(|url| !self.table.knows(url.rsplit('/').next().unwrap_or(url)))
    }

    fn any(&mut self, any: &DynamicMessage, path: &str) {
        let field = |name: &str| any.get_field_by_name(name).map(|v| v.into_owned());
        let (Some(Value::String(url)), Some(Value::Bytes(bytes))) = (field("type_url"), field("value"))
        else {
            return;
        };
        let name = url.rsplit('/').next().unwrap_or(&url);
        match self.pool.get_message_by_name(name).map(|desc| DynamicMessage::decode(desc, bytes)) {
            Some(Ok(_)) if !self.table.knows(name) => {
                self.refuse(path, format!("{name} is not implemented yet"));
            }
            Some(Ok(message)) => self.message(&message, path),
            Some(Err(error)) => self.refuse(path, format!("a {name} that does not decode: {error}")),
            None => self.refuse(path, format!("unknown extension type {url}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_exists() {
        let pool = crate::config::bootstrap::descriptors();
        for (message, implemented, harmless) in Table::read().messages() {
            let desc = pool.get_message_by_name(message).unwrap_or_else(|| panic!("no message {message}"));
            for field in implemented.iter().chain(harmless).filter(|f| **f != "*") {
                assert!(desc.get_field_by_name(field).is_some(), "{message} has no field {field}");
            }
        }
    }
}
