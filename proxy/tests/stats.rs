//! Writes `docs/STATS.md` from the tables of stats: what is kept, what moves, and what Envoy has besides.
//!
//! `UPDATE_EXPECT=1 cargo test --test stats` writes the page anew; without it a difference fails.
//! Envoy's names are data: `tests/data/envoy-stats.txt`.

#![allow(clippy::print_stdout, reason = "the gap is printed for those who look for work")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use selvedge::filters;
use selvedge::stats::names::{Kind, Listed, TABLES};

/// The sources, without the tables themselves.
fn sources() -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut text, mut open) = (String::new(), vec![src]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if !path.ends_with("stats/names.rs") && path.extension().is_some_and(|e| e == "rs") {
                text.push_str(&fs::read_to_string(&path).expect("a source file"));
            }
        }
    }
    text
}

/// Names of one table with their kind and whether any code moves them.
fn rows(table: &Listed, sources: &str) -> Vec<(String, &'static str, bool)> {
    let kinds = table.slots.iter().map(|(name, kind)| {
        (*name, if *kind == Kind::Counter { "counter" } else { "gauge" }, table.table.to_owned())
    });
    let histograms = table.histograms.iter().map(|name| (*name, "histogram", format!("{}Hist", table.table)));
    let mut out = Vec::new();
    for ((name, kind, holder), variant) in kinds.chain(histograms).zip(table.variants) {
        // `Stat` is what one file calls the table of clusters.
        let uses = [format!("{holder}::{variant}"), format!("Stat::{variant}")];
        let moves = uses.iter().any(|u| {
            sources
                .match_indices(u.as_str())
                .any(|(at, _)| !sources[at + u.len()..].starts_with(|c: char| c.is_alphanumeric()))
        });
        out.push((format!("{}{name}", table.prefix), kind, moves));
    }
    out
}

/// Kind and name of what Envoy has.
fn envoy() -> BTreeSet<(String, String)> {
    let text = include_str!("data/envoy-stats.txt");
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines.filter_map(|l| l.split_once(' ')).map(|(kind, name)| (name.to_owned(), kind.to_owned())).collect()
}

/// By status and by side: `upstream_rq_200`, `external.upstream_rq_2xx`.
fn is_by_code(name: &str) -> bool {
    let Some(stat) = name.strip_prefix("cluster.<name>.") else { return false };
    let stat = stat.trim_start_matches("external.").trim_start_matches("internal.");
    let Some(code) = stat.strip_prefix("upstream_rq_") else { return false };
    code == "completed" || code.starts_with(|c: char| c.is_ascii_digit() && c != '0')
}

fn page() -> String {
    let sources = sources();
    let mut out = String::from(
        "# Stats\n\nGenerated from `proxy/src/stats/names.rs` and the tables of filters by `UPDATE_EXPECT=1 cargo test --test stats`. All names are \
         Envoy's. A stat that is marked `0` is shown for those who ask for it, and nothing here moves it yet.\n\nBesides: \
         `cluster.<name>.[external.|internal.]upstream_rq_<code>`, `..._<class>xx` and `..._completed`, which appear with \
         the first response that they count.\n",
    );
    let mut kept = BTreeSet::new();
    for table in TABLES.iter().chain(filters::TABLES) {
        let _ = write!(out, "\n## `{}`\n\n| name | kind | |\n|---|---|---|\n", table.prefix);
        for (name, kind, moves) in rows(table, &sources) {
            let short = name.strip_prefix(table.prefix).unwrap_or(&name);
            let _ = writeln!(out, "| `{short}` | {kind} | {} |", if moves { "" } else { "0" });
            kept.insert((name, kind.to_owned()));
        }
    }
    out.push_str(
        "\n## The gap\n\nWhat Envoy 1.40.0 shows for a bootstrap with these scopes, and we do not:\n\n",
    );
    for (name, kind) in envoy().difference(&kept).filter(|(name, _)| !is_by_code(name)) {
        let _ = writeln!(out, "- `{name}` ({kind})");
    }
    out
}

#[test]
fn the_page_tells_the_tables() {
    let page = page();
    let gap = page.split_once("## The gap").map_or("", |(_, gap)| gap);
    println!("{gap}");
    expect_file!["../../docs/STATS.md"].assert_eq(&page);
}

/// In the scopes that every configuration has, the gap is closed and stays so.
#[test]
fn no_gap_in_the_scopes_that_we_have() {
    let sources = sources();
    let kept: BTreeSet<_> = TABLES
        .iter()
        .flat_map(|t| rows(t, &sources))
        .map(|(name, kind, _)| (name, kind.to_owned()))
        .collect();
    let scopes = ["cluster.<name>.", "http.<stat_prefix>.", "listener.<address>.", "server."];
    let missing: Vec<_> = envoy()
        .into_iter()
        .filter(|(name, _)| scopes.iter().any(|s| name.starts_with(s)) && !is_by_code(name))
        .filter(|stat| !kept.contains(stat))
        .collect();
    assert!(missing.is_empty(), "Envoy has them, we do not: {missing:?}");
    // One request came from outside: what counts internal ones did not appear. There was no overload manager. Our own
    // names have a scope of their own.
    let others = ["cluster.<name>.internal.", "overload.", "server.selvedge."];
    let expected = |name: &str| others.iter().any(|scope| name.starts_with(scope));
    let foreign: Vec<_> = kept.difference(&envoy()).filter(|(name, _)| !expected(name)).cloned().collect();
    assert!(foreign.is_empty(), "no names of Envoy's: {foreign:?}");
}
