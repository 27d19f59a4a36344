//! The admin server, on its own thread: one list of endpoints, one file for each group of them.
//!
//! It reads snapshots and stats blocks and posts commands to the control thread; it can block neither a shard nor
//! the control thread. Endpoints that read much run beside the loop, so that a probe of `/ready` never waits for a
//! scrape. Not here: what a command does.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "admin thread")]

mod access;
mod clusters;
mod config_dump;
pub mod extensions;
mod info;
mod lifecycle;
mod listeners;
mod logging;
mod mask;
mod page;
mod places;
mod query;
mod reply;
mod runtime;
mod server;
mod stats;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use envoy_types::pb::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, RuntimeLayer};
use envoy_types::pb::envoy::config::core::v3 as core;
use selvedge_runtime::SocketAddress;

use crate::args::Options;
use crate::process::Process;
use query::Query;
use reply::Reply;

pub use server::start;

/// What the admin thread sees of the process.
#[allow(missing_debug_implementations, reason = "holds closures")]
pub struct AdminState {
    pub options: Arc<Options>,
    /// The wire form of the bootstrap.
    pub bootstrap_bytes: Arc<[u8]>,
    pub process: Arc<Process>,
    /// Name and bound addresses.
    pub listeners: Vec<(Arc<str>, Vec<SocketAddress>)>,
    pub started: Instant,
    pub started_wall: SystemTime,
    pub commands: Box<dyn Fn(Command) + Send + Sync>,
    /// Sets the numbers of the process before somebody looks at them.
    pub refresh: Box<dyn Fn() + Send + Sync>,
}

/// What the operator asks of the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Quit,
    ReopenLogs,
    DrainListeners { graceful: bool, skip_exit: bool, inbound_only: bool },
}

/// States of the server, with Envoy's numbers and names.
const STATES: [&str; 4] = ["LIVE", "DRAINING", "PRE_INITIALIZING", "INITIALIZING"];

/// What the endpoints read: the process, and what was read off its bootstrap once.
struct Admin {
    state: AdminState,
    node: core::Node,
    /// The configuration has a layer of the runtime for `/runtime_modify`.
    admin_layer: bool,
}

impl Admin {
    fn new(state: AdminState, bootstrap: &Bootstrap) -> Admin {
        let node = info::node(&state, bootstrap.node.clone().unwrap_or_default());
        let layers = bootstrap.layered_runtime.iter().flat_map(|r| &r.layers);
        let is_admin = |l: &RuntimeLayer| matches!(l.layer_specifier, Some(LayerSpecifier::AdminLayer(_)));
        let admin_layer = layers.into_iter().any(is_admin);
        Admin { state, node, admin_layer }
    }

    fn state_name(&self) -> &'static str {
        STATES.get(usize::from(self.state.process.state())).copied().unwrap_or("INITIALIZING")
    }
}

/// One endpoint.
struct Endpoint {
    path: &'static str,
    about: &'static str,
    /// Changes something: POST alone is taken.
    mutates: bool,
    /// Reads so much that it runs beside the loop.
    heavy: bool,
    params: &'static [Param],
    answer: fn(&Admin, &Query) -> Reply,
}

/// One parameter of an endpoint, for people.
struct Param {
    name: &'static str,
    kind: ParamKind,
    about: &'static str,
}

enum ParamKind {
    Text,
    Flag,
    OneOf(&'static [&'static str]),
}

const fn get(path: &'static str, about: &'static str, answer: fn(&Admin, &Query) -> Reply) -> Endpoint {
    Endpoint { path, about, mutates: false, heavy: false, params: &[], answer }
}

const fn post(path: &'static str, about: &'static str, answer: fn(&Admin, &Query) -> Reply) -> Endpoint {
    Endpoint { path, about, mutates: true, heavy: false, params: &[], answer }
}

impl Endpoint {
    const fn with(mut self, params: &'static [Param]) -> Endpoint {
        self.params = params;
        self
    }

    const fn beside(mut self) -> Endpoint {
        self.heavy = true;
        self
    }
}

const fn text(name: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Text, about }
}

const fn flag(name: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Flag, about }
}

const fn one_of(name: &'static str, values: &'static [&'static str], about: &'static str) -> Param {
    Param { name, kind: ParamKind::OneOf(values), about }
}

const FILTER: &str = "regular expression (RE2) that the name of a stat must contain";
const INVERT: &str = "show what the filter does not match";
const USED: &str = "only stats that were ever written";
const Y_OR_N: &[Param] = &[one_of("enable", &["y", "n"], "on or off")];
const LEVELS: &[&str] = &["", "trace", "debug", "info", "warning", "error", "critical", "off"];

/// THE LIST of endpoints, sorted: it drives dispatch, `/help` and the index.
#[rustfmt::skip]
static ENDPOINTS: &[Endpoint] = &[
    get("/", "this page", page::index),
    post("/allocprofiler", "allocation profiler (not in this build)", lifecycle::alloc_profiler).with(Y_OR_N),
    get("/certs", "certificates in use", info::certs),
    get("/clusters", "upstream clusters and their endpoints", clusters::clusters).beside().with(&[
        text("filter", "regular expression (RE2) that the name of a cluster must contain"),
        one_of("format", &["text", "json"], "form of the answer"),
    ]),
    get("/config_dump", "the configuration in use", config_dump::config_dump).beside().with(&[
        text("resource", "one repeated field of the dump, such as static_clusters"),
        text("mask", "fields to keep, separated by commas; with a resource they are fields of each of its elements"),
        text("name_regex", "only resources whose whole name matches"),
        flag("include_eds", "with the endpoints of clusters"),
    ]),
    get("/contention", "contention of mutexes (shards have none)", info::contention),
    post("/cpuprofiler", "CPU profiler (not in this build)", lifecycle::cpu_profiler).with(Y_OR_N),
    post("/drain_listeners", "drain listeners", lifecycle::drain_listeners).with(&[
        flag("graceful", "ask connections to close during the drain time, then stop listening"),
        flag("skip_exit", "drain connections, but never stop listening"),
        flag("inboundonly", "only listeners whose traffic_direction is INBOUND"),
    ]),
    post("/healthcheck/fail", "make health checks of this server fail", lifecycle::health_fail),
    post("/healthcheck/ok", "make health checks of this server pass", lifecycle::health_ok),
    get("/heap_dump", "profile of the heap (not in this build)", lifecycle::heap_dump),
    post("/heapprofiler", "heap profiler (not in this build)", lifecycle::heap_profiler).with(Y_OR_N),
    get("/help", "the list of commands", page::help),
    get("/hot_restart_version", "version of the hot restart protocol", info::hot_restart_version),
    get("/init_dump", "what the start waits for", info::init_dump).with(&[
        text("mask", "the component to look at, such as listener"),
    ]),
    get("/listeners", "listeners and their addresses", listeners::listeners).with(&[
        one_of("format", &["text", "json"], "form of the answer"),
    ]),
    post("/logging", "show and change levels of the log", logging::logging).with(&[
        text("paths", "<component>:<level>,<component>:<level>..."),
        text("group", "<component>:<level>; it needs fine-grain logging"),
        one_of("level", LEVELS, "level of all components"),
    ]),
    get("/memory", "memory of the process", info::memory),
    get("/memory/tcmalloc", "details of the allocator (not in this build)", info::tcmalloc),
    get("/peak_heap_dump", "profile of the heap at its peak (not in this build)", lifecycle::heap_dump),
    post("/quitquitquit", "end the process", lifecycle::quit),
    get("/ready", "state of the server: 200 when LIVE, else 503", lifecycle::ready),
    post("/reopen_logs", "open log files anew", lifecycle::reopen_logs),
    post("/reset_counters", "set all counters to zero", lifecycle::reset_counters),
    get("/runtime", "values of the runtime", runtime::runtime),
    post("/runtime_modify", "change values of the runtime: ?key1=value1&key2=value2 (not implemented yet)",
        runtime::runtime_modify),
    get("/server_info", "version, state and command line of the server", info::server_info),
    get("/stats", "stats", stats::stats).beside().with(&[
        flag("usedonly", USED),
        text("filter", FILTER),
        flag("invert_filter", INVERT),
        one_of("format", &["text", "html", "active-html", "json", "prometheus"], "form of the answer"),
        one_of("type", &["All", "Counters", "Histograms", "Gauges", "TextReadouts"], "kind of stats"),
        one_of("histogram_buckets", &["", "cumulative", "disjoint", "detailed", "summary"], "form of histograms"),
    ]),
    get("/stats/prometheus", "stats for Prometheus", stats::prometheus).beside().with(&[
        flag("usedonly", USED),
        flag("text_readouts", "text readouts as gauges of value 0 (there are none)"),
        text("filter", FILTER),
        flag("invert_filter", INVERT),
        one_of("histogram_buckets", &["cumulative", "summary"], "form of histograms"),
    ]),
    get("/stats/recentlookups", "lookups of stats by name (there are none: stats have slots)", stats::lookups),
    post("/stats/recentlookups/clear", "clear the lookups", stats::lookups_changed),
    post("/stats/recentlookups/disable", "do not record lookups", stats::lookups_changed),
    post("/stats/recentlookups/enable", "record lookups", stats::lookups_changed),
];

fn find(path: &str) -> Option<&'static Endpoint> {
    ENDPOINTS.iter().find(|e| e.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(ENDPOINTS.is_sorted_by(|a, b| a.path < b.path));
    }
}
