//! The parity suite: scenarios as data, goldens recorded from Envoy 1.40, replayed on Selvedge without Envoy.
//! What a scenario may say is in `README.md` beside this file. It proves what peers see (bytes, connection fates,
//! stats, log lines, exit codes), not how fast it is nor what happens inside.
//!
//! `cargo parity`                                                   replay on both drivers
//! `SELVEDGE_PARITY=framing/chunk cargo parity`                     only scenarios whose name contains this
//! `SELVEDGE_PARITY_RECORD=1 cargo parity`                          record the goldens from `envoy` on PATH
//! `SELVEDGE_PARITY_ACCEPT=1 cargo parity`                          write what Selvedge does as the expectation of
//!                                                                  scenarios that carry `differs:`
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test harness: blocking sockets, a thread for each scripted peer, deadlines by the wall clock"
)]

mod bootstrap;
mod golden;
mod peers;
mod proxy;
mod run;
mod scenario;
mod text;
mod wire;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proxy::Contender;
use scenario::Group;

/// The version of Envoy that the goldens are recorded from.
const RECORDED_FROM: &str = "1.40.0";
/// What the suite promises to hold at least.
const SCENARIOS_MIN: usize = 480;

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

fn groups() -> Vec<Group> {
    scenario::load_all(&home().join("scenarios"), env::var("SELVEDGE_PARITY").ok().as_deref())
}

/// Scenarios in which Selvedge is not there yet: `scenario  what differs` in `GROUP.pending`.
fn pending() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for group in scenario::load_all(&home().join("scenarios"), None) {
        let text = fs::read_to_string(group.path.with_extension("pending")).unwrap_or_default();
        let lines =
            text.lines().filter_map(|l| l.split("  ").next()).map(str::trim).filter(|l| !l.is_empty());
        names.extend(lines.map(|name| format!("{}/{name}", group.name)));
    }
    names
}

fn selvedge(name: &'static str) -> Contender {
    let args = vec!["--driver".to_owned(), name.to_owned()];
    Contender { name, binary: PathBuf::from(env!("CARGO_BIN_EXE_selvedge")), args }
}

fn replay(contender: &Contender) {
    if env::var_os("SELVEDGE_PARITY_RECORD").is_some() {
        return;
    }
    let pending = pending();
    let accept = env::var_os("SELVEDGE_PARITY_ACCEPT").is_some();
    let (mut same, mut failures, mut early) = (0, Vec::new(), Vec::new());
    for group in groups() {
        let mut ours = golden::load(&group.path.with_extension("selvedge"));
        let mut goldens = golden::load(&group.path.with_extension("golden"));
        let got = run::play(contender, &group, &|name| golden::log_lines(goldens.get(name)));
        for scenario in &group.scenarios {
            let got = &got[&scenario.name];
            if scenario.differs.is_some() {
                if accept {
                    ours.insert(scenario.name.clone(), got.clone());
                }
                goldens.insert(scenario.name.clone(), ours.get(&scenario.name).cloned().unwrap_or_default());
            }
            let name = format!("{}/{}", group.name, scenario.name);
            let expected = goldens.get(&scenario.name).map_or("", String::as_str);
            match golden::compare(expected, got) {
                None if pending.contains(&name) => early.push(name),
                None => same += 1,
                Some(_) if pending.contains(&name) => {}
                Some(diff) => failures.push((name, golden::parts(&diff), diff)),
            }
        }
        if accept {
            let names = group.scenarios.iter().filter(|s| s.differs.is_some()).map(|s| s.name.as_str());
            golden::save(&group.path.with_extension("selvedge"), names, &ours);
        }
    }
    println!("{}: {same} as expected, {} not, {} pending", contender.name, failures.len(), pending.len());
    for name in early {
        println!("{}: no longer pending: {name}", contender.name);
    }
    let shown: Vec<String> =
        failures.iter().map(|(name, parts, diff)| format!("{name} [{parts}]\n{diff}")).collect();
    assert!(
        failures.is_empty(),
        "on {}: - is expected, + is what it did\n{}\n{} scenarios differ",
        contender.name,
        shown.join("\n"),
        failures.len()
    );
}

#[test]
fn on_epoll() {
    replay(&selvedge("epoll"));
}

#[test]
fn on_uring() {
    replay(&selvedge("uring"));
}

/// Twice: what differs between two runs of the same proxy is no golden.
fn record() {
    let version = Command::new("envoy").arg("--version").output().expect("`envoy` on PATH");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(version.contains(&format!("/{RECORDED_FROM}/")), "not Envoy {RECORDED_FROM}: {version}");
    let envoy = Contender { name: "envoy", binary: PathBuf::from("envoy"), args: Vec::new() };
    let whole = scenario::load_all(&home().join("scenarios"), None);
    let mut unsteady = Vec::new();
    for group in groups() {
        let first = run::play(&envoy, &group, &|_| 0);
        let second = run::play(&envoy, &group, &|_| 0);
        let mut all = golden::load(&group.path.with_extension("golden"));
        for (name, text) in first {
            if let Some(diff) = golden::compare(&text, &second[&name]) {
                unsteady.push(format!("{}/{name}\n{diff}", group.name));
            }
            all.insert(name, text);
        }
        let whole = whole.iter().find(|g| g.name == group.name).expect("a group");
        golden::save(
            &group.path.with_extension("golden"),
            whole.scenarios.iter().map(|s| s.name.as_str()),
            &all,
        );
    }
    assert!(unsteady.is_empty(), "two recordings differ:\n{}", unsteady.join("\n"));
}

/// Records when asked to. Always: every scenario has its golden, and no golden is without its scenario.
#[test]
fn goldens_are_complete() {
    if env::var_os("SELVEDGE_PARITY_RECORD").is_some() {
        record();
    }
    let groups = scenario::load_all(&home().join("scenarios"), None);
    let mut known = BTreeSet::new();
    for group in &groups {
        let goldens = golden::load(&group.path.with_extension("golden"));
        let ours = golden::load(&group.path.with_extension("selvedge"));
        for scenario in &group.scenarios {
            let name = format!("{}/{}", group.name, scenario.name);
            assert!(goldens.contains_key(&scenario.name), "{name}: nothing recorded");
            let differs = ours.contains_key(&scenario.name);
            assert_eq!(scenario.differs.is_some(), differs, "{name}: `differs:` and .selvedge go together");
            known.insert(name);
        }
        for name in goldens.keys().chain(ours.keys()) {
            assert!(known.contains(&format!("{}/{name}", group.name)), "{}: no scenario {name}", group.name);
        }
    }
    assert!(known.len() >= SCENARIOS_MIN, "{} scenarios", known.len());
    let unknown: Vec<String> = pending().into_iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "pending names no scenario: {unknown:?}");
}
