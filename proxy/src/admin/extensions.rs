//! The extensions that configurations may name: for the node, and for `--disable-extensions`.

use envoy_types::pb::envoy::config::core::v3 as core;

/// An extension that is there.
#[derive(Debug)]
struct Extension {
    name: &'static str,
    category: &'static str,
    type_url: &'static str,
}

const fn extension(name: &'static str, category: &'static str, type_url: &'static str) -> Extension {
    Extension { name, category, type_url }
}

/// What configurations may name. Each filter of `filters` is one line here.
#[rustfmt::skip]
const EXTENSIONS: &[Extension] = &[
    extension("envoy.access_loggers.file", "envoy.access_loggers", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    extension("envoy.access_loggers.stderr", "envoy.access_loggers", "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"),
    extension("envoy.access_loggers.stdout", "envoy.access_loggers", "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
    extension("envoy.cluster.static", "envoy.clusters", ""),
    extension("envoy.cluster.strict_dns", "envoy.clusters", ""),
    extension("envoy.filters.http.buffer", "envoy.filters.http", "envoy.extensions.filters.http.buffer.v3.Buffer"),
    extension("envoy.filters.http.ext_authz", "envoy.filters.http", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"),
    extension("envoy.filters.http.fault", "envoy.filters.http", "envoy.extensions.filters.http.fault.v3.HTTPFault"),
    extension("envoy.filters.http.router", "envoy.filters.http", "envoy.extensions.filters.http.router.v3.Router"),
    extension("envoy.filters.network.http_connection_manager", "envoy.filters.network",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
    extension("envoy.load_balancing_policies.least_request", "envoy.load_balancing_policies",
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"),
    extension("envoy.load_balancing_policies.random", "envoy.load_balancing_policies",
        "envoy.extensions.load_balancing_policies.random.v3.Random"),
    extension("envoy.load_balancing_policies.round_robin", "envoy.load_balancing_policies",
        "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"),
    extension("envoy.upstreams.http.http_protocol_options", "envoy.upstream_options",
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
];

impl Extension {
    /// As `--disable-extensions` writes it.
    fn is(&self, full_name: &str) -> bool {
        full_name
            .split_once('/')
            .is_some_and(|(category, name)| category == self.category && name == self.name)
    }
}

/// As the node lists them.
pub(super) fn messages(disabled: &[String]) -> Vec<core::Extension> {
    let message = |e: &Extension| core::Extension {
        name: e.name.to_owned(),
        category: e.category.to_owned(),
        disabled: disabled.iter().any(|d| e.is(d)),
        type_urls: Some(e.type_url).filter(|t| !t.is_empty()).map(str::to_owned).into_iter().collect(),
        ..core::Extension::default()
    };
    EXTENSIONS.iter().map(message).collect()
}

/// Whether `category/name` is an extension that can be disabled.
pub fn exists(full_name: &str) -> bool {
    EXTENSIONS.iter().any(|e| e.is(full_name))
}

/// Why a bootstrap cannot be used with these extensions disabled; `None`: it names none of them.
///
/// Type URLs stand in the wire form as they are written, so that they are found at any depth.
//= envoy: --disable-extensions
pub fn refusal(disabled: &[String], bootstrap: &[u8]) -> Option<String> {
    let off = |e: &&Extension| !e.type_url.is_empty() && disabled.iter().any(|d| e.is(d));
    let named = |e: &&Extension| {
        memchr::memmem::find(bootstrap, format!("type.googleapis.com/{}", e.type_url).as_bytes()).is_some()
    };
    EXTENSIONS.iter().filter(off).find(named).map(|e| {
        format!("Didn't find a registered implementation for '{}' with type URL: '{}'", e.name, e.type_url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabled_extensions_are_not_there() {
        let off = ["envoy.filters.http/envoy.filters.http.fault".to_owned()];
        assert!(exists(&off[0]) && !exists("envoy.filters.http.fault"));
        assert_eq!(
            refusal(&off, b"..type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"),
            None
        );
        let refused =
            refusal(&off, b"..type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault..");
        assert!(refused.is_some_and(|r| r.contains("'envoy.filters.http.fault'")));
        assert_eq!(messages(&off).iter().filter(|e| e.disabled).count(), 1);
    }
}
