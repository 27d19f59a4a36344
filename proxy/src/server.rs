//! The process: loads the configuration, binds, starts the shards, and ends them.
//!
//! ```text
//! load -> compile -> bind -> admin -> warm (names resolve) -> shards -> serve -> quit
//! ```
//! The calling thread becomes the control thread: signals, name resolution, commands. It touches no connection.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "control thread; `--mode validate` speaks on stdout as Envoy does"
)]

mod control;
pub(crate) mod gauges;
pub(crate) mod machine;
pub(crate) mod overload;
mod resolver;
mod shards;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use selvedge_runtime::listen::{BindOptions, bind_listen, bound_address, host_address};
use selvedge_runtime::{Planted, SocketAddress, cpu, memory};

use crate::access_log::sink::Writer;
use crate::admin::extensions;
use crate::args::{Mode, Options};
use crate::config::bootstrap::{self, Source};
use crate::config::listener::{ListenAddress, Listener};
use crate::config::snapshot::{self, Node, Snapshot};
use crate::log;
use crate::overload::budget::Memory;
use crate::process::{Pace, Process};
use crate::shard::DrainPace;

/// What was made of the configuration, before anything runs.
#[derive(Debug)]
pub struct Plan {
    pub options: Arc<Options>,
    /// The wire form of the bootstrap, for dumps.
    pub bootstrap: Arc<[u8]>,
    pub memory: Memory,
    /// Fields of it that the API does not have.
    pub unknown_fields: usize,
    /// A bug that a test plants.
    pub planted: Planted,
}

/// One listener's sockets: for each shard, one for each of its addresses.
#[derive(Debug)]
pub struct Bound {
    pub addresses: Vec<SocketAddress>,
    pub sockets: Vec<Vec<OwnedFd>>,
}

/// Runs the server to its end. The answer is the exit code.
pub fn run(options: Options) -> i32 {
    log::begin(&options);
    log_panics();
    if !options.log_path.is_empty()
        && options.mode != Mode::Validate
        && let Err(error) = log::open_file(&options.log_path)
    {
        let (path, reason) = (&options.log_path, error.to_string());
        let reason = reason.split(" (os").next().unwrap_or(&reason);
        eprintln!("Failed to open log-file '{path}'. e.what(): unable to open file '{path}': {reason}");
        return 1;
    }
    for (level, component, note) in &options.notes {
        log::line(*level, component, note);
    }
    write_base_id(&options);
    match serve(options) {
        Ok(()) => 0,
        Err(error) => {
            log::critical("main", &error);
            1
        }
    }
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| log::critical("assert", &panic.to_string().replace('\n', " "))));
}

fn serve(options: Options) -> Result<(), String> {
    let started = Instant::now();
    let (plan, snapshot) = load(options)?;
    if plan.options.mode == Mode::Validate {
        println!("configuration '{}' OK", plan.options.config_path);
        return Ok(());
    }
    let (core, bound) = prepare(plan, snapshot, started)?;
    control::run(&core, bound)
}

/// Makes what all threads share, and binds.
fn prepare(
    plan: Plan,
    snapshot: Arc<Snapshot>,
    started: Instant,
) -> Result<(Arc<control::Core>, Vec<Bound>), String> {
    let options = &plan.options;
    let here =
        |reason: String| format!("error initializing configuration '{}': {reason}", options.config_path);
    let shards = shard_count(options);
    let mut bound = Vec::new();
    for listener in &snapshot.listeners {
        bound.push(bind(listener, shards).map_err(here)?);
    }
    let writer = Writer::start(options.file_flush_min_size_kb as usize * 1024)
        .map_err(|e| here(format!("no writer thread: {e}")))?;
    let pace = Pace {
        log_flush: options.file_flush_interval,
        drain: DrainPace { strategy: options.drain_strategy, time_s: options.drain_time_s },
        connections_max: Some(plan.memory.connections),
    };
    let listeners = snapshot.listeners.iter().zip(&bound);
    let listeners = listeners.map(|(l, b)| (Arc::clone(&l.name), b.addresses.clone())).collect();
    let process = Process::new(shards, snapshot, writer, pace, host_address().to_string());
    let core = Arc::new(control::Core { process: Arc::new(process), listeners, started, plan });
    Ok((core, bound))
}

fn load(options: Options) -> Result<(Plan, Arc<Snapshot>), String> {
    let source = Source {
        path: options.config_path.clone(),
        yaml: options.config_yaml.clone(),
        allow_unknown: options.allow_unknown_static_fields,
    };
    let here = |reason: &str| format!("error initializing configuration '{}': {reason}", options.config_path);
    let loaded = bootstrap::load(&source).map_err(|e| here(&e.0))?;
    if let Some(reason) = extensions::refusal(&options.disabled_extensions, &loaded.bytes) {
        return Err(here(&reason));
    }
    for unknown in &loaded.unknown_fields {
        log::warn("config", &format!("Unknown field: {unknown}"));
    }
    let node = node(&options, &loaded.bootstrap);
    let snapshot = snapshot::compile(&loaded.bootstrap, node)
        .map_err(|rejections| here(&loaded.places.tell(rejections.iter().map(|r| (&*r.path, &*r.reason)))))?;
    drop((loaded.bootstrap, loaded.places));
    // The descriptors of the whole API took 17 MB.
    memory::give_back();
    // A configuration is checked for another machine, too.
    let memory = match options.mode {
        Mode::Validate => Memory::default(),
        _ => memory_plan(&options).map_err(|e| here(&e))?,
    };
    let plan = Plan {
        memory,
        options: Arc::new(options),
        bootstrap: loaded.bytes.into(),
        unknown_fields: loaded.unknown_fields.len(),
        planted: Planted::default(),
    };
    Ok((plan, Arc::new(snapshot)))
}

/// Flags of the command line come before the file. //= envoy: LocalInfo
fn node(options: &Options, config: &envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap) -> Node {
    let own = config.node.clone().unwrap_or_default();
    let locality = own.locality.unwrap_or_default();
    let first = |flag: &str, file: String| if flag.is_empty() { file } else { flag.to_owned() };
    Node {
        id: first(&options.service_node, own.id),
        cluster: first(&options.service_cluster, own.cluster),
        region: locality.region,
        zone: first(&options.service_zone, locality.zone),
        sub_zone: locality.sub_zone,
    }
}

/// What shards may take of what the flag, the cgroup or the machine leaves.
fn memory_plan(options: &Options) -> Result<Memory, String> {
    let machine = memory::physical().unwrap_or(u64::MAX);
    let cgroup = memory::cgroup().and_then(|c| c.limit).unwrap_or(u64::MAX);
    let limit = options.memory_mb.map_or(u64::MAX, |mb| u64::from(mb) << 20).min(cgroup).min(machine);
    let used = memory::used().map_or(0, |used| used.private);
    Memory::plan(limit, used, shard_count(options) as u64).map_err(|e| e.to_string())
}

fn shard_count(options: &Options) -> usize {
    match options.concurrency {
        //= envoy: --concurrency 0 means one worker
        Some(n) => (n as usize).max(1),
        None => cpu::available_cores().max(1),
    }
}

/// Binds a listener's addresses: a socket for each shard, or one that the shards share.
fn bind(listener: &Listener, shards: usize) -> Result<Bound, String> {
    let mut bound = Bound { addresses: Vec::new(), sockets: (0..shards).map(|_| Vec::new()).collect() };
    for address in &listener.addresses {
        let several = listener.reuse_port && matches!(address.address, SocketAddress::Ip(_));
        let fail = |at: &SocketAddress, e: &std::io::Error| {
            let reason = e.to_string();
            let reason = reason.split(" (os").next().unwrap_or(&reason).to_owned();
            format!("error adding listener '{}': cannot bind '{at}': {reason}", listener.name)
        };
        let first =
            open(listener, address, &address.address, several).map_err(|e| fail(&address.address, &e))?;
        let actual = bound_address(&first).unwrap_or_else(|| address.address.clone());
        for shard in 1..shards {
            let socket = if several { open(listener, address, &actual, true) } else { first.try_clone() };
            bound.sockets[shard].push(socket.map_err(|e| fail(&actual, &e))?);
        }
        bound.sockets[0].push(first);
        bound.addresses.push(actual);
    }
    Ok(bound)
}

fn open(
    listener: &Listener,
    address: &ListenAddress,
    to: &SocketAddress,
    reuse_port: bool,
) -> std::io::Result<OwnedFd> {
    let options = BindOptions {
        reuse_port,
        backlog: listener.backlog.unwrap_or(0),
        ipv4_compat: address.ipv4_compat,
        mode: (address.mode != 0).then_some(address.mode),
    };
    bind_listen(to, &options)
}

/// Writes what scripts wait for where a flag says. A failure is logged, as Envoy does.
fn write_out(path: &str, what: &str, value: &str) {
    if path.is_empty() {
        return;
    }
    if let Err(error) = std::fs::write(Path::new(path), value) {
        log::critical("main", &format!("cannot open {what} output file {path} for writing: {error}"));
    }
}

/// The id is that of a hot restart, so that nothing is written without one; nothing else here uses it.
fn write_base_id(options: &Options) {
    if options.mode == Mode::Validate || options.disable_hot_restart {
        return;
    }
    let id = if options.use_dynamic_base_id { std::process::id() } else { options.base_id };
    write_out(&options.base_id_path, "base id", &id.to_string());
}
