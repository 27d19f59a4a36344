//! Holds the layering: which crate may use which, and which room may import what.
//! A new arrow is a decision: change the table here and write the record.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// The workspace crates that `package` depends on, from its manifest.
fn uses(package: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("a manifest");
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let Some((name, _)) = line.split_once(['.', '=', ' ']) else { continue };
        match name {
            "selvedge" => found.insert("proxy".to_owned()),
            "selvedge-runtime" => found.insert("runtime".to_owned()),
            "selvedge-xds-client" => found.insert("xds-client".to_owned()),
            "selvedge-perf" => found.insert("perf".to_owned()),
            _ => false,
        };
    }
    found
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn no_new_arrow_between_crates() {
    assert_eq!(uses("runtime"), set(&[]));
    assert_eq!(uses("xds-client"), set(&[]));
    assert_eq!(uses("proxy"), set(&["runtime", "xds-client"]));
    assert_eq!(uses("perf"), set(&["proxy", "runtime"]));
    assert_eq!(uses("fuzz"), set(&["proxy", "runtime"]));
}

#[test]
fn no_other_member() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace manifest");
    let members = text.lines().find(|l| l.starts_with("members")).expect("members");
    assert_eq!(members, r#"members = ["runtime", "xds-client", "proxy", "perf"]"#);
}

/// Rooms of the proxy that are sans-IO: they may not name the awaiting files or the control side's libraries.
const PURE: &[&str] = &["http", "route", "observe", "upstream/lb"];
const NOT_IN_PURE: &[&str] = &[
    "tokio",
    "hyper",
    "std::net::Tcp",
    "std::fs",
    "std::thread",
    "crate::stream",
    "crate::downstream",
    "crate::shard",
    "crate::server",
    "crate::admin",
    ".await",
    "async fn",
];

#[test]
fn pure_rooms_stay_pure() {
    let mut wrong = Vec::new();
    for room in PURE {
        for file in rust_files(&root().join("proxy/src").join(room)) {
            let text = fs::read_to_string(&file).expect("a source file");
            for (number, line) in code_lines(&text) {
                for word in NOT_IN_PURE {
                    if line.contains(word) {
                        wrong.push(format!("{}:{number}: {word}", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "pure rooms take bytes and `now`, and give values:\n{}", wrong.join("\n"));
}

/// Files that decide for the control thread without its hands: inputs and `now` in, outputs out.
const WITHOUT_HANDS: &[&str] = &["server/machine.rs", "upstream/dns.rs"];
const HANDS: &[&str] = &[
    "tokio",
    "hyper",
    "hickory",
    "std::fs",
    "std::thread",
    "std::time::Instant",
    "log::",
    ".await",
    "async fn",
];

#[test]
fn the_control_machine_has_no_hands() {
    let mut wrong = Vec::new();
    for name in WITHOUT_HANDS {
        let text = fs::read_to_string(root().join("proxy/src").join(name)).expect("a source file");
        for (number, line) in code_lines(&text) {
            wrong
                .extend(HANDS.iter().filter(|w| line.contains(**w)).map(|w| format!("{name}:{number}: {w}")));
        }
    }
    assert!(wrong.is_empty(), "the simulator drives the same machine:\n{}", wrong.join("\n"));
}

/// Only the control side may use tokio and hyper.
const CONTROL: &[&str] = &["admin/", "server.rs", "server/", "demo.rs"];

#[test]
fn data_path_knows_no_tokio() {
    let src = root().join("proxy/src");
    let mut wrong = Vec::new();
    for file in rust_files(&src) {
        let name = file.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        if CONTROL.iter().any(|c| name.starts_with(c)) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, line) in code_lines(&text) {
            if line.contains("tokio::") || line.contains("hyper::") {
                wrong.push(format!("{name}:{number}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "tokio and hyper belong to the control and admin threads:\n{}",
        wrong.join("\n")
    );
}

/// Lines that are code: no comments, and nothing from the test module on.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, l)| !l.starts_with("#[cfg(test)]"))
        .filter(|(_, l)| !l.trim_start().starts_with("//"))
        .map(|(n, l)| (n + 1, l))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
