//! The command line: Envoy's flags, messages and exit codes, and a few flags of ours.
//!
//! Pure: arguments in, options or the way to end out. Opens no file, binds nothing, starts nothing.
//! What differs from Envoy, and why:
//! - `--restart-epoch` above 0 wants a running parent to take over from, which we cannot do yet. It is refused unless
//!   the process would start without a parent in Envoy too (`--disable-hot-restart`,
//!   `--skip-hot-restart-on-no-parent`) or does not serve at all.
//! - A second process with the same `--base-id` starts: nothing is shared by that id.
//! - The flags that `--help` calls "without effect" parse, show in `/server_info`, and change nothing.

mod flags;

use std::fmt::Write;
use std::time::Duration;

use selvedge_runtime::DriverChoice;

use crate::admin::extensions;
use crate::limits;
use crate::log::{self, Level};
use crate::version;
use flags::{Cut, Given};

/// How to end at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Serve,
    Validate,
    InitOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DrainStrategy {
    #[default]
    Gradual,
    Immediate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpVersion {
    #[default]
    V4,
    V6,
}

/// What the command line says.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// argv[0] as typed.
    pub program: String,
    pub config_path: String,
    pub config_yaml: String,
    pub mode: Mode,
    /// `None`: the cores that the machine and the cgroup grant. At least 1.
    pub concurrency: Option<u32>,
    pub cpuset_threads: bool,
    pub admin_address_path: String,
    pub local_address_ip_version: IpVersion,

    pub log_level: Level,
    /// By component, in the order given.
    pub component_log_levels: Vec<(&'static str, Level)>,
    /// As it was written.
    pub component_log_level: String,
    pub log_format: String,
    /// Whether `--log-format` was given.
    pub log_format_set: bool,
    pub log_format_escaped: bool,
    pub log_path: String,
    pub enable_fine_grain_logging: bool,
    pub log_stacktrace_single_entry: bool,
    pub skip_deprecated_logs: bool,

    pub allow_unknown_static_fields: bool,
    pub reject_unknown_dynamic_fields: bool,
    pub ignore_unknown_dynamic_fields: bool,
    pub disabled_extensions: Vec<String>,

    pub service_cluster: String,
    pub service_node: String,
    pub service_zone: String,

    pub file_flush_interval: Duration,
    pub file_flush_min_size_kb: u32,
    pub drain_time_s: u64,
    pub drain_strategy: DrainStrategy,
    pub parent_shutdown_time_s: u64,

    pub base_id: u32,
    pub use_dynamic_base_id: bool,
    pub base_id_path: String,
    pub restart_epoch: u32,
    pub disable_hot_restart: bool,
    pub skip_hot_restart_on_no_parent: bool,
    pub skip_hot_restart_parent_stats: bool,
    pub socket_path: String,
    pub socket_mode: String,

    pub enable_mutex_tracing: bool,
    pub enable_core_dump: bool,
    /// Tag and value; of two with the same tag the first.
    pub stats_tags: Vec<(String, String)>,
    /// As they were written.
    pub stats_tag: Vec<String>,

    pub driver: DriverChoice,
    pub spin_us: u32,
    /// What the process may use, in MiB; less where its cgroup says so.
    pub memory_mb: Option<u32>,
    /// What the log should say once it is open.
    pub notes: Vec<(Level, &'static str, String)>,
}

fn failure(message: &str) -> Exit {
    Exit { code: 1, stdout: String::new(), stderr: format!("error: {message}\n") }
}

fn success(stdout: String, stderr: String) -> Exit {
    Exit { code: 0, stdout, stderr }
}

/// Reads the command line; `args[0]` is the program, `driver` the environment's choice.
pub fn parse(args: &[String], driver: Option<&str>) -> Result<Options, Exit> {
    let program = args.first().map_or(version::NAME, String::as_str);
    let given = match flags::cut(args.get(1..).unwrap_or_default()) {
        Ok(Cut::Given(given)) => given,
        Ok(Cut::Help) => return Err(success(flags::help(program), String::new())),
        Ok(Cut::Version) => {
            // Agents look for `version:` and take what follows, up to the end of the line.
            let text = format!("\n{program}  version: {}\n\n", version::line());
            return Err(success(text, String::new()));
        }
        Err(e) => {
            let mut stderr = format!("PARSE ERROR: Argument: {}\n             {}\n\n", e.argument, e.message);
            stderr.push_str(&flags::brief_usage(program));
            let _infallible = writeln!(stderr, "{} -- {}", e.argument, e.message);
            return Err(Exit { code: 1, stdout: String::new(), stderr });
        }
    };
    options(program, &given, driver)
}

/// The values that have few forms.
struct Checked {
    level: Level,
    component_levels: Vec<(&'static str, Level)>,
    mode: Mode,
    local_address_ip_version: IpVersion,
    drain_strategy: DrainStrategy,
    restart_epoch: u32,
}

fn checked(given: &Given) -> Result<Checked, Exit> {
    // The checks run in Envoy's order: of several faults the same one is reported.
    let level = level(given.text("log-level").unwrap_or("info"))?;
    let component_levels = component_levels(given)?;
    let mode = match given.text("mode").unwrap_or("serve") {
        "serve" => Mode::Serve,
        "validate" => Mode::Validate,
        "init_only" => Mode::InitOnly,
        other => return Err(failure(&format!("unknown mode '{other}'"))),
    };
    let local_address_ip_version = match given.text("local-address-ip-version").unwrap_or("v4") {
        "v4" => IpVersion::V4,
        "v6" => IpVersion::V6,
        other => return Err(failure(&format!("unknown IP address version '{other}'"))),
    };
    let drain_strategy = match given.text("drain-strategy").unwrap_or("gradual") {
        "gradual" => DrainStrategy::Gradual,
        "immediate" => DrainStrategy::Immediate,
        other => return Err(failure(&format!("unknown drain-strategy '{other}'"))),
    };
    let restart_epoch = given.number("restart-epoch").unwrap_or(0);
    if restart_epoch > 0 && given.has("use-dynamic-base-id") {
        return Err(failure(&format!(
            "cannot use --restart-epoch={restart_epoch} with --use-dynamic-base-id"
        )));
    }
    if given.has("hot-restart-version") {
        //= envoy: --hot-restart-version is written to stderr, without an end of line
        let disabled = given.has("disable-hot-restart");
        let answer = if disabled { "disabled" } else { version::HOT_RESTART };
        return Err(success(String::new(), answer.to_owned()));
    }
    Ok(Checked { level, component_levels, mode, local_address_ip_version, drain_strategy, restart_epoch })
}

fn options(program: &str, given: &Given, driver: Option<&str>) -> Result<Options, Exit> {
    let text = |long| given.text(long).unwrap_or_default().to_owned();
    let number = |long, default| given.number(long).unwrap_or(default);
    let checked = checked(given)?;
    let stats_tags = stats_tags(&given.texts("stats-tag"))?;
    hot_restart(given, checked.restart_epoch, checked.mode)?;
    let (driver, spin_us) = ours(given, driver)?;
    let concurrency = given.number("concurrency").map(|n| n.max(1));
    if let Some(n) = concurrency.filter(|n| *n > limits::SHARDS) {
        return Err(failure(&format!("--concurrency {n} is more than {} shards", limits::SHARDS)));
    }
    let mut notes = Vec::new();
    let flush_kb = number("file-flush-min-size-kb", 64);
    if flush_kb > limits::LOG_BUFFER_KB_MAX {
        let most = limits::LOG_BUFFER_KB_MAX;
        notes.push((
            Level::Warning,
            "config",
            format!(
                "--file-flush-min-size-kb {flush_kb} is above {most}: logs are handed over at {most} KiB"
            ),
        ));
    }
    if given.has("allow-unknown-fields") {
        let text = "--allow-unknown-fields is deprecated, use --allow-unknown-static-fields instead.";
        notes.push((Level::Warning, "config", text.to_owned()));
    }
    let disabled_extensions = list(given.text("disable-extensions"));
    for name in &disabled_extensions {
        if extensions::exists(name) {
            notes.push((Level::Info, "misc", format!("disabled extension '{name}'")));
        } else {
            notes.push((
                Level::Warning,
                "misc",
                format!("failed to disable invalid extension name '{name}'"),
            ));
        }
    }
    Ok(Options {
        program: program.to_owned(),
        config_path: text("config-path"),
        config_yaml: text("config-yaml"),
        mode: checked.mode,
        concurrency,
        cpuset_threads: given.has("cpuset-threads"),
        admin_address_path: text("admin-address-path"),
        local_address_ip_version: checked.local_address_ip_version,
        log_level: checked.level,
        component_log_levels: checked.component_levels,
        component_log_level: text("component-log-level"),
        log_format: given.text("log-format").unwrap_or(log::DEFAULT_FORMAT).to_owned(),
        log_format_set: given.has("log-format"),
        log_format_escaped: given.has("log-format-escaped"),
        log_path: text("log-path"),
        enable_fine_grain_logging: given.has("enable-fine-grain-logging"),
        log_stacktrace_single_entry: given.has("log-stacktrace-single-entry"),
        skip_deprecated_logs: given.has("skip-deprecated-logs"),
        allow_unknown_static_fields: given.has("allow-unknown-static-fields")
            || given.has("allow-unknown-fields"),
        reject_unknown_dynamic_fields: given.has("reject-unknown-dynamic-fields"),
        ignore_unknown_dynamic_fields: given.has("ignore-unknown-dynamic-fields"),
        disabled_extensions,
        service_cluster: text("service-cluster"),
        service_node: text("service-node"),
        service_zone: text("service-zone"),
        file_flush_interval: Duration::from_millis(number("file-flush-interval-msec", 10_000).into()),
        file_flush_min_size_kb: flush_kb.min(limits::LOG_BUFFER_KB_MAX),
        drain_time_s: number("drain-time-s", 600).into(),
        drain_strategy: checked.drain_strategy,
        parent_shutdown_time_s: number("parent-shutdown-time-s", 900).into(),
        base_id: number("base-id", 0),
        use_dynamic_base_id: given.has("use-dynamic-base-id"),
        base_id_path: text("base-id-path"),
        restart_epoch: checked.restart_epoch,
        disable_hot_restart: given.has("disable-hot-restart"),
        skip_hot_restart_on_no_parent: given.has("skip-hot-restart-on-no-parent"),
        skip_hot_restart_parent_stats: given.has("skip-hot-restart-parent-stats"),
        socket_path: given.text("socket-path").unwrap_or("@envoy_domain_socket").to_owned(),
        socket_mode: text("socket-mode"),
        enable_mutex_tracing: given.has("enable-mutex-tracing"),
        enable_core_dump: given.has("enable-core-dump"),
        stats_tags,
        stats_tag: given.texts("stats-tag"),
        driver,
        spin_us,
        memory_mb: given.number("memory-mb"),
        notes,
    })
}

fn list(text: Option<&str>) -> Vec<String> {
    text.filter(|t| !t.is_empty()).iter().flat_map(|t| t.split(',')).map(str::to_owned).collect()
}

fn level(name: &str) -> Result<Level, Exit> {
    Level::of(name).ok_or_else(|| failure(&format!("invalid log level specified '{name}'")))
}

fn component_levels(given: &Given) -> Result<Vec<(&'static str, Level)>, Exit> {
    let text = given.text("component-log-level").unwrap_or_default();
    if !text.is_empty() && given.has("enable-fine-grain-logging") {
        return Err(failure("--component-log-level will not work with --enable-fine-grain-logging"));
    }
    let mut components = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let Some((name, wanted)) = part.split_once(':').filter(|(_, level)| !level.contains(':')) else {
            return Err(failure(&format!("component log level not correctly specified '{part}'")));
        };
        let wanted = level(wanted)?;
        let Some(name) = log::component(name) else {
            return Err(failure(&format!("invalid component specified '{name}'")));
        };
        components.push((name, wanted));
    }
    Ok(components)
}

//= envoy: --stats-tag: letters and digits in the tag, anything but a dot in the value
fn stats_tags(texts: &[String]) -> Result<Vec<(String, String)>, Exit> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for text in texts {
        let Some((tag, value)) = text.split_once(':') else {
            return Err(failure(&format!("misformatted stats-tag '{text}'")));
        };
        let invalid = |part: &str| {
            Err(failure(&format!("misformatted stats-tag '{text}' contains invalid char in '{part}'")))
        };
        if !tag.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return invalid(tag);
        }
        if value.is_empty() || value.contains('.') {
            return invalid(value);
        }
        if !tags.iter().any(|(t, _)| t == tag) {
            tags.push((tag.to_owned(), value.to_owned()));
        }
    }
    Ok(tags)
}

/// There is no parent to take over from: refused where Envoy would have needed one.
fn hot_restart(given: &Given, epoch: u32, mode: Mode) -> Result<(), Exit> {
    let alone = given.has("disable-hot-restart") || given.has("skip-hot-restart-on-no-parent");
    if epoch == 0 || alone || mode == Mode::Validate {
        return Ok(());
    }
    Err(failure(&format!(
        "--restart-epoch {epoch}: taking over from a running process is not implemented; \
         start with --disable-hot-restart or --skip-hot-restart-on-no-parent"
    )))
}

fn ours(given: &Given, environment: Option<&str>) -> Result<(DriverChoice, u32), Exit> {
    let from = |text: &str, origin: &str| {
        text.parse::<DriverChoice>().map_err(|e| failure(&format!("{origin}: {e}")))
    };
    let driver = match (given.text("driver"), environment) {
        (Some(text), _) => from(text, "--driver")?,
        (None, Some(text)) if !text.is_empty() => from(text, "SELVEDGE_DRIVER")?,
        (None, _) => DriverChoice::default(),
    };
    let spin_us = given.number("spin-us").unwrap_or(0);
    if spin_us > limits::SPIN_US {
        return Err(failure(&format!("--spin-us {spin_us} is more than {}", limits::SPIN_US)));
    }
    Ok((driver, spin_us))
}

#[cfg(test)]
mod tests;
