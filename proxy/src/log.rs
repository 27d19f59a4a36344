//! The application log: rare lines, written where they arise, in Envoy's form.
#![allow(clippy::disallowed_types, reason = "rare lines from any thread; the level is one atomic")]

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::SystemTime;

use selvedge_runtime::WallTime;

use crate::access_log::format::Civil;

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
}

/// Envoy's components, as `--component-log-level` and `/logging` name them.
pub const COMPONENTS: &[&str] = &[
    "admin",
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "config",
    "connection",
    "conn_handler",
    "compression",
    "credential_injector",
    "decompression",
    "dns",
    "dynamic_forward_proxy",
    "dynamic_modules",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "external_processor",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "golang",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "jwt",
    "kafka",
    "key_value_store",
    "lua",
    "main",
    "matcher",
    "misc",
    "mongo",
    "multi_connection",
    "oauth2",
    "pool",
    "postgres",
    "process_ratelimit",
    "quic",
    "quic_stream",
    "rate_limit_quota",
    "rbac",
    "redis",
    "rocketmq",
    "router",
    "runtime",
    "secret",
    "stats",
    "stats_sinks",
    "stateful_session",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "upstream",
    "udp",
    "wasm",
    "websocket",
    "golang",
];

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static FILE: OnceLock<std::fs::File> = OnceLock::new();

pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Relaxed);
}

pub fn level() -> Level {
    Level::ALL[usize::from(LEVEL.load(Relaxed)).min(6)].0
}

/// Sends the log to a file instead of stderr.
pub fn open_file(path: &str) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    let _set_once = FILE.set(file);
    Ok(())
}

/// One line. //= envoy: default log format `[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v`
pub fn line(level: Level, component: &str, text: &str) {
    if level < self::level() {
        return;
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = WallTime(u64::try_from(since.as_nanos()).unwrap_or(0));
    let c = Civil::of(now.seconds());
    let line = format!(
        "[{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}][{}][{}][{component}] [selvedge] {text}\n",
        c.year,
        c.month,
        c.day,
        c.hour,
        c.minute,
        c.second,
        now.0 / 1_000_000 % 1000,
        std::process::id(),
        level.name(),
    );
    // A log that cannot be written has nowhere to say so.
    let _nowhere_to_say = match FILE.get() {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

pub fn critical(component: &str, text: &str) {
    line(Level::Critical, component, text);
}

pub fn error(component: &str, text: &str) {
    line(Level::Error, component, text);
}

pub fn warn(component: &str, text: &str) {
    line(Level::Warning, component, text);
}

pub fn info(component: &str, text: &str) {
    line(Level::Info, component, text);
}
