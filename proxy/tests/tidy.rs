//! Rules of style that a machine can see. Each says what to do instead.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn rust_files(dirs: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = dirs.iter().map(|d| root().join(d)).collect();
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources found below {dirs:?}");
    found
}

/// Where a word stands for a reason that the file tells.
const EXCEPT: [(&str, &str); 1] = [("runtime/src/sim/allocations.rs", concat!("thread", "_local!"))];

fn refuse(dirs: &[&str], words: &[String], instead: &str) {
    let mut wrong = Vec::new();
    for (name, text) in rust_files(dirs) {
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            for word in words {
                if code.contains(word.as_str()) && !EXCEPT.contains(&(name.as_str(), word)) {
                    wrong.push(format!("{name}:{}: {}", number + 1, code));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{instead}:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_has_one_room() {
    // The word is put together so that this file does not contain it.
    let word = ["un", "safe"].concat();
    let words = [format!("{word} {{"), format!("{word} fn"), format!("{word} impl")];
    refuse(&["proxy", "xds-client", "perf"], &words, "that room is runtime/");
}

#[test]
fn the_page_of_that_room_names_each_file() {
    let word = ["un", "safe"].concat();
    let words = [format!("{word} {{"), format!("{word} fn"), format!("{word} impl")];
    let page = fs::read_to_string(root().join("docs/UNSAFE.md")).expect("the page");
    let mut missing = Vec::new();
    for (name, text) in rust_files(&["runtime"]) {
        let short = name.trim_start_matches("runtime/src/").trim_start_matches("runtime/tests/");
        let has =
            text.lines().any(|l| words.iter().any(|w| l.contains(w) && !l.trim_start().starts_with("//")));
        if has && !page.contains(&format!("`{short}`")) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "docs/UNSAFE.md does not name {missing:?}");
}

#[test]
fn no_state_outside_the_shard() {
    let words = [["thread", "_local!"].concat(), ["static", " mut "].concat()];
    refuse(
        &["runtime/src", "proxy/src"],
        &words,
        "in simulation all shards live on one thread: pass the state",
    );
}

#[test]
fn no_unfinished_business() {
    let words = [
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["#[ign", "ore"].concat(),
        ["db", "g!("].concat(),
    ];
    refuse(
        &["runtime", "proxy", "xds-client", "perf"],
        &words,
        "finish it, or refuse it in config with a clear error",
    );
}

#[test]
fn no_rooms_for_everything() {
    for (name, _) in rust_files(&["runtime/src", "proxy/src", "xds-client/src", "perf/src"]) {
        for part in name.trim_end_matches(".rs").split('/') {
            assert!(
                !["common", "util", "utils", "helpers", "manager", "misc"].contains(&part),
                "{name}: put it where it is used"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files(&["runtime/src", "proxy/src", "xds-client/src", "perf/src"]) {
        if !text.trim_start().starts_with("//!") {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "a file begins with what it does and what it does not do (//!): {wrong:?}");
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for (name, text) in rust_files(&["runtime/src", "proxy/src", "xds-client/src", "perf/src"]) {
        let lines = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count();
        if lines > 900 {
            long.push(format!("{name}: {lines}"));
        }
    }
    assert!(long.is_empty(), "past 600 lines, ask what a file is really two of: {long:?}");
}

/// The pages that people read: the README, its neighbours, and `docs/`.
fn pages() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for dir in ["", "docs", "docs/decisions", "fuzz", "proxy/tests/parity"] {
        for entry in fs::read_dir(root().join(dir)).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&path).expect("a page");
                found.push((path, text));
            }
        }
    }
    found
}

/// Targets of links, seen from the page, and paths in backticks, which begin with a folder of the repository.
fn named_paths(page: &Path, text: &str) -> Vec<PathBuf> {
    let here = page.parent().expect("a directory");
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(['#', ')']).next());
    let links = links.filter(|to| !to.is_empty() && !to.contains("://")).map(|to| here.join(to));
    let folders = ["docs/", "examples/", "perf/", "proxy/", "runtime/", "xds-client/", ".cargo/", ".ci/"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let is_path = |word: &&str| folders.iter().any(|f| word.starts_with(f)) && word.chars().all(plain);
    links.chain(quoted(text).filter(is_path).map(|word| root().join(word))).collect()
}

/// Words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace)
}

#[test]
fn pages_name_files_that_exist() {
    let sources = rust_files(&["runtime", "proxy", "xds-client", "perf"]);
    let is_source = |word: &str| sources.iter().any(|(name, _)| Path::new(name).ends_with(word));
    let (mut seen, mut wrong) = (0, Vec::new());
    for (page, text) in pages() {
        let paths = named_paths(&page, &text);
        seen += paths.len();
        wrong.extend(
            paths.iter().filter(|p| !p.exists()).map(|p| format!("{}: {}", page.display(), p.display())),
        );
        let ends = quoted(&text).filter(|w| w.ends_with(".rs") && !w.contains(['{', '*']));
        wrong.extend(ends.filter(|w| !is_source(w)).map(|w| format!("{}: {w}", page.display())));
    }
    assert!(seen > 20, "the pages name files: {seen}");
    assert!(wrong.is_empty(), "name the file that is there now:\n{}", wrong.join("\n"));
}
