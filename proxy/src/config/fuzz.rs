//! What is fuzzed of the configuration: any bytes give a snapshot or an exact refusal, and never a panic.
#![allow(clippy::disallowed_types, reason = "control thread")]

use std::cell::RefCell;
use std::sync::OnceLock;

use prost_reflect::DescriptorPool;
use regex::bytes::Regex;

use crate::config::bootstrap::shape::{Shaper, Unknown};
use crate::config::bootstrap::{self, LoadError};
use crate::config::{regex as re2, snapshot};

/// A refusal is for people: it names many fields at most.
const REASON_BYTES: usize = 64 * 1024;
const PATTERN_BYTES: usize = 48;
/// Loaded once: reading them costs more than a thousand bootstraps.
static DESCRIPTORS: OnceLock<DescriptorPool> = OnceLock::new();

/// A bootstrap. The first byte says its form: `b`inary, `t`ext, `j`son, else YAML.
pub fn bootstrap(data: &[u8]) {
    let Some((form, bytes)) = data.split_first() else { return };
    let name = match form {
        b'b' => "binary.pb",
        b't' => "text.pb_text",
        b'j' => "tree.json",
        _ => "tree.yaml",
    };
    let pool = DESCRIPTORS.get_or_init(bootstrap::descriptors);
    let shaper = Shaper { pool, unknown: Unknown::Refuse, skipped: RefCell::default() };
    let decoded = bootstrap::decode(name, bytes.to_vec(), &shaper);
    let loaded = match decoded.and_then(|(message, places)| bootstrap::finish(&message, places, shaper)) {
        Ok(loaded) => loaded,
        Err(LoadError(reason)) => {
            let tree = name != "binary.pb" && name != "text.pb_text";
            let placed = ["line ", ": not UTF-8 at byte ", ") has unknown fields"];
            assert!(!tree || placed.iter().any(|p| reason.contains(p)), "it does not say where: {reason:?}");
            return assert!(!reason.is_empty() && reason.len() < REASON_BYTES, "{reason:?}");
        }
    };
    // Where it names files and variables, it tells of the machine, not of the code.
    if [&b"/"[..], b"environment_variable"].iter().any(|w| memchr::memmem::find(&loaded.bytes, w).is_some())
        && memchr::memmem::find(bytes, b"filename").is_some()
    {
        return;
    }
    match snapshot::compile(&loaded.bootstrap, snapshot::Node::default()) {
        Ok(compiled) => {
            assert_eq!(
                compiled.clusters.len(),
                loaded.bootstrap.static_resources.map_or(0, |r| r.clusters.len())
            );
        }
        Err(rejections) => {
            assert!(!rejections.is_empty(), "a refusal without a reason");
            assert!(rejections.iter().all(|r| !r.reason.is_empty()), "{rejections:?}");
        }
    }
}

/// A pattern, a line feed, and a text to match: what is translated compiles, and matching ends.
pub fn regex(data: &[u8]) {
    let (pattern, text) = match data.iter().position(|b| *b == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b""[..]),
    };
    let Ok(pattern) = std::str::from_utf8(pattern) else { return };
    // Longer ones say nothing new, and take long to compile.
    if pattern.len() > PATTERN_BYTES {
        return;
    }
    let translated = re2::translate(pattern);
    let outcome = |found: Result<Regex, String>| match (&translated, found) {
        (Ok(_), Ok(regex)) => Some(regex),
        (Ok(_), Err(reason)) => {
            assert_eq!(reason, "pattern too large - compile failed", "{pattern:?}");
            None
        }
        (Err(reason), found) => {
            assert_eq!(found.err().as_ref(), Some(reason));
            None
        }
    };
    let Some(whole) = outcome(re2::whole(pattern)) else { return };
    // It may be the larger program: it can begin anywhere.
    if whole.is_match(text)
        && let Some(search) = outcome(re2::search(pattern))
    {
        assert!(search.is_match(text), "what matches as a whole is found: {pattern:?}");
    }
}
