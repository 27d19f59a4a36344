//! Compiles header mutations and per-route overrides of filters.

#![expect(deprecated, reason = "older fields are part of the API")]
#![expect(clippy::disallowed_types, reason = "the decoder's maps, on the control side")]

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::google::protobuf::Any;

use crate::access_log::format::Format;
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values::{self, header_safe};
use crate::filters;
use crate::log;
use crate::route::mutations::{AppendAction, HeaderAdd, HeaderMutations};
use crate::route::table::{FilterOverride, Mutations, PerFilter};

/// What says where a message ends is decided once, and written from that decision.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];
const AT_LEAST_ONE: &str = "value length must be at least 1 characters";

/// The four lists of one level.
#[derive(Debug, Clone, Copy)]
pub struct Lists<'a> {
    pub message: &'static str,
    pub request_add: &'a [core::HeaderValueOption],
    pub request_remove: &'a [String],
    pub response_add: &'a [core::HeaderValueOption],
    pub response_remove: &'a [String],
}

/// The lists of a message that has all four.
macro_rules! lists {
    ($name:literal, $message:expr) => {
        $crate::config::mutations::Lists {
            message: $name,
            request_add: &$message.request_headers_to_add,
            request_remove: &$message.request_headers_to_remove,
            response_add: &$message.response_headers_to_add,
            response_remove: &$message.response_headers_to_remove,
        }
    };
}
pub(crate) use lists;

pub fn mutations(lists: Lists<'_>, at: &At<'_>) -> Result<Mutations, Fault> {
    let l = lists;
    Ok(Mutations {
        request: HeaderMutations {
            add: adds(l.request_add, l.message, "request_headers_to_add", at)?,
            remove: removes(l.request_remove, l.message, "request_headers_to_remove", at)?,
        },
        response: HeaderMutations {
            add: adds(l.response_add, l.message, "response_headers_to_add", at)?,
            remove: removes(l.response_remove, l.message, "response_headers_to_remove", at)?,
        },
    })
}

fn adds(
    list: &[core::HeaderValueOption],
    message: &'static str,
    field: &'static str,
    at: &At<'_>,
) -> Result<Box<[HeaderAdd]>, Fault> {
    if list.len() > 1000 {
        return Err(at.field(message, field).violates("value must contain no more than 1000 item(s)"));
    }
    list.iter().enumerate().map(|(i, option)| add(option, &at.item(message, field, i))).collect()
}

fn add(option: &core::HeaderValueOption, at: &At<'_>) -> Result<HeaderAdd, Fault> {
    let here = at.field("HeaderValueOption", "header");
    let Some(header) = &option.header else { return Err(here.violates("value is required")) };
    let key = here.field("HeaderValue", "key");
    if header.key.is_empty() {
        return Err(key.violates(AT_LEAST_ONE));
    }
    header_safe(&header.key, &key)?;
    header_safe(&header.value, &here.field("HeaderValue", "value"))?;
    let name = header.key.to_ascii_lowercase();
    //= envoy: pseudo fields and host are changed by rewrites only
    if name.starts_with(':') || name == "host" {
        return Err(at.refuse(":-prefixed or host headers may not be modified"));
    }
    if FRAMING.contains(&name.as_str()) {
        return Err(
            at.refuse(format!("{name} belongs to the framing of the message and may not be modified"))
        );
    }
    let action = match (&option.append, option.append_action) {
        (Some(_), action) if action != 0 => {
            return Err(at.refuse("Both append and append_action are set and it's not allowed"));
        }
        (Some(append), _) if !append.value => AppendAction::OverwriteIfExistsOrAdd,
        (_, 0) => AppendAction::AppendIfExistsOrAdd,
        (_, 1) => AppendAction::AddIfAbsent,
        (_, 2) => AppendAction::OverwriteIfExistsOrAdd,
        (_, 3) => AppendAction::OverwriteIfExists,
        _ => {
            let here = at.field("HeaderValueOption", "append_action");
            return Err(here.violates("value must be one of the defined enum values"));
        }
    };
    let raw = String::from_utf8_lossy(&header.raw_value);
    let text = if header.value.is_empty() { &raw } else { header.value.as_str() };
    let value = Format::compile(text, true).map_err(|e| here.refuse(e.to_string()))?;
    Ok(HeaderAdd { name: name.as_bytes().into(), value, action, keep_empty: option.keep_empty_value })
}

fn removes(
    list: &[String],
    message: &'static str,
    field: &'static str,
    at: &At<'_>,
) -> Result<Box<[Box<[u8]>]>, Fault> {
    let one = |(i, name): (usize, &String)| -> Result<Box<[u8]>, Fault> {
        let here = at.item(message, field, i);
        if name.is_empty() {
            return Err(here.violates(AT_LEAST_ONE));
        }
        header_safe(name, &here)?;
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(':') || lower == "host" {
            return Err(here.refuse(":-prefixed or host headers may not be removed"));
        }
        if FRAMING.contains(&lower.as_str()) {
            return Err(
                here.refuse(format!("{lower} belongs to the framing of the message and may not be removed"))
            );
        }
        Ok(lower.as_bytes().into())
    };
    list.iter().enumerate().map(one).collect()
}

/// `typed_per_filter_config` of one level.
pub fn per_filter(
    map: &HashMap<String, Any>,
    lookup: Lookup<'_>,
    message: &'static str,
    at: &At<'_>,
) -> Result<PerFilter, Fault> {
    let here = at.field(message, "typed_per_filter_config");
    let mut names: Vec<&String> = map.keys().collect();
    names.sort();
    let mut list = Vec::new();
    for name in names {
        if let Some(found) = one_override(name, &map[name], lookup, &here)? {
            list.push((Arc::from(name.as_str()), found));
        }
    }
    Ok(PerFilter::new(list))
}

fn one_override(
    name: &str,
    any: &Any,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<Option<FilterOverride>, Fault> {
    let config = |any: &Any, optional: bool| match filters::compile_route(any, lookup, at) {
        Some(compiled) => Ok(Some(FilterOverride::Config(Arc::new(compiled?)))),
        None if optional => {
            let text = format!(
                "Can't find a registered implementation for http filter '{name}' with type URL: '{}'",
                values::type_name(any)
            );
            log::warn("http", &text);
            Ok(None)
        }
        None if values::type_name(any) == "envoy.extensions.filters.http.router.v3.Router" => Err(at.refuse(
            format!("The filter {name} doesn't support virtual host or route specific configurations"),
        )),
        None => Err(at.refuse(format!(
            "Didn't find a registered implementation for '{name}' with type URL: '{}'",
            values::type_name(any)
        ))),
    };
    if values::type_name(any) != "envoy.config.route.v3.FilterConfig" {
        return config(any, false);
    }
    let inner: route::FilterConfig = values::unpack(any, at)?;
    match &inner.config {
        _ if inner.disabled => Ok(Some(FilterOverride::Disabled)),
        Some(any) if matches!(values::type_name(any), "" | "google.protobuf.Empty") => {
            Ok(Some(FilterOverride::Enabled))
        }
        Some(any) => config(any, inner.is_optional),
        None => {
            Err(at.refuse(format!("Empty route/virtual host per filter configuration for {name} filter")))
        }
    }
}
