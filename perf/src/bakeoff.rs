//! The bake-off: interleaved rounds of all contenders over all scenarios, resumable cell by cell.
//!
//! A cell is (round, scenario, contender). Its result is written before the next begins, so that a run that was cut
//! short goes on with `--resume`. A contender that is absent, fails or dies is reported and ends its cell alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hdrhistogram::serialization::{Serializer, V2Serializer};
use serde_json::{Value, json};

use crate::cell::cell;
use crate::clock;
use crate::contender::{self, Contender, Programs};
use crate::load::Engine;
use crate::report;
use crate::scenario::{self, Rate, Scenario};

#[derive(Debug)]
pub struct Options {
    pub quick: bool,
    pub rounds: usize,
    pub scenarios: Vec<Scenario>,
    pub contenders: Vec<Contender>,
    pub out: PathBuf,
    pub resume: bool,
    pub selvedge: Option<PathBuf>,
    pub envoy: Option<PathBuf>,
    pub warm_ns: u64,
    pub window_ns: u64,
}

pub fn run(options: &Options) -> Result<(), String> {
    let limit = clock::raise_descriptor_limit();
    let (programs, mut gaps) = prepare(options);
    clock::pin(clock::LOAD_CORE)
        .map_err(|e| format!("cannot pin to core {}: {e}; two cores are needed", clock::LOAD_CORE))?;
    if limit < 16_000 {
        gaps.push(format!("at most {limit} descriptors: scenarios with 5,000 connections need 16,000"));
    }
    let cells = options.out.join("cells");
    if !options.resume {
        let _ = fs::remove_dir_all(&cells);
    }
    fs::create_dir_all(&cells).map_err(|e| format!("{}: {e}", cells.display()))?;
    same_settings(options, &programs, &mut gaps)?;
    let mut engine = Engine::new().map_err(|e| format!("upstream: {e}"))?;
    let plan = plan(options, &programs, &mut gaps);
    for gap in &gaps {
        say(&format!("!!! {gap}"));
    }
    let half = half_of_envoy(options, &programs, &mut engine, &plan)?;
    let start = clock::now();
    let mut ran = 0u64;
    for (done, &(round, scenario, who)) in plan.iter().enumerate() {
        let file = cells.join(format!("r{round}.{}.{}.json", scenario.name, who.name()));
        if is_done(&file) {
            continue;
        }
        let outcome = cell(options, &programs, &mut engine, scenario, who, half);
        let mut value = match outcome {
            Ok((value, histogram)) => {
                let mut bytes = Vec::new();
                if V2Serializer::new().serialize(&histogram, &mut bytes).is_ok() && !histogram.is_empty() {
                    save(&file.with_extension("hdr"), &bytes)?;
                }
                value
            }
            Err(why) => {
                engine.close_clients();
                json!({ "failed": why })
            }
        };
        value["round"] = json!(round);
        value["scenario"] = json!(scenario.name);
        value["contender"] = json!(who.name());
        save(&file, format!("{value:#}\n").as_bytes())?;
        ran += 1;
        let left = (clock::now() - start) / ran * (plan.len() - done - 1) as u64 / 1_000_000_000;
        say(&format!(
            "[{:>3}/{}] round {round} {:<16} {:<15} {}   ({} min {:02} s left)",
            done + 1,
            plan.len(),
            scenario.name,
            who.name(),
            report::one_line(&value),
            left / 60,
            left % 60
        ));
    }
    let versions = versions(&programs);
    report::write(&options.out, &versions, &gaps, half)
}

/// Writes beside and renames, so that an interrupted run leaves no half of a file.
fn save(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let beside = file.with_extension("new");
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, file))
        .map_err(|e| format!("{}: {e}", file.display()))
}

/// A cell that was measured; one that failed is tried again.
fn is_done(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str::<Value>(&text).is_ok_and(|v| v["failed"].is_null())
}

/// Cells of one directory are measured alike: `--resume` refuses other windows, and tells of another proxy.
fn same_settings(options: &Options, programs: &Programs, gaps: &mut Vec<String>) -> Result<(), String> {
    let file = options.out.join("settings.json");
    let built = programs.selvedge.as_ref().and_then(|p| fs::metadata(p).ok());
    let built = built.map(|m| m.len().wrapping_mul(31).wrapping_add(m.mtime().unsigned_abs()));
    let windows = json!([options.warm_ns, options.window_ns]);
    let old = fs::read_to_string(&file).ok().and_then(|t| serde_json::from_str::<Value>(&t).ok());
    if let (true, Some(old)) = (options.resume, old) {
        if old["windows"] != windows {
            return Err(format!(
                "{} was measured with other windows: give the same --seconds and --quick, or start anew",
                options.out.display()
            ));
        }
        if built.is_some() && old["proxy"] != json!(built) {
            gaps.push("THE PROXY IS ANOTHER ONE than when this run began: its cells are mixed".to_owned());
        }
        return Ok(());
    }
    save(&file, json!({ "windows": windows, "proxy": built }).to_string().as_bytes())
}

#[expect(clippy::print_stdout, reason = "a command-line program")]
pub fn say(line: &str) {
    println!("{line}");
}

/// Builds the proxy and the baseline, and finds the others.
fn prepare(options: &Options) -> (Programs, Vec<String>) {
    let mut gaps = Vec::new();
    let wants = |who: &[Contender]| options.contenders.iter().any(|c| who.contains(c));
    let mut programs = Programs {
        selvedge: options.selvedge.clone(),
        envoy: options.envoy.clone().or_else(contender::find_envoy),
        nginx: contender::find("nginx"),
        haproxy: contender::find("haproxy"),
        glommio: None,
    };
    if programs.selvedge.is_none() && wants(&[Contender::SelvedgeUring, Contender::SelvedgeEpoll]) {
        say("building the proxy (release)");
        match build(&["-p", "selvedge", "--bin", "selvedge"], "selvedge") {
            Ok(path) => programs.selvedge = Some(path),
            Err(why) => gaps.push(format!("SELVEDGE IS MISSING: {why}")),
        }
    }
    if wants(&[Contender::Glommio]) {
        say("building the glommio baseline (release)");
        match build_glommio() {
            Ok(path) => programs.glommio = Some(path),
            Err(why) => gaps.push(format!("GLOMMIO IS MISSING: {why}")),
        }
    }
    (programs, gaps)
}

pub fn build_glommio() -> Result<PathBuf, String> {
    build(&["-p", "selvedge-perf", "--features", "glommio", "--bin", "glommio-relay"], "glommio-relay")
}

/// Builds a program of this workspace and answers where it is: beside this one.
fn build(args: &[&str], name: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release"])
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err(format!("cargo build {} failed", args.join(" ")));
    }
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let dir = own.parent().and_then(Path::parent).ok_or("no target directory")?;
    let path = dir.join("release").join(name);
    if path.is_file() { Ok(path) } else { Err(format!("{} was not built", path.display())) }
}

fn plan(options: &Options, programs: &Programs, gaps: &mut Vec<String>) -> Vec<(usize, Scenario, Contender)> {
    let mut here = Vec::new();
    for &who in &options.contenders {
        if who == Contender::Direct || programs.of(who).is_some() {
            here.push(who);
        } else if !gaps
            .iter()
            .any(|g| g.to_lowercase().starts_with(who.name().split('-').next().unwrap_or("?")))
        {
            gaps.push(format!("{} IS MISSING: not installed; its rows are empty", who.name().to_uppercase()));
        }
    }
    let mut plan = Vec::new();
    for round in 1..=options.rounds {
        for &scenario in &options.scenarios {
            let mut field: Vec<Contender> = here.iter().copied().filter(|&who| scenario.suits(who)).collect();
            // Nobody always comes first, or always after the same one's heat.
            let first = (round - 1) % field.len().max(1);
            field.rotate_left(first);
            plan.extend(field.into_iter().map(|who| (round, scenario, who)));
        }
    }
    plan
}

fn versions(programs: &Programs) -> Vec<(String, String)> {
    contender::ALL
        .into_iter()
        .filter_map(|who| programs.of(who).map(|p| (who.name().to_owned(), contender::version(who, p))))
        .collect()
}

/// The rate of the `HalfOfEnvoy` scenarios: measured once an output directory.
fn half_of_envoy(
    options: &Options,
    programs: &Programs,
    engine: &mut Engine,
    plan: &[(usize, Scenario, Contender)],
) -> Result<Option<f64>, String> {
    let file = options.out.join("half-of-envoy.json");
    if options.resume
        && let Ok(text) = fs::read_to_string(&file)
        && let Some(rate) = serde_json::from_str::<Value>(&text).ok().and_then(|v| v["per_second"].as_f64())
    {
        return Ok(Some(rate));
    }
    if !plan.iter().any(|(_, s, _)| s.rate == Rate::HalfOfEnvoy) {
        return Ok(None);
    }
    if programs.envoy.is_none() {
        say("!!! without Envoy its saturated rate is unknown: `open-half` is not run");
        return Ok(None);
    }
    say("measuring Envoy's saturated rate");
    let rate = match cell(options, programs, engine, scenario::ALL[0], Contender::Envoy, None) {
        Ok((value, _)) => (value["per_second"].as_f64().unwrap_or(0.0) / 2.0).round(),
        Err(why) => {
            engine.close_clients();
            say(&format!("!!! Envoy's saturated rate is unknown, `open-half` fails: {why}"));
            return Ok(None);
        }
    };
    say(&format!("half of Envoy's saturated rate: {rate} requests/s"));
    save(&file, json!({ "per_second": rate }).to_string().as_bytes())?;
    Ok(Some(rate))
}
