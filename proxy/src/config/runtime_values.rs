//! Values of the layered runtime, as configured. Later layers win.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::google::protobuf::{Struct, value::Kind};

use crate::config::rejection::{At, Fault};
use crate::route::matchers::Fraction;

/// One value of the runtime.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeValue {
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    /// A `FractionalPercent` written as an object.
    Fraction(Fraction),
}

/// Names and values over all layers.
#[derive(Debug, Clone, Default)]
pub struct RuntimeValues {
    /// Name and values of each layer, in order, for `/runtime`.
    pub layers: Vec<(String, BTreeMap<String, RuntimeValue>)>,
}

impl RuntimeValues {
    pub fn compile(config: Option<&bootstrap::LayeredRuntime>, at: &At<'_>) -> Result<RuntimeValues, Fault> {
        use bootstrap::runtime_layer::LayerSpecifier;
        let mut values = RuntimeValues::default();
        let Some(config) = config else { return Ok(values) };
        let mut admin = false;
        for (i, layer) in config.layers.iter().enumerate() {
            let here = at.item("LayeredRuntime", "layers", i);
            if layer.name.is_empty() {
                let name = here.field("RuntimeLayer", "name");
                return Err(name.violates("value length must be at least 1 characters"));
            }
            if values.layers.iter().any(|(name, _)| *name == layer.name) {
                return Err(here.refuse(format!("Duplicate layer name: {}", layer.name)));
            }
            let mut map = BTreeMap::new();
            match &layer.layer_specifier {
                Some(LayerSpecifier::StaticLayer(fields)) => flatten("", fields, &mut map, &here)?,
                Some(LayerSpecifier::AdminLayer(_)) if admin => {
                    let reason =
                        "Too many admin layers specified in LayeredRuntime, at most one may be specified";
                    return Err(here.refuse(reason));
                }
                Some(LayerSpecifier::AdminLayer(_)) => admin = true,
                Some(LayerSpecifier::DiskLayer(_)) => {
                    return Err(here.field("RuntimeLayer", "disk_layer").not_implemented());
                }
                Some(LayerSpecifier::RtdsLayer(_)) => {
                    return Err(here.field("RuntimeLayer", "rtds_layer").not_implemented());
                }
                None => return Err(here.lacks("layer_specifier")),
            }
            values.layers.push((layer.name.clone(), map));
        }
        Ok(values)
    }

    pub fn get(&self, key: &str) -> Option<&RuntimeValue> {
        self.layers.iter().rev().find_map(|(_, values)| values.get(key))
    }

    /// A number of zero or more, as limits and weights are. //= envoy: without its fraction
    pub fn integer(&self, key: &str) -> Option<u64> {
        self.number(key).and_then(|n| whole(n.trunc()))
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            RuntimeValue::Number(n) => Some(*n),
            RuntimeValue::Text(text) => text.trim().parse().ok(),
            RuntimeValue::Bool(_) | RuntimeValue::Fraction(_) => None,
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        match self.get(key) {
            Some(RuntimeValue::Bool(b)) => *b,
            Some(RuntimeValue::Text(text)) if text.eq_ignore_ascii_case("true") => true,
            Some(RuntimeValue::Text(text)) if text.eq_ignore_ascii_case("false") => false,
            _ => default,
        }
    }

    /// A share of requests: a whole number counts in percent.
    pub fn fraction(&self, key: &str, default: Fraction) -> Fraction {
        if let Some(RuntimeValue::Fraction(fraction)) = self.get(key) {
            return *fraction;
        }
        self.integer(key).map_or(default, |numerator| Fraction { numerator, denominator: 100 })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be whole and in range"
)]
fn whole(n: f64) -> Option<u64> {
    (n >= 0.0 && n.fract() == 0.0 && n < 1e15).then_some(n as u64)
}

fn flatten(
    prefix: &str,
    fields: &Struct,
    out: &mut BTreeMap<String, RuntimeValue>,
    at: &At<'_>,
) -> Result<(), Fault> {
    for (name, value) in &fields.fields {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let value = match &value.kind {
            Some(Kind::BoolValue(b)) => RuntimeValue::Bool(*b),
            Some(Kind::NumberValue(n)) => RuntimeValue::Number(*n),
            Some(Kind::StringValue(text)) => RuntimeValue::Text(text.as_str().into()),
            Some(Kind::StructValue(inner)) => match as_fraction(inner) {
                Some(fraction) => RuntimeValue::Fraction(fraction),
                None => {
                    flatten(&key, inner, out, at)?;
                    continue;
                }
            },
            Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => {
                return Err(at.refuse(format!("Invalid runtime entry value for {key}")));
            }
        };
        out.insert(key, value);
    }
    Ok(())
}

fn as_fraction(fields: &Struct) -> Option<Fraction> {
    let kind = |name: &str| fields.fields.get(name).and_then(|v| v.kind.as_ref());
    let numerator = match kind("numerator") {
        Some(Kind::NumberValue(n)) => whole(*n)?,
        None if kind("denominator").is_some() => 0,
        _ => return None,
    };
    let denominator = match kind("denominator") {
        Some(Kind::StringValue(text)) if text == "TEN_THOUSAND" => 10_000,
        Some(Kind::StringValue(text)) if text == "MILLION" => 1_000_000,
        _ => 100,
    };
    Some(Fraction { numerator, denominator })
}
