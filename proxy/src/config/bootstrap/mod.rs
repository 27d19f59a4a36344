//! The bootstrap loader: YAML 1.1, JSON, binary and text protos to one message.
//!
//! A file's name decides its form, as in Envoy: `.pb`, `.pb_text`, `.yaml` and `.yml` by suffix, everything else is
//! JSON. `--config-yaml` is merged over it. The descriptors are loaded for this and dropped again.

mod places;
pub mod shape;
pub mod tree;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::Read;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::config::fields;
use crate::limits;
pub use places::Places;
use shape::{Shaper, Unknown};
use tree::Node;

/// A bootstrap, and the bytes that it was decoded from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub bootstrap: Bootstrap,
    pub bytes: Vec<u8>,
    pub places: Places,
    /// What the configuration has and the API does not, where the command line allows it.
    pub unknown_fields: Vec<String>,
}

/// Why there is no bootstrap; the text is what the operator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError(pub String);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub path: String,
    pub yaml: String,
    pub allow_unknown: bool,
}

/// The descriptors of the whole Envoy API: 17 MB in memory, so hold it no longer than needed.
pub fn descriptors() -> DescriptorPool {
    DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))[..])
        .expect("built together with this binary")
}

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

pub fn load(source: &Source) -> Result<Loaded, LoadError> {
    if source.path.is_empty() && source.yaml.is_empty() {
        return Err(LoadError(
            "At least one of --config-path or --config-yaml or Options::configProto() should be non-empty"
                .to_owned(),
        ));
    }
    load_with(&descriptors(), source)
}

/// The same with descriptors that the caller keeps.
pub fn load_with(pool: &DescriptorPool, source: &Source) -> Result<Loaded, LoadError> {
    let mut message =
        DynamicMessage::new(pool.get_message_by_name(BOOTSTRAP).expect("in the descriptor set"));
    let unknown = if source.allow_unknown { Unknown::Skip } else { Unknown::Refuse };
    let shaper = Shaper { pool, unknown, skipped: RefCell::default() };
    let mut places = Places::default();
    if !source.path.is_empty() {
        let (file, found) = decode(&source.path, read(&source.path)?, &shaper)?;
        merge(&mut message, &file)?;
        places = found;
    }
    if !source.yaml.is_empty() {
        let node = tree::yaml(&source.yaml).map_err(|e| LoadError(format!("--config-yaml: {e}")))?;
        let overlay = from_tree(&node, &shaper).map_err(|e| LoadError(format!("--config-yaml: {e}")))?;
        merge(&mut message, &overlay)?;
        // Lists of both are one list now, so that indices say nothing of the file.
        places = if source.path.is_empty() { Places::of(node) } else { Places::default() };
    }
    finish(&message, places, shaper)
}

/// Refuses what is not implemented.
pub(crate) fn finish(
    message: &DynamicMessage,
    places: Places,
    shaper: Shaper<'_>,
) -> Result<Loaded, LoadError> {
    let mut unknown_fields = shaper.skipped.into_inner();
    let found = fields::check(message, shaper.pool);
    if shaper.unknown == Unknown::Skip {
        unknown_fields.extend(found.unknown);
    } else if let Some(first) = found.unknown.first() {
        //= envoy: the first message with unknown fields
        return Err(LoadError(format!("Protobuf message ({first}) has unknown fields")));
    }
    if !found.refused.is_empty() {
        return Err(LoadError(places.tell(found.refused.iter().map(|f| (&*f.path, &*f.reason)))));
    }
    let bytes = message.encode_to_vec();
    let bootstrap = Bootstrap::decode(&bytes[..]).map_err(|e| LoadError(format!("does not decode: {e}")))?;
    Ok(Loaded { bootstrap, bytes, places, unknown_fields })
}

/// Protobuf's merge: repeated fields append, scalars override.
fn merge(message: &mut DynamicMessage, other: &DynamicMessage) -> Result<(), LoadError> {
    message.merge(&other.encode_to_vec()[..]).map_err(|e| LoadError(format!("does not merge: {e}")))
}

/// The message in the bytes of a file, whose name decides its form.
pub(crate) fn decode(
    path: &str,
    bytes: Vec<u8>,
    shaper: &Shaper<'_>,
) -> Result<(DynamicMessage, Places), LoadError> {
    let desc = shaper.pool.get_message_by_name(BOOTSTRAP).expect("in the descriptor set");
    let lower = path.to_ascii_lowercase();
    if lower.ends_with(".pb") {
        let message = DynamicMessage::decode(desc, &bytes[..])
            .map_err(|e| LoadError(format!("Unable to parse file \"{path}\" as a binary protobuf: {e}")))?;
        return Ok((message, Places::default()));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        LoadError(format!(
            "Unable to parse file \"{path}\": not UTF-8 at byte {}",
            e.utf8_error().valid_up_to()
        ))
    })?;
    if lower.ends_with(".pb_text") {
        check_text_depth(&text).map_err(|e| LoadError(format!("Unable to parse file \"{path}\": {e}")))?;
        return DynamicMessage::parse_text_format(desc, &text)
            .map(|message| (message, Places::default()))
            .map_err(|e| LoadError(format!("Unable to parse file \"{path}\" as a text protobuf: {e}")));
    }
    let node = if lower.ends_with(".yaml") || lower.ends_with(".yml") {
        tree::yaml(&text)
    } else {
        tree::json(&text)
    };
    let node = node.map_err(|e| LoadError(format!("Unable to parse file \"{path}\": {e}")))?;
    let message = from_tree(&node, shaper);
    let message = message.map_err(|e| LoadError(format!("Unable to parse file \"{path}\": {e}")))?;
    Ok((message, Places::of(node)))
}

/// Reads to the end; a source without end is refused.
fn read(path: &str) -> Result<Vec<u8>, LoadError> {
    let cannot = |e: std::io::Error| {
        let reason = e.to_string();
        LoadError(format!("unable to read file: {path} ({})", reason.split(" (os").next().unwrap_or(&reason)))
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(cannot)?
        .take(limits::CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > limits::CONFIG_BYTES {
        return Err(LoadError(format!("{path} is larger than {} bytes", limits::CONFIG_BYTES)));
    }
    Ok(bytes)
}

/// The text format's parser recurses; its depth is bounded before.
fn check_text_depth(text: &str) -> Result<(), String> {
    let mut depth = 0usize;
    for (number, line) in text.lines().enumerate() {
        for b in line.bytes() {
            match b {
                b'{' | b'<' | b'[' => depth += 1,
                b'}' | b'>' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > limits::CONFIG_DEPTH {
                return Err(format!("line {}: nested deeper than {}", number + 1, limits::CONFIG_DEPTH));
            }
        }
    }
    Ok(())
}

fn from_tree(node: &Node, shaper: &Shaper<'_>) -> Result<DynamicMessage, String> {
    let desc = shaper.pool.get_message_by_name(BOOTSTRAP).expect("in the descriptor set");
    let json = shaper.message(node, &desc, "").map_err(|e| e.to_string())?;
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(json, &mut track);
    DynamicMessage::deserialize(desc, tracked).map_err(|error| {
        let path = track.path().to_string();
        let at = places::deepest(node, &path).at;
        let mut reason = error.to_string();
        reason.truncate(reason.floor_char_boundary(512));
        format!("{at}: {path}: {reason}")
    })
}

/// camelCase to snake_case.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
