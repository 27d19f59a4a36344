//! The application log: rare lines, written where they arise, in Envoy's form.
//!
//! Every component has a level of its own; `--log-level` sets all, `--component-log-level` and `/logging` single ones.
//! Not here: access logs, which have their own thread; lines on the data path, of which there are none.
#![allow(clippy::disallowed_types, reason = "rare lines from any thread; a level is one atomic")]

mod pattern;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::panic::Location;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use selvedge_runtime::WallTime;

use crate::args::Options;

pub use pattern::{Line, Pattern};

/// Levels in rising severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl Level {
    pub const ALL: [(Level, &'static str); 7] = [
        (Level::Trace, "trace"),
        (Level::Debug, "debug"),
        (Level::Info, "info"),
        (Level::Warning, "warning"),
        (Level::Error, "error"),
        (Level::Critical, "critical"),
        (Level::Off, "off"),
    ];

    pub fn name(self) -> &'static str {
        Level::ALL[self as usize].1
    }

    pub fn of(name: &str) -> Option<Level> {
        let name = if name == "warn" { "warning" } else { name };
        Level::ALL.iter().find(|(_, n)| *n == name).map(|(l, _)| *l)
    }

    fn from_number(n: u8) -> Level {
        Level::ALL[usize::from(n).min(6)].0
    }
}

//= envoy: --log-format
pub const DEFAULT_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// Envoy's components, in the order in which `/logging` shows them: operators set levels by these names.
#[rustfmt::skip]
pub const COMPONENTS: [&str; 73] = [
    "a2a", "admin", "ai_protocol_manager", "alternate_protocols_cache", "aws", "assert", "backtrace", "basic_auth",
    "cache_filter", "client", "config", "connection", "conn_handler", "compression", "credential_injector",
    "decompression", "dns", "dubbo", "envoy_bug", "ext_authz", "ext_proc", "rocketmq", "file", "filter",
    "forward_proxy", "geolocation", "grpc", "happy_eyeballs", "hc", "health_checker", "http", "http2", "hystrix",
    "init", "io", "jwt", "json_rpc", "kafka", "key_value_store", "lua", "local_rate_limit", "main", "matcher", "mcp",
    "misc", "mongo", "multi_connection", "notification", "oauth2", "quic", "quic_stream", "pool", "rate_limit_quota",
    "rbac", "rds", "redis", "router", "runtime", "stats", "secret", "sse", "tap", "testing", "thrift", "tracing",
    "upstream", "udp", "wasm", "websocket", "golang", "stats_sinks", "dynamic_modules",
    "ip_tagging",
];

static LEVELS: [AtomicU8; COMPONENTS.len()] = [const { AtomicU8::new(Level::Info as u8) }; COMPONENTS.len()];
static SINK: Mutex<Sink> = Mutex::new(Sink { pattern: None, escaped: false, file: None });

/// Where lines go and in which form.
struct Sink {
    pattern: Option<Pattern>,
    escaped: bool,
    file: Option<(String, File)>,
}

fn sink() -> MutexGuard<'static, Sink> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The component's own name, when there is one of that name.
pub fn component(name: &str) -> Option<&'static str> {
    place(name).map(|at| COMPONENTS[at])
}

fn place(name: &str) -> Option<usize> {
    COMPONENTS.iter().position(|c| *c == name)
}

/// Sets the level of every component.
pub fn set_level(level: Level) {
    LEVELS.iter().for_each(|l| l.store(level as u8, Relaxed));
}

/// Sets the level of one component. False: there is none of that name.
pub fn set_component_level(name: &str, level: Level) -> bool {
    place(name).map(|at| LEVELS[at].store(level as u8, Relaxed)).is_some()
}

/// The level of a component; one that Envoy does not have follows `main`.
pub fn component_level(name: &str) -> Level {
    let at = place(name).or_else(|| place("main")).unwrap_or(0);
    Level::from_number(LEVELS[at].load(Relaxed))
}

/// The level of `main`.
pub fn level() -> Level {
    component_level("main")
}

/// Every component with its level, in Envoy's order.
pub fn levels() -> impl Iterator<Item = (&'static str, Level)> {
    COMPONENTS.iter().zip(&LEVELS).map(|(name, level)| (*name, Level::from_number(level.load(Relaxed))))
}

/// Sets levels and form as the command line says.
pub fn begin(options: &Options) {
    set_level(options.log_level);
    for (name, level) in &options.component_log_levels {
        set_component_level(name, *level);
    }
    set_format(&options.log_format, options.log_format_escaped);
}

/// Sets the form of the lines: a pattern of spdlog's, and whether control characters are written as escapes.
pub fn set_format(format: &str, escaped: bool) {
    let mut sink = sink();
    sink.pattern = Some(Pattern::compile(format));
    sink.escaped = escaped;
}

/// Sends the log to a file instead of stderr.
pub fn open_file(path: &str) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    sink().file = Some((path.to_owned(), file));
    Ok(())
}

/// Opens the log's file anew, for rotation. The old one stays in use when that fails.
pub fn reopen_file() -> io::Result<()> {
    let path = sink().file.as_ref().map(|(path, _)| path.clone());
    path.map_or(Ok(()), |path| open_file(&path))
}

/// One line, when the component's level lets it through.
#[track_caller]
pub fn line(level: Level, component: &str, text: &str) {
    if level < component_level(component) {
        return;
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let caller = Location::caller();
    let line = Line {
        at: WallTime(u64::try_from(since.as_nanos()).unwrap_or(0)),
        level,
        component,
        text,
        file: caller.file(),
        line: caller.line(),
    };
    let mut sink = sink();
    let Sink { pattern, escaped, file } = &mut *sink;
    let mut out = pattern.get_or_insert_with(|| Pattern::compile(DEFAULT_FORMAT)).format(&line);
    if *escaped {
        out = pattern::c_escaped(&out);
    }
    out.push('\n');
    // A log that cannot be written has nowhere to say so.
    let _nowhere_to_say = match file {
        Some((_, file)) => file.write_all(out.as_bytes()),
        None => io::stderr().write_all(out.as_bytes()),
    };
}

#[track_caller]
pub fn critical(component: &str, text: &str) {
    line(Level::Critical, component, text);
}

#[track_caller]
pub fn error(component: &str, text: &str) {
    line(Level::Error, component, text);
}

#[track_caller]
pub fn warn(component: &str, text: &str) {
    line(Level::Warning, component, text);
}

#[track_caller]
pub fn info(component: &str, text: &str) {
    line(Level::Info, component, text);
}

#[track_caller]
pub fn debug(component: &str, text: &str) {
    line(Level::Debug, component, text);
}
