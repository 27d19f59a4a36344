//! Instructions a request of the sans-IO code, counted by callgrind: a regression shows without quiet hardware.
//!
//! `selvedge-perf instructions` runs itself under `valgrind --tool=callgrind` once for each stage; only the loop of
//! the stage is collected. The counts repeat to a few instructions, whatever else the machine does.
//! They weigh every instruction alike: memory, system calls and the kernel are not in them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bakeoff::say;
use crate::contender::find;
use crate::stages::{self, Stage};

/// Requests in a collected loop.
const REQUESTS: u64 = 1000;
/// The function whose inside is collected; see `stages::collected`.
const COLLECTED: &str = "*stages*collected*";

#[derive(Debug)]
pub struct Options {
    pub out: std::path::PathBuf,
    pub stages: Vec<Stage>,
    pub top: usize,
}

/// Runs every stage under callgrind and prints the table.
pub fn run(options: &Options) -> Result<(), String> {
    let valgrind = find("valgrind").ok_or(
        "VALGRIND IS MISSING: instructions cannot be counted without it (apt install valgrind); nothing was measured",
    )?;
    fs::create_dir_all(&options.out).map_err(|e| format!("{}: {e}", options.out.display()))?;
    let mut rows = String::from("| stage | instructions a request |\n|---|---|\n");
    let mut details = String::new();
    let mut all = Vec::new();
    for &stage in &options.stages {
        say(&format!("counting: {}", stage.title()));
        let profile = count(&valgrind, &options.out, stage)?;
        let each = |cost: u64| cost as f64 / REQUESTS as f64;
        rows.push_str(&format!("| {} | {:.0} |\n", stage.title(), each(profile.total)));
        details.push_str(&format!("\n{}: {:.0}\n", stage.title(), each(profile.total)));
        for (function, cost) in profile.functions.iter().take(options.top) {
            let share = *cost as f64 * 100.0 / profile.total as f64;
            details.push_str(&format!("{:>8.1} {share:>5.1} %  {function}\n", each(*cost)));
        }
        all.push(json!({
            "stage": stage.name(),
            "instructions": each(profile.total),
            "functions": profile.functions.iter().map(|(f, c)| json!([f, each(*c)])).collect::<Vec<_>>(),
        }));
    }
    let file = options.out.join("instructions.json");
    fs::write(&file, format!("{:#}\n", json!(all))).map_err(|e| format!("{}: {e}", file.display()))?;
    say(&format!("{details}\n{rows}\nwritten: {}", file.display()));
    Ok(())
}

fn count(valgrind: &Path, out: &Path, stage: Stage) -> Result<Profile, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let file = out.join(format!("callgrind.{}", stage.name()));
    let mut command = Command::new(valgrind);
    command
        .args(["--tool=callgrind", "--compress-pos=no", "--compress-strings=no", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COLLECTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(own)
        .args(["instructions-of", stage.name(), &REQUESTS.to_string()])
        .stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("{}: {e}", valgrind.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = text.lines().rev().take(5).collect();
        return Err(format!("valgrind ended with {}: {}", output.status, tail.join(" / ")));
    }
    let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let profile = Profile::parse(&text);
    if profile.total == 0 {
        return Err(format!("callgrind collected nothing: no function is like {COLLECTED}"));
    }
    Ok(profile)
}

/// What the run under valgrind executes.
pub fn run_stage(words: &[String]) -> Result<(), String> {
    let [name, requests] = words else { return Err("instructions-of STAGE REQUESTS".to_owned()) };
    let stage = Stage::from_name(name).ok_or(format!("no stage {name:?}"))?;
    let requests = requests.parse().map_err(|_| "REQUESTS: a number")?;
    stages::run(stage, requests)
}

/// Self costs by function, the dearest first.
#[derive(Debug, PartialEq, Eq)]
struct Profile {
    total: u64,
    functions: Vec<(String, u64)>,
}

impl Profile {
    /// Reads callgrind's format: `fn=` names a function, cost lines follow; the line after `calls=` is inclusive.
    fn parse(text: &str) -> Profile {
        let mut functions: Vec<(String, u64)> = Vec::new();
        let mut current = String::new();
        let mut sum = 0u64;
        let mut inclusive = false;
        let keep = |name: &mut String, sum: &mut u64, functions: &mut Vec<(String, u64)>| {
            if *sum > 0 {
                functions.push((std::mem::take(name), std::mem::take(sum)));
            }
        };
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                keep(&mut current, &mut sum, &mut functions);
                name.clone_into(&mut current);
            } else if line.starts_with("calls=") {
                inclusive = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit()) {
                let cost = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
                if !std::mem::take(&mut inclusive) {
                    sum += cost;
                }
            }
        }
        keep(&mut current, &mut sum, &mut functions);
        functions.sort();
        functions.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 += later.1;
            }
            same
        });
        functions.sort_by_key(|f| std::cmp::Reverse(f.1));
        Profile { total: functions.iter().map(|f| f.1).sum(), functions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_costs_are_summed_and_calls_are_not() {
        let text = "version: 1\nevents: Ir\nfl=a.rs\nfn=one\n3 10\nfi=b.rs\n4 5\ncfn=two\ncalls=7 9\n3 700\n\n\
                    fn=two\n9 70\nfn=one\n5 1\ntotals: 86\n";
        let profile = Profile::parse(text);
        assert_eq!(profile.total, 86);
        assert_eq!(profile.functions, [("two".to_owned(), 70), ("one".to_owned(), 16)]);
    }
}
