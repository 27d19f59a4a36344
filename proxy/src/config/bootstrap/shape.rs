//! A tree of values, shaped by a message's descriptor into the JSON that decodes to it.
//!
//! Unknown fields and wrong shapes are refused here, with position, path and the nearest real name.

use std::cell::RefCell;
use std::fmt;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value as Json;

use super::tree::{Node, Position, Value};

/// Why a value does not fit its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError {
    pub at: Position,
    pub path: String,
    pub reason: String,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.path {
            "" => write!(f, "{}: {}", self.at, self.reason),
            path => write!(f, "{}: {path}: {}", self.at, self.reason),
        }
    }
}

/// What unknown fields do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Refuse,
    Skip,
}

pub struct Shaper<'a> {
    pub pool: &'a DescriptorPool,
    pub unknown: Unknown,
    /// The unknown fields that were skipped, each with its position.
    pub skipped: RefCell<Vec<String>>,
}

impl fmt::Debug for Shaper<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shaper({:?})", self.unknown)
    }
}

fn fail<T>(node: &Node, path: &str, reason: impl Into<String>) -> Result<T, ShapeError> {
    Err(ShapeError { at: node.at, path: path.to_owned(), reason: reason.into() })
}

impl Shaper<'_> {
    /// Shapes a message.
    pub fn message(&self, node: &Node, desc: &MessageDescriptor, path: &str) -> Result<Json, ShapeError> {
        match desc.full_name() {
            "google.protobuf.Any" => return self.any(node, path),
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                return Ok(plain(node));
            }
            "google.protobuf.Duration" => return duration(node, path),
            "google.protobuf.Timestamp" | "google.protobuf.FieldMask" => return Ok(plain(node)),
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                // A wrapper is written as what it holds.
                let Some(inner) = desc.get_field_by_name("value") else { return Ok(plain(node)) };
                //= envoy: or as a message of its own
                return match &node.value {
                    Value::Map(entries) if entries.len() == 1 && entries[0].0 == "value" => {
                        scalar(&entries[0].1, &inner.kind(), &join(path, "value"))
                    }
                    _ => scalar(node, &inner.kind(), path),
                };
            }
            _ => {}
        }
        let Value::Map(entries) = &node.value else {
            if matches!(node.value, Value::Null) {
                return Ok(Json::Object(serde_json::Map::new()));
            }
            return fail(node, path, format!("expected a {} (a map), found {}", desc.name(), kind_of(node)));
        };
        let mut out = serde_json::Map::new();
        for (key, value) in entries {
            let Some(field) = desc.get_field_by_name(key).or_else(|| desc.get_field_by_json_name(key)) else {
                let error = ShapeError {
                    at: value.key.unwrap_or(value.at),
                    path: join(path, key),
                    reason: unknown_field(key, desc),
                };
                if self.unknown == Unknown::Refuse {
                    return Err(error);
                }
                self.skipped.borrow_mut().push(error.to_string());
                continue;
            };
            let here = join(path, field.name());
            if matches!(value.value, Value::Null) {
                continue;
            }
            if out.contains_key(field.name()) {
                return fail(value, &here, "is given twice, in two spellings");
            }
            let rival =
                field.containing_oneof().and_then(|o| o.fields().find(|f| out.contains_key(f.name())));
            if let Some(rival) = rival {
                return fail(value, &here, format!("cannot be set besides '{}'", rival.name()));
            }
            out.insert(field.name().to_owned(), self.field(value, &field, &here)?);
        }
        Ok(Json::Object(out))
    }

    fn field(&self, node: &Node, field: &FieldDescriptor, path: &str) -> Result<Json, ShapeError> {
        if field.is_map() {
            let Value::Map(entries) = &node.value else {
                return fail(node, path, format!("expected a map, found {}", kind_of(node)));
            };
            let Kind::Message(entry) = field.kind() else { return fail(node, path, "a map without entries") };
            let value_field = entry.map_entry_value_field();
            let mut out = serde_json::Map::new();
            for (key, value) in entries {
                let here = format!("{path}[{key}]");
                out.insert(key.clone(), self.single(value, &value_field, &here)?);
            }
            return Ok(Json::Object(out));
        }
        if field.is_list() {
            // envoy: a single value is taken for a list of one
            let single = std::slice::from_ref(node);
            let list = if let Value::List(list) = &node.value { list.as_slice() } else { single };
            let items =
                list.iter().enumerate().map(|(n, item)| self.single(item, field, &format!("{path}[{n}]")));
            return items.collect::<Result<_, _>>().map(Json::Array);
        }
        self.single(node, field, path)
    }

    fn single(&self, node: &Node, field: &FieldDescriptor, path: &str) -> Result<Json, ShapeError> {
        match field.kind() {
            Kind::Message(desc) => self.message(node, &desc, path),
            kind => scalar(node, &kind, path),
        }
    }

    /// `@type` names the message that the other keys belong to.
    fn any(&self, node: &Node, path: &str) -> Result<Json, ShapeError> {
        let Value::Map(entries) = &node.value else {
            return fail(node, path, format!("expected an Any (a map with @type), found {}", kind_of(node)));
        };
        let Some((_, type_node)) = entries.iter().find(|(k, _)| k == "@type") else {
            if entries.is_empty() {
                //= envoy: FilterConfig.config: {} stands for a filter's own configuration
                return Ok(
                    serde_json::json!({"@type": "type.googleapis.com/google.protobuf.Empty", "value": {}}),
                );
            }
            return fail(node, path, "an Any without @type");
        };
        let Value::Text(url) = &type_node.value else {
            return fail(type_node, path, "@type must be a string");
        };
        let name = url.rsplit('/').next().unwrap_or(url);
        let Some(desc) = self.pool.get_message_by_name(name) else {
            return fail(type_node, path, format!("unknown type {url}{}", self.nearest_type(name)));
        };
        let rest: Vec<_> = entries.iter().filter(|(k, _)| k != "@type").cloned().collect();
        let well_known = desc.full_name().starts_with("google.protobuf.");
        let body = match rest.iter().find(|(k, _)| k == "value") {
            Some((_, value)) if well_known => {
                let mut wrapped = serde_json::Map::new();
                wrapped.insert("value".to_owned(), self.message(value, &desc, path)?);
                Json::Object(wrapped)
            }
            None if desc.full_name() == "google.protobuf.Empty" => serde_json::json!({"value": {}}),
            _ => self.message(&Node { value: Value::Map(rest), ..node.clone() }, &desc, path)?,
        };
        let Json::Object(mut body) = body else {
            return fail(node, path, "an Any of a scalar needs 'value'");
        };
        body.insert("@type".to_owned(), Json::String(url.clone()));
        Ok(Json::Object(body))
    }

    fn nearest_type(&self, name: &str) -> String {
        let names: Vec<_> = self.pool.all_messages().map(|m| m.full_name().to_owned()).collect();
        nearest(name, &names, 10)
    }
}

/// The range of google.protobuf.Duration.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

/// A number of seconds with its unit, `1.5s`.
//= envoy: as the JSON form of google.protobuf.Duration: no sign but a minus, at most nine decimals
fn duration(node: &Node, path: &str) -> Result<Json, ShapeError> {
    let Value::Text(text) = &node.value else {
        return fail(node, path, format!("expected a duration such as \"1.5s\", found {}", kind_of(node)));
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let seconds = text.strip_suffix('s').map(|t| t.strip_prefix('-').unwrap_or(t));
    let good = seconds.is_some_and(|t| match t.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction) && fraction.len() <= 9,
        None => digits(t),
    });
    let shown: String = text.chars().take(64).collect();
    if good {
        let whole = seconds.and_then(|t| t.split('.').next()).and_then(|t| t.parse::<i64>().ok());
        if whole.is_none_or(|s| s > DURATION_SECONDS_MAX) {
            return fail(node, path, format!("'{shown}' is out of range"));
        }
        return Ok(Json::String(text.clone()));
    }
    fail(node, path, format!("'{shown}' is no duration; expected seconds with their unit, such as 1.5s"))
}

fn scalar(node: &Node, kind: &Kind, path: &str) -> Result<Json, ShapeError> {
    let fits = match (&node.value, kind) {
        (Value::Text(_), Kind::String | Kind::Bytes) | (Value::Bool(_), Kind::Bool) => true,
        (Value::Text(name), Kind::Enum(e)) => return enum_value(node, name, e, path),
        //= envoy: true, false and numbers may be given as strings
        (Value::Text(text), Kind::Bool) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => return Ok(Json::Bool(true)),
            "false" | "f" | "no" | "n" | "0" => return Ok(Json::Bool(false)),
            _ => false,
        },
        (Value::Text(text), kind) if is_number(kind) => match number(text) {
            Some(value) => return scalar(&Node { value, ..node.clone() }, kind, path),
            None => false,
        },
        (Value::Int(_), kind) => is_number(kind) || matches!(kind, Kind::Enum(_)),
        (Value::Float(n), Kind::Double | Kind::Float) => n.is_finite(),
        (Value::Float(n), kind) => is_number(kind) && n.fract() == 0.0,
        _ => false,
    };
    let whole = match &node.value {
        Value::Int(n) => Some(*n),
        #[expect(clippy::cast_possible_truncation, reason = "a whole number; beyond the range it saturates")]
        Value::Float(n) if n.fract() == 0.0 => Some(*n as i128),
        _ => None,
    };
    if let (true, Some(n), Some(range)) = (fits, whole, range(kind))
        && !range.contains(&n)
    {
        return fail(node, path, format!("{n} is out of range"));
    }
    if fits {
        return Ok(plain(node));
    }
    fail(node, path, format!("expected {}, found {}", kind_name(kind), kind_of(node)))
}

/// A number given as a string.
fn number(text: &str) -> Option<Value> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(|n| Value::Int(n.into()));
    }
    if let Ok(n) = text.parse::<i128>() {
        return Some(Value::Int(n));
    }
    text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::Float)
}

/// The name of an enum's value as the descriptor spells it.
fn enum_value(node: &Node, name: &str, e: &EnumDescriptor, path: &str) -> Result<Json, ShapeError> {
    //= envoy: names of enum values in any case, and numbers given as strings
    if let Some(value) = e.values().find(|v| v.name().eq_ignore_ascii_case(name)) {
        return Ok(Json::String(value.name().to_owned()));
    }
    if let Ok(number) = name.parse::<i32>() {
        return Ok(Json::from(number));
    }
    let names: Vec<_> = e.values().map(|v| v.name().to_owned()).collect();
    let shown: String = name.chars().take(64).collect();
    fail(node, path, format!("'{shown}' is no {}{}", e.name(), nearest(name, &names, 3)))
}

fn is_number(kind: &Kind) -> bool {
    !matches!(kind, Kind::String | Kind::Bytes | Kind::Bool | Kind::Message(_) | Kind::Enum(_))
}

/// What a whole number of this kind may be.
fn range(kind: &Kind) -> Option<std::ops::RangeInclusive<i128>> {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => {
            Some(i32::MIN.into()..=i32::MAX.into())
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Some(i64::MIN.into()..=i64::MAX.into()),
        Kind::Uint32 | Kind::Fixed32 => Some(0..=u32::MAX.into()),
        Kind::Uint64 | Kind::Fixed64 => Some(0..=u64::MAX.into()),
        _ => None,
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::String => "a string",
        Kind::Bytes => "bytes (base64)",
        Kind::Bool => "true or false",
        Kind::Enum(_) => "a name of the enum",
        _ => "a number",
    }
}

fn kind_of(node: &Node) -> &'static str {
    match node.value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Int(_) => "a number",
        Value::Float(_) => "a number with a fraction",
        Value::Text(_) => "a string",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

/// The tree as JSON, without a message to shape it.
fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => i64::try_from(*n)
            .map(Json::from)
            .or_else(|_| u64::try_from(*n).map(Json::from))
            .unwrap_or(Json::String(n.to_string())),
        Value::Float(n) => serde_json::Number::from_f64(*n).map_or(Json::Null, Json::Number),
        Value::Text(t) => Json::String(t.clone()),
        Value::List(l) => Json::Array(l.iter().map(plain).collect()),
        Value::Map(m) => Json::Object(m.iter().map(|(k, v)| (k.clone(), plain(v))).collect()),
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn unknown_field(key: &str, desc: &MessageDescriptor) -> String {
    let names: Vec<_> = desc.fields().map(|f| f.name().to_owned()).collect();
    let shown: String = key.chars().take(64).collect();
    format!("no such field '{shown}' in {}{}", desc.full_name(), nearest(key, &names, 3))
}

/// `, did you mean 'x'?` when a name is near enough: one edit, and one more for each `letters` of it.
fn nearest(name: &str, names: &[String], letters: usize) -> String {
    let best = names.iter().map(|n| (distance(name, n), n)).min();
    match best {
        Some((d, n)) if d <= 1 + n.len() / letters => format!(", did you mean '{n}'?"),
        _ => String::new(),
    }
}

/// Edits from one name to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate().take(128) {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = if x == y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}
