//! Goldens: what scenarios have shown, one file for a group, and how a transcript is compared with one.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::run::Transcripts;
use crate::text::diff;

pub fn load(path: &Path) -> Transcripts {
    let mut out = Transcripts::new();
    let mut name = String::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        if let Some(next) = line.strip_prefix("== ") {
            name = next.to_owned();
            out.insert(name.clone(), String::new());
        } else if let Some(text) = out.get_mut(&name) {
            text.push_str(line);
            text.push('\n');
        }
    }
    for text in out.values_mut() {
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    out
}

/// In the order of the scenarios.
pub fn save<'a>(path: &Path, order: impl Iterator<Item = &'a str>, transcripts: &Transcripts) {
    let mut out = String::new();
    for name in order {
        if let Some(text) = transcripts.get(name) {
            let _ = writeln!(out, "== {name}\n{text}");
        }
    }
    let out = out.trim_end();
    if out.is_empty() {
        fs::remove_file(path).ok();
    } else {
        fs::write(path, format!("{out}\n")).expect("a golden");
    }
}

/// The log lines that a golden tells of.
pub fn log_lines(golden: Option<&String>) -> usize {
    golden.map_or(0, |text| text.lines().filter(|l| l.starts_with("log: ")).count())
}

/// `None`: the same. Lines that begin with `#` are for readers.
pub fn compare(golden: &str, got: &str) -> Option<String> {
    let (golden, got) = (compared(golden), compared(got));
    (golden != got).then(|| diff(&golden, &got))
}

/// A stat a line, so that a difference names it.
fn compared(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.split_once(": ") {
            Some((scope, stats)) if is_stats(scope) => {
                for stat in stats.split(' ') {
                    let _ = writeln!(out, "{scope}.{stat}");
                }
            }
            _ => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

fn is_stats(scope: &str) -> bool {
    ["http.main", "listener.main", "http1"].contains(&scope)
        || scope.starts_with("cluster.")
        || scope.starts_with("vhost.")
}

/// What kinds of lines differ, for a summary.
pub fn parts(diff: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for line in diff.lines().filter_map(|l| l.strip_prefix("    - ").or_else(|| l.strip_prefix("    + "))) {
        let part = match line.split_once(['.', ':']) {
            Some(("log", _)) => "log",
            Some(("http" | "listener" | "cluster" | "vhost" | "http1", _)) => "stats",
            _ => "wire",
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.sort_unstable();
    parts.join("+")
}

#[test]
fn a_difference_names_the_stat() {
    let golden = "c closed\nhttp.main: a+1 b+2\n# words\n";
    assert_eq!(compare(golden, "c closed\nhttp.main: a+1 b+2\n"), None);
    let diff = compare(golden, "c closed\nhttp.main: a+1\n").expect("a difference");
    assert_eq!(diff, "      c closed\n      http.main.a+1\n    - http.main.b+2\n");
    assert_eq!(parts(&diff), "stats");
}
