//! `/logging`: shows levels, changes one, several or all.

use std::fmt::Write;

use super::Admin;
use super::query::Query;
use super::reply::{Reply, TEXT};
use crate::log::{self, Level};

pub(super) fn logging(_: &Admin, query: &Query) -> Reply {
    match change(query) {
        Ok(()) => Reply::text(active()),
        Err(error) => {
            let usage = "usage: /logging?<name>=<level> (change single level)\n\
                usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                usage: /logging?level=<level> (change all levels)\n\
                usage: /logging?group=<group_name>:<level> (change group of loggers)\n";
            let levels: String = Level::ALL.iter().map(|(_, name)| format!("{name} ")).collect();
            Reply::new(400, TEXT, format!("error: {error}\n\n{usage}levels: {levels}\n{}", active()))
        }
    }
}

fn active() -> String {
    let mut out = String::from("active loggers:\n");
    for (name, level) in log::levels() {
        let _infallible = writeln!(out, "  {name}: {}", level.name());
    }
    // An empty line ends the list.
    out.push('\n');
    out
}

/// All or nothing: a fault in one pair changes no level.
fn change(query: &Query) -> Result<(), &'static str> {
    // Empty: only show. The form of the page sends such.
    let mut pairs = query.pairs().iter().filter(|(_, value)| !value.is_empty());
    let Some((name, value)) = pairs.next() else { return Ok(()) };
    if pairs.next().is_some() {
        return Err("invalid number of parameters");
    }
    match name.as_str() {
        "level" => log::set_level(level(value)?),
        "group" => return Err("group parameter requires fine-grain logging to be enabled"),
        "paths" => {
            let mut pairs = Vec::new();
            for pair in value.split(',').filter(|pair| !pair.is_empty()) {
                match pair.split_once(':') {
                    Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                        pairs.push((name, level(value)?));
                    }
                    _ => return Err("empty logger name or empty logger level"),
                }
            }
            if pairs.iter().any(|(name, _)| log::component(name).is_none()) {
                return Err("unknown logger name");
            }
            for (name, level) in pairs {
                log::set_component_level(name, level);
            }
        }
        name => {
            let level = level(value)?;
            if !log::set_component_level(name, level) {
                return Err("unknown logger name");
            }
        }
    }
    Ok(())
}

//= envoy: here `warn` is no name of a level
fn level(name: &str) -> Result<Level, &'static str> {
    Level::of(name).filter(|_| name != "warn").ok_or("unknown logger level")
}
