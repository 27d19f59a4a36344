//! The command line: Envoy's flags, their errors and exit codes, and a few of our own.
//!
//! Parses only; it reads no file and no clock. Source: observed on Envoy 1.40.0.

use std::fmt::Write as _;
use std::time::Duration;

use selvedge_runtime::DriverChoice;

use crate::log::Level;
use crate::version;

/// What the process shall do with its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Serve,
    Validate,
    InitOnly,
}

/// Every flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub config_path: String,
    pub config_yaml: String,
    pub mode: Mode,
    /// `None`: as many shards as the machine or its cgroup allows.
    pub concurrency: Option<u32>,
    pub driver: DriverChoice,
    pub spin_us: u32,
    pub admin_address_path: String,
    pub log_level: Level,
    /// Component and level, in the order given.
    pub component_log_level: Vec<(String, Level)>,
    pub log_format: String,
    pub log_format_escaped: bool,
    pub log_path: String,
    pub fine_grain_logging: bool,
    pub stacktrace_single_entry: bool,
    pub allow_unknown_static_fields: bool,
    pub reject_unknown_dynamic_fields: bool,
    pub ignore_unknown_dynamic_fields: bool,
    pub skip_deprecated_logs: bool,
    pub base_id: u32,
    pub use_dynamic_base_id: bool,
    pub base_id_path: String,
    pub restart_epoch: u32,
    pub disable_hot_restart: bool,
    pub skip_hot_restart_on_no_parent: bool,
    pub skip_hot_restart_parent_stats: bool,
    pub socket_path: String,
    pub socket_mode: u32,
    pub service_cluster: String,
    pub service_node: String,
    pub service_zone: String,
    pub drain_time_s: u64,
    /// `gradual`, or at once.
    pub drain_gradually: bool,
    pub parent_shutdown_time_s: u64,
    pub file_flush_interval: Duration,
    pub file_flush_min_size_kb: u32,
    pub local_address_v6: bool,
    pub cpuset_threads: bool,
    pub enable_mutex_tracing: bool,
    pub enable_core_dump: bool,
    pub disable_extensions: Vec<String>,
    pub stats_tags: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            config_path: String::new(),
            config_yaml: String::new(),
            mode: Mode::Serve,
            concurrency: None,
            driver: DriverChoice::Auto,
            spin_us: 0,
            admin_address_path: String::new(),
            log_level: Level::Info,
            component_log_level: Vec::new(),
            log_format: String::new(),
            log_format_escaped: false,
            log_path: String::new(),
            fine_grain_logging: false,
            stacktrace_single_entry: false,
            allow_unknown_static_fields: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            skip_deprecated_logs: false,
            base_id: 0,
            use_dynamic_base_id: false,
            base_id_path: String::new(),
            restart_epoch: 0,
            disable_hot_restart: false,
            skip_hot_restart_on_no_parent: false,
            skip_hot_restart_parent_stats: false,
            socket_path: "@envoy_domain_socket".to_owned(),
            socket_mode: 0,
            service_cluster: String::new(),
            service_node: String::new(),
            service_zone: String::new(),
            drain_time_s: 600,
            drain_gradually: true,
            parent_shutdown_time_s: 900,
            file_flush_interval: Duration::from_secs(10),
            file_flush_min_size_kb: 64,
            local_address_v6: false,
            cpuset_threads: false,
            enable_mutex_tracing: false,
            enable_core_dump: false,
            disable_extensions: Vec::new(),
            stats_tags: Vec::new(),
        }
    }
}

/// The process ends here: what it prints, and its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    fn said(stdout: String) -> Exit {
        Exit { code: 0, stdout, stderr: String::new() }
    }

    fn error(text: &str) -> Exit {
        Exit { code: 1, stdout: String::new(), stderr: format!("{text}\n") }
    }
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Text,
    /// A whole number below 2^32; as in Envoy `-1` wraps.
    Number,
    /// May be given several times.
    Texts,
}

struct Flag {
    long: &'static str,
    short: Option<char>,
    takes: Takes,
    about: &'static str,
}

const fn flag(long: &'static str, takes: Takes, about: &'static str) -> Flag {
    Flag { long, short: None, takes, about }
}

const fn short(long: &'static str, short: char, takes: Takes, about: &'static str) -> Flag {
    Flag { long, short: Some(short), takes, about }
}

use Takes::{Nothing, Number, Text, Texts};

/// THE LIST of flags, in the order in which help shows them.
const FLAGS: &[Flag] = &[
    short("config-path", 'c', Text, "The bootstrap: .yaml, .yml, .pb, .pb_text by suffix, else JSON."),
    flag("config-yaml", Text, "A bootstrap in YAML, merged over that of --config-path."),
    flag(
        "mode",
        Text,
        "serve (default), validate (load, say OK or why not, end) or init_only (load, start, end).",
    ),
    flag(
        "concurrency",
        Number,
        "Number of shards. Default: the cores that the machine and its cgroup allow.",
    ),
    flag("driver", Text, "auto (default), uring or epoll. Also by the environment variable SELVEDGE_DRIVER."),
    flag(
        "spin-us",
        Number,
        "Microseconds for which an idle shard watches for work before it sleeps. Default 0.",
    ),
    short("log-level", 'l', Text, "trace, debug, info (default), warning or warn, error, critical, off."),
    flag("component-log-level", Text, "Levels by component, e.g. upstream:debug,config:trace."),
    flag(
        "log-format",
        Text,
        "Format of the application log. Default [%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v",
    ),
    flag("log-format-escaped", Nothing, "Escape control characters in the application log."),
    flag("log-path", Text, "File of the application log. Default: stderr."),
    flag("enable-fine-grain-logging", Nothing, "Accepted; levels are by component here."),
    flag("log-stacktrace-single-entry", Nothing, "Accepted; a panic is one log entry here anyway."),
    flag("admin-address-path", Text, "File to which the bound admin address is written."),
    flag("service-cluster", Text, "Cluster of this node; overrides the file."),
    flag("service-node", Text, "Id of this node; overrides the file."),
    flag("service-zone", Text, "Zone of this node; overrides the file."),
    flag("drain-time-s", Number, "Seconds over which listeners drain. Default 600."),
    flag("drain-strategy", Text, "gradual (default) or immediate."),
    flag("parent-shutdown-time-s", Number, "Seconds until a parent ends after a hot restart. Default 900."),
    flag("file-flush-interval-msec", Number, "Milliseconds between flushes of access logs. Default 10000."),
    flag("file-flush-min-size-kb", Number, "Size at which an access log is flushed. Default 64."),
    flag("local-address-ip-version", Text, "v4 (default) or v6."),
    flag("allow-unknown-fields", Nothing, "Older name of --allow-unknown-static-fields."),
    flag("allow-unknown-static-fields", Nothing, "Skip unknown fields of the bootstrap."),
    flag(
        "reject-unknown-dynamic-fields",
        Nothing,
        "Refuse unknown fields of resources from a control plane.",
    ),
    flag("ignore-unknown-dynamic-fields", Nothing, "Do not even count such fields."),
    flag("skip-deprecated-logs", Nothing, "Do not warn about deprecated fields."),
    flag("base-id", Number, "Tells processes on one host apart. Default 0."),
    flag("use-dynamic-base-id", Nothing, "Choose a base id that is free."),
    flag("base-id-path", Text, "File to which the base id is written."),
    flag("restart-epoch", Number, "Generation of a hot restart. Only 0 is supported."),
    flag("hot-restart-version", Nothing, "Print the compatibility version of hot restart and end."),
    flag("disable-hot-restart", Nothing, "Accepted; there is no hot restart here yet."),
    flag("skip-hot-restart-on-no-parent", Nothing, "Accepted, as above."),
    flag("skip-hot-restart-parent-stats", Nothing, "Accepted, as above."),
    flag("socket-path", Text, "Socket of hot restart."),
    flag("socket-mode", Text, "Mode of that socket."),
    flag("cpuset-threads", Nothing, "Take the number of shards from the cpuset; it is the default here."),
    flag("enable-mutex-tracing", Nothing, "Accepted; shards have no mutexes to trace."),
    flag("enable-core-dump", Nothing, "Accepted; the limits of the process decide."),
    flag("disable-extensions", Text, "Names of extensions to refuse, separated by commas."),
    flag("stats-tag", Texts, "name:value, added to all stats."),
    flag("version", Nothing, "Print the version and end."),
    short("help", 'h', Nothing, "Print this and end."),
];

/// The flags that were given, with their values.
#[derive(Debug, Default)]
struct Given(Vec<(&'static str, String)>);

impl Given {
    fn has(&self, long: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == long)
    }

    fn text(&self, long: &str) -> String {
        self.0.iter().find(|(name, _)| *name == long).map(|(_, v)| v.clone()).unwrap_or_default()
    }

    fn number(&self, long: &str) -> Option<u32> {
        self.0.iter().find(|(name, _)| *name == long).and_then(|(_, v)| number(v))
    }
}

/// Parses the command line. `args[0]` is the program; `driver`: the environment's choice.
pub fn parse(args: &[String], driver: Option<&str>) -> Result<Options, Exit> {
    let program = args.first().map_or("selvedge", String::as_str);
    let given = scan(program, args.get(1..).unwrap_or_default())?;
    if given.has("help") {
        return Err(Exit::said(help(program)));
    }
    if given.has("version") {
        return Err(Exit::said(format!("\n{program}  version: {}\n\n", version::line())));
    }
    if given.has("hot-restart-version") {
        return Err(Exit::said(format!("{}\n", version::HOT_RESTART)));
    }
    options(&given, driver).map_err(|text| Exit::error(&text))
}

fn scan(program: &str, args: &[String]) -> Result<Given, Exit> {
    let mut given = Given::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        // TCLAP: everything behind `--` is left alone.
        if arg == "--" || arg == "--ignore_rest" {
            break;
        }
        // One element that holds the flag and its value, with a blank or `=` between.
        let (name, inline) = match arg.find([' ', '=']) {
            Some(at) if arg.starts_with('-') => (&arg[..at], Some(arg[at + 1..].to_owned())),
            _ => (arg.as_str(), None),
        };
        let Some(flag) = find(name) else {
            return Err(usage_error(program, arg, "Couldn't find match for argument"));
        };
        let shown = shown(flag);
        if given.has(flag.long) && flag.takes != Texts {
            return Err(usage_error(program, &shown, "Argument already set!"));
        }
        let value = match (flag.takes, inline) {
            (Nothing, None) => String::new(),
            (Nothing, Some(_)) => return Err(usage_error(program, arg, "Couldn't find match for argument")),
            (_, Some(value)) => value,
            (_, None) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(usage_error(program, &shown, "Missing a value for this argument!")),
            },
        };
        if flag.takes == Number && number(&value).is_none() {
            let text = format!("Couldn't read argument value from string '{value}'");
            return Err(usage_error(program, &shown, &text));
        }
        given.0.push((flag.long, value));
    }
    Ok(given)
}

fn find(name: &str) -> Option<&'static Flag> {
    match name.strip_prefix("--") {
        Some(long) => FLAGS.iter().find(|f| f.long == long),
        None => {
            let short = name.strip_prefix('-')?;
            FLAGS.iter().find(|f| f.short.is_some_and(|c| short.len() == 1 && short.starts_with(c)))
        }
    }
}

/// As TCLAP names an argument in its errors.
fn shown(flag: &Flag) -> String {
    match flag.short {
        Some(c) => format!("-{c} (--{})", flag.long),
        None => format!("(--{})", flag.long),
    }
}

/// A 32-bit number as the C++ stream reads it: a sign is allowed and wraps.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix('-') {
        Some(digits) => digits.parse::<u32>().ok().map(u32::wrapping_neg),
        None => text.strip_prefix('+').unwrap_or(text).parse().ok(),
    }
}

fn usage_error(program: &str, argument: &str, reason: &str) -> Exit {
    let text = format!(
        "PARSE ERROR: Argument: {argument}\n             {reason}\n\nBrief USAGE: \n{}\n\nFor complete USAGE and HELP \
         type: \n   {program} --help\n",
        brief(program)
    );
    Exit::error(&text)
}

fn brief(program: &str) -> String {
    let mut out = format!("   {program} ");
    for flag in FLAGS {
        let name = flag.short.map_or_else(|| format!("--{}", flag.long), |c| format!("-{c}"));
        let value = match flag.takes {
            Nothing => "",
            Number => " <uint32_t>",
            Text | Texts => " <string>",
        };
        let _infallible = write!(out, " [{name}{value}]{}", if flag.takes == Texts { " ..." } else { "" });
    }
    out
}

fn help(program: &str) -> String {
    let mut out = format!(
        "\nUSAGE: \n\n{}\n   {program} demo [--once]\n\nWhere: \n\n   demo [--once]\n     Shows the main job: upstreams, a \
         proxy and real requests; --once ends after them.\n\n",
        brief(program)
    );
    for flag in FLAGS {
        let value = match flag.takes {
            Nothing => "",
            Number => " <uint32_t>",
            Text | Texts => " <string>",
        };
        let short = flag.short.map(|c| format!("-{c}{value},  ")).unwrap_or_default();
        let several = if flag.takes == Texts { "  (accepted multiple times)" } else { "" };
        let _infallible = write!(out, "   {short}--{}{value}{several}\n     {}\n\n", flag.long, flag.about);
    }
    out.push_str("   --\n     Everything behind it is ignored.\n");
    out
}

fn options(given: &Given, driver: Option<&str>) -> Result<Options, String> {
    let default = Options::default();
    let or = |long: &str, default: u32| given.number(long).unwrap_or(default);
    let log_level = match given.text("log-level") {
        text if text.is_empty() => Level::Info,
        text => level(&text)?,
    };
    let mode = match given.text("mode").as_str() {
        "" | "serve" => Mode::Serve,
        "validate" => Mode::Validate,
        "init_only" => Mode::InitOnly,
        other => return Err(format!("error: unknown mode '{other}'")),
    };
    let drain_gradually = match given.text("drain-strategy").as_str() {
        "" | "gradual" => true,
        "immediate" => false,
        other => return Err(format!("error: unknown drain-strategy '{other}'")),
    };
    let local_address_v6 = match given.text("local-address-ip-version").as_str() {
        "" | "v4" => false,
        "v6" => true,
        other => return Err(format!("error: unknown IP address version '{other}'")),
    };
    if or("restart-epoch", 0) > 0 {
        return Err("error: --restart-epoch above 0: hot restart is not implemented yet".to_owned());
    }
    let driver = match (given.text("driver"), driver) {
        (text, Some(env)) if text.is_empty() && !env.is_empty() => {
            env.parse().map_err(|e| format!("error: SELVEDGE_DRIVER: {e}"))?
        }
        (text, _) if text.is_empty() => DriverChoice::Auto,
        (text, _) => text.parse().map_err(|e| format!("error: --driver: {e}"))?,
    };
    let socket_mode = match given.text("socket-mode").as_str() {
        "" => 0,
        text => u32::from_str_radix(text, 8)
            .map_err(|_| format!("error: --socket-mode '{text}' is not an octal mode"))?,
    };
    let socket_path = match given.text("socket-path") {
        path if path.is_empty() => default.socket_path,
        path => path,
    };
    Ok(Options {
        config_path: given.text("config-path"),
        config_yaml: given.text("config-yaml"),
        mode,
        concurrency: given.number("concurrency"),
        driver,
        spin_us: or("spin-us", 0),
        admin_address_path: given.text("admin-address-path"),
        log_level,
        component_log_level: component_levels(&given.text("component-log-level"))?,
        log_format: given.text("log-format"),
        log_format_escaped: given.has("log-format-escaped"),
        log_path: given.text("log-path"),
        fine_grain_logging: given.has("enable-fine-grain-logging"),
        stacktrace_single_entry: given.has("log-stacktrace-single-entry"),
        allow_unknown_static_fields: given.has("allow-unknown-fields")
            || given.has("allow-unknown-static-fields"),
        reject_unknown_dynamic_fields: given.has("reject-unknown-dynamic-fields"),
        ignore_unknown_dynamic_fields: given.has("ignore-unknown-dynamic-fields"),
        skip_deprecated_logs: given.has("skip-deprecated-logs"),
        base_id: or("base-id", 0),
        use_dynamic_base_id: given.has("use-dynamic-base-id"),
        base_id_path: given.text("base-id-path"),
        restart_epoch: 0,
        disable_hot_restart: given.has("disable-hot-restart"),
        skip_hot_restart_on_no_parent: given.has("skip-hot-restart-on-no-parent"),
        skip_hot_restart_parent_stats: given.has("skip-hot-restart-parent-stats"),
        socket_path,
        socket_mode,
        service_cluster: given.text("service-cluster"),
        service_node: given.text("service-node"),
        service_zone: given.text("service-zone"),
        drain_time_s: or("drain-time-s", 600).into(),
        drain_gradually,
        parent_shutdown_time_s: or("parent-shutdown-time-s", 900).into(),
        file_flush_interval: Duration::from_millis(or("file-flush-interval-msec", 10_000).max(1).into()),
        file_flush_min_size_kb: or("file-flush-min-size-kb", 64),
        local_address_v6,
        cpuset_threads: given.has("cpuset-threads"),
        enable_mutex_tracing: given.has("enable-mutex-tracing"),
        enable_core_dump: given.has("enable-core-dump"),
        disable_extensions: disabled(&given.text("disable-extensions")),
        stats_tags: stats_tags(given)?,
    })
}

fn level(text: &str) -> Result<Level, String> {
    Level::of(text).ok_or_else(|| format!("error: invalid log level specified '{text}'"))
}

fn component_levels(text: &str) -> Result<Vec<(String, Level)>, String> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let Some((component, own)) = part.split_once(':') else {
                return Err(format!("error: component log level not correctly specified '{part}'"));
            };
            let level = level(own)?;
            if !crate::log::COMPONENTS.contains(&component) {
                return Err(format!("error: invalid component specified '{component}'"));
            }
            Ok((component.to_owned(), level))
        })
        .collect()
}

fn disabled(text: &str) -> Vec<String> {
    text.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

fn stats_tags(given: &Given) -> Result<Vec<(String, String)>, String> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for (_, text) in given.0.iter().filter(|(name, _)| *name == "stats-tag") {
        let Some((name, value)) = text.split_once(':') else {
            return Err(format!("error: misformatted stats-tag '{text}'"));
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(format!("error: misformatted stats-tag '{text}' contains invalid char in '{name}'"));
        }
        if value.contains('.') {
            return Err(format!("error: misformatted stats-tag '{text}' contains invalid char in '{value}'"));
        }
        tags.push((name.to_owned(), value.to_owned()));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Options, Exit> {
        let args: Vec<String> = line.split('|').map(str::to_owned).collect();
        parse(&args, None)
    }

    #[test]
    fn flags_in_all_their_forms() {
        let o =
            run("envoy|-c|a.yaml|--concurrency=3|--service-node n1|-l|warn|--log-format|%v").expect("good");
        assert_eq!(
            (o.config_path.as_str(), o.concurrency, o.service_node.as_str()),
            ("a.yaml", Some(3), "n1")
        );
        assert_eq!((o.log_level, o.log_format.as_str()), (Level::Warning, "%v"));
        let o = run("envoy|-c|x|--mode|validate|--|--nope|more").expect("good");
        assert_eq!(o.mode, Mode::Validate);
        let o = run("envoy|--stats-tag|a:b|--stats-tag|c:d|--base-id|-1").expect("good");
        assert_eq!((o.stats_tags.len(), o.base_id), (2, u32::MAX));
        assert_eq!(parse(&[], Some("epoll")).expect("good").driver, DriverChoice::Epoll);
    }

    #[test]
    fn errors_are_envoys() {
        for (line, begins) in [
            (
                "envoy|--nope",
                "PARSE ERROR: Argument: --nope\n             Couldn't find match for argument\n",
            ),
            ("envoy|extra", "PARSE ERROR: Argument: extra\n             Couldn't find match for argument\n"),
            (
                "envoy|--concurrency",
                "PARSE ERROR: Argument: (--concurrency)\n             Missing a value for this argument!\n",
            ),
            (
                "envoy|--concurrency|abc",
                "PARSE ERROR: Argument: (--concurrency)\n             Couldn't read argument value from string 'abc'\n",
            ),
            (
                "envoy|-c|a|--config-path|b",
                "PARSE ERROR: Argument: -c (--config-path)\n             Argument already set!\n",
            ),
            ("envoy|--mode|foo", "error: unknown mode 'foo'\n"),
            ("envoy|--log-level|bogus", "error: invalid log level specified 'bogus'\n"),
            ("envoy|--component-log-level|upstream:bar", "error: invalid log level specified 'bar'\n"),
            ("envoy|--local-address-ip-version|v5", "error: unknown IP address version 'v5'\n"),
            ("envoy|--restart-epoch|1", "error: --restart-epoch above 0"),
            ("envoy|--driver|fast", "error: --driver: driver 'fast' is none of auto, uring, epoll\n"),
        ] {
            let exit = run(line).expect_err(line);
            assert_eq!(exit.code, 1, "{line}");
            assert!(exit.stderr.starts_with(begins), "{line}: {}", exit.stderr);
        }
    }

    #[test]
    fn what_is_asked_is_said() {
        let version = run("/usr/bin/envoy|--version").expect_err("ends");
        assert_eq!(version.code, 0);
        let parts: Vec<&str> = version.stdout.trim().rsplit(' ').next().expect("a word").split('/').collect();
        assert_eq!((parts.len(), parts[0].len(), parts[1]), (5, 40, "1.40.0"));
        assert!(version.stdout.starts_with("\n/usr/bin/envoy  version: "));
        assert_eq!(run("envoy|--hot-restart-version").expect_err("ends").stdout, "11.104\n");
        let help = run("envoy|-h").expect_err("ends");
        assert!(FLAGS.iter().all(|f| help.stdout.contains(&format!("--{}", f.long))));
    }
}
