//! THE LIST of flags, and how a command line is cut into them.
//!
//! The rules are those of the TCLAP library as Envoy uses it: a value is the next argument, whatever it looks like, or
//! what follows a blank within the same argument; there is no `--flag=value`. A flag may come once.

use std::fmt::Write;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Text,
    /// Text, any number of times.
    Texts,
    Number,
}

#[derive(Debug)]
pub(super) struct Flag {
    pub(super) short: &'static str,
    pub(super) long: &'static str,
    pub(super) takes: Takes,
    about: &'static str,
}

const fn flag(long: &'static str, takes: Takes, about: &'static str) -> Flag {
    Flag { short: "", long, takes, about }
}

const fn short(short: &'static str, long: &'static str, takes: Takes, about: &'static str) -> Flag {
    Flag { short, long, takes, about }
}

use Takes::{Nothing, Number, Text, Texts};

/// All flags: ours, then Envoy's in the order of its help.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    flag("driver", Text, "How to talk to the kernel: auto (default), uring or epoll. The environment variable \
        SELVEDGE_DRIVER says it where the flag does not."),
    flag("spin-us", Number, "Microseconds that a shard looks for work before it sleeps. Default 0: it sleeps at once."),
    flag("memory-mb", Number, "Mebibytes that the process may use, where that is less than its cgroup or the machine \
        allows."),
    flag("stats-tag", Texts, "A tag for all stats, as tag:value with letters and digits in the tag and no dot in the \
        value. Of two with the same tag the first counts."),
    flag("enable-core-dump", Nothing, "Accepted without effect: core dumps follow the system's settings."),
    flag("socket-mode", Text, "Accepted without effect: mode of the hot restart socket."),
    flag("socket-path", Text, "Accepted without effect: path of the hot restart socket."),
    flag("disable-extensions", Text, "Extensions to disable, separated by commas."),
    flag("cpuset-threads", Nothing, "Accepted without effect: the cores of the cpuset count anyway."),
    flag("enable-mutex-tracing", Nothing, "Accepted without effect: shards hold no mutex."),
    flag("disable-hot-restart", Nothing, "Do without hot restart."),
    flag("mode", Text, "serve (default): check the configuration, then serve. validate: check it and end. init_only: \
        start up and end."),
    flag("parent-shutdown-time-s", Number, "Accepted without effect: seconds after which a hot restart ends the parent."),
    flag("drain-strategy", Text, "gradual (default) or immediate: how fast connections are asked to go while draining."),
    flag("drain-time-s", Number, "Seconds that draining takes. Default 600."),
    flag("file-flush-min-size-kb", Number, "KiB of access log lines that are written without waiting for the interval. Default 64."),
    flag("file-flush-interval-msec", Number, "Milliseconds between flushes of access logs, stdout included. Default 10000."),
    flag("service-zone", Text, "Zone of this node."),
    flag("service-node", Text, "Name of this node."),
    flag("service-cluster", Text, "Cluster of this node."),
    flag("hot-restart-version", Nothing, "Prints the version of the hot restart protocol and ends."),
    flag("restart-epoch", Number, "Number of this start in a series of hot restarts."),
    flag("log-path", Text, "File for the application log, in place of stderr."),
    flag("enable-fine-grain-logging", Nothing, "Accepted without effect: levels are set by component."),
    flag("log-format-escaped", Nothing, "Write control characters of log messages as C escapes."),
    flag("log-format", Text, "Form of log lines, in spdlog's patterns.\n\nDefault is \"[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v\""),
    flag("component-log-level", Text, "Levels of single components, as in upstream:debug,config:trace"),
    short("l", "log-level", Text, "One of trace, debug, info, warning (or warn), error, critical, off.\n\nDefault is [info]"),
    flag("local-address-ip-version", Text, "Accepted without effect: v4 (default) or v6, the address of this machine that clusters are told."),
    flag("admin-address-path", Text, "File to which the admin server's address is written."),
    flag("log-stacktrace-single-entry", Nothing, "Accepted without effect: a panic is one log entry anyway."),
    flag("skip-deprecated-logs", Nothing, "Accepted without effect: deprecated fields are not warned of."),
    flag("ignore-unknown-dynamic-fields", Nothing, "Accepted without effect, there is no dynamic configuration: ignore its unknown fields."),
    flag("reject-unknown-dynamic-fields", Nothing, "Accepted without effect, there is no dynamic configuration: reject its unknown fields."),
    flag("allow-unknown-static-fields", Nothing, "Allow unknown fields in static configuration."),
    flag("allow-unknown-fields", Nothing, "The older name of --allow-unknown-static-fields."),
    flag("config-yaml", Text, "Configuration as YAML, merged over that of --config-path."),
    short("c", "config-path", Text, "File of the configuration: .yaml, .yml, .pb, .pb_text; JSON by any other name."),
    flag("concurrency", Number, "Number of shards, each a thread with connections of its own. Default: one for each core that the process may use."),
    flag("base-id-path", Text, "File to which the base id is written, unless hot restart is disabled."),
    flag("skip-hot-restart-parent-stats", Nothing, "Accepted without effect: no stats are taken from a parent."),
    flag("skip-hot-restart-on-no-parent", Nothing, "With --restart-epoch above 0: start regularly when there is no parent."),
    flag("use-dynamic-base-id", Nothing, "Choose the base id at start: the number of the process."),
    flag("base-id", Number, "Id of this process's shared resources on the machine."),
    Flag { short: "-", long: "ignore_rest", takes: Nothing, about: "What follows is not looked at." },
    flag("version", Nothing, "Prints the version and ends."),
    short("h", "help", Nothing, "Prints this and ends."),
];

impl Flag {
    /// As messages name it.
    fn display(&self) -> String {
        if self.short.is_empty() {
            format!("(--{})", self.long)
        } else {
            format!("-{} (--{})", self.short, self.long)
        }
    }

    fn value_name(&self) -> &'static str {
        match self.takes {
            Nothing => "",
            Text | Texts => " <string>",
            Number => " <uint32_t>",
        }
    }

    fn brief(&self) -> String {
        let name =
            if self.short.is_empty() { format!("--{}", self.long) } else { format!("-{}", self.short) };
        format!("[{name}{}]{}", self.value_name(), if self.takes == Texts { " ..." } else { "" })
    }

    fn heading(&self) -> String {
        let value = self.value_name();
        let mut out = String::new();
        if !self.short.is_empty() {
            let _infallible = write!(out, "-{}{value},  ", self.short);
        }
        let _infallible = write!(out, "--{}{value}", self.long);
        if self.takes == Texts {
            out.push_str("  (accepted multiple times)");
        }
        out
    }
}

/// What a command line gave, by flag.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: Vec<(&'static str, String)>,
}

impl Given {
    pub(super) fn has(&self, long: &str) -> bool {
        self.values.iter().any(|(name, _)| *name == long)
    }

    pub(super) fn text(&self, long: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| *name == long).map(|(_, v)| v.as_str())
    }

    pub(super) fn texts(&self, long: &str) -> Vec<String> {
        self.values.iter().filter(|(name, _)| *name == long).map(|(_, v)| v.clone()).collect()
    }

    /// A number that `cut` has accepted. An empty value counts as none.
    pub(super) fn number(&self, long: &str) -> Option<u32> {
        self.text(long).and_then(|v| number(v).ok().flatten())
    }
}

/// How the cutting ended.
#[derive(Debug)]
pub(super) enum Cut {
    Given(Given),
    Help,
    Version,
}

/// A fault of the command line: the argument, and what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParseError {
    pub(super) argument: String,
    pub(super) message: String,
}

fn fault(argument: impl Into<String>, message: impl Into<String>) -> ParseError {
    ParseError { argument: argument.into(), message: message.into() }
}

/// Reads a number as a C++ stream reads an unsigned one: blanks before it, a sign, decimal digits, nothing after.
fn number(text: &str) -> Result<Option<u32>, &'static str> {
    const UNREADABLE: &str = "Couldn't read argument value from string";
    if text.is_empty() {
        return Ok(None);
    }
    let mut words = text.split_ascii_whitespace();
    let first = words.next().ok_or(UNREADABLE)?;
    let (negative, digits) = match first.as_bytes()[0] {
        b'-' => (true, &first[1..]),
        b'+' => (false, &first[1..]),
        _ => (false, first),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UNREADABLE);
    }
    let value: u32 = digits.parse().map_err(|_| UNREADABLE)?;
    match words.next() {
        Some(second) if number(second).is_ok() => Err("More than one valid value parsed from string"),
        Some(_) => Err(UNREADABLE),
        None if text.ends_with(|c: char| c.is_ascii_whitespace()) => Err(UNREADABLE),
        None => Ok(Some(if negative { value.wrapping_neg() } else { value })),
    }
}

/// Cuts the arguments after the program's name.
pub(super) fn cut(args: &[String]) -> Result<Cut, ParseError> {
    let mut given = Given::default();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        at += 1;
        // Nothing, and a lone dash, are passed over.
        if arg.is_empty() || arg == "-" {
            continue;
        }
        // A short switch counts within a cluster of letters, and help is the only one.
        let letters = arg.strip_prefix('-').filter(|a| !a.starts_with('-') && !a.contains(' '));
        if let Some(found) = letters.map(|l| l.bytes().filter(|b| *b == b'h').count()).filter(|n| *n > 0) {
            return if found > 1 {
                Err(fault("-h (--help)", "Argument already set!"))
            } else {
                Ok(Cut::Help)
            };
        }
        // A blank after at least two characters ends the flag's name.
        let (name, inline) = match arg.find(' ') {
            Some(blank) if blank > 1 => (&arg[..blank], &arg[blank + 1..]),
            _ => (arg.as_str(), ""),
        };
        let matches = |f: &&Flag| {
            name.strip_prefix("--").is_some_and(|n| n == f.long)
                || (!f.short.is_empty() && name.strip_prefix('-').is_some_and(|n| n == f.short))
        };
        let flag = FLAGS.iter().find(matches).filter(|f| f.takes != Nothing || name.len() == arg.len());
        let flag = flag.ok_or_else(|| fault(arg.as_str(), "Couldn't find match for argument"))?;
        if flag.takes != Texts && given.has(flag.long) {
            return Err(fault(flag.display(), "Argument already set!"));
        }
        let value = if flag.takes == Nothing {
            String::new()
        } else if inline.is_empty() {
            at += 1;
            let next = args.get(at - 1);
            next.ok_or_else(|| fault(flag.display(), "Missing a value for this argument!"))?.clone()
        } else {
            inline.to_owned()
        };
        if flag.takes == Number {
            number(&value).map_err(|e| fault(flag.display(), format!("{e} '{value}'")))?;
        }
        given.values.push((flag.long, value));
        match flag.long {
            "help" => return Ok(Cut::Help),
            "version" => return Ok(Cut::Version),
            "ignore_rest" => break,
            _ => {}
        }
    }
    Ok(Cut::Given(given))
}

const WIDTH: usize = 75;

/// Writes `text` in lines of at most `WIDTH`, the first after `indent` blanks, the others after `hang` more.
fn wrapped(out: &mut String, text: &str, indent: usize, hang: usize) {
    let mut margin = indent;
    let mut line = String::new();
    for paragraph in text.split('\n') {
        for word in paragraph.split(' ') {
            if !line.is_empty() && margin + line.len() + 1 + word.len() > WIDTH {
                let _infallible = writeln!(out, "{:margin$}{line}", "");
                line.clear();
                margin = indent + hang;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        let _infallible = writeln!(out, "{:1$}{line}", "", if line.is_empty() { 0 } else { margin });
        line.clear();
        margin = indent + hang;
    }
}

fn synopsis(program: &str) -> String {
    let mut text = format!("{program} ");
    for flag in FLAGS {
        text.push(' ');
        text.push_str(&if flag.short == "-" { "[--]".to_owned() } else { flag.brief() });
    }
    let mut out = String::new();
    wrapped(&mut out, &text, 3, (program.len() + 2).min(WIDTH / 2));
    out
}

/// What follows an error.
pub(super) fn brief_usage(program: &str) -> String {
    format!(
        "Brief USAGE: \n{}\nFor complete USAGE and HELP type: \n   {program} --help\n\n",
        synopsis(program)
    )
}

pub(super) fn help(program: &str) -> String {
    let mut out = format!("\nUSAGE: \n\n{}\n\nWhere: \n\n", synopsis(program));
    for flag in FLAGS {
        let heading = if flag.short == "-" { "--,  --ignore_rest".to_owned() } else { flag.heading() };
        wrapped(&mut out, &heading, 3, 3);
        wrapped(&mut out, flag.about, 5, 0);
        out.push('\n');
    }
    out.push_str("\n   selvedge: an Envoy-compatible proxy.\n");
    let _infallible = write!(
        out,
        "   {program} demo [--once] shows it at work: upstream servers, a proxy before\n   them, \
         requests through it.\n\n"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_streams_read_them() {
        let unreadable = Err("Couldn't read argument value from string");
        for (text, expected) in [
            ("3", Ok(Some(3))),
            (" 3", Ok(Some(3))),
            ("+3", Ok(Some(3))),
            ("010", Ok(Some(10))),
            ("-1", Ok(Some(u32::MAX))),
            ("", Ok(None)),
            ("3 4", Err("More than one valid value parsed from string")),
            ("3 ", unreadable),
            ("3x", unreadable),
            ("0x10", unreadable),
            ("3.5", unreadable),
            ("-", unreadable),
            ("99999999999", unreadable),
            ("-4294967296", unreadable),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn help_fits_the_width_and_names_every_flag() {
        let text = help("selvedge");
        for flag in FLAGS {
            assert!(text.contains(&format!("--{}", flag.long)), "{}", flag.long);
        }
        for line in text.lines().filter(|l| !l.contains("[%Y")) {
            assert!(line.len() <= WIDTH + 3, "{line:?}");
        }
    }
}
