//! The bake-off: interleaved rounds of all contenders over all scenarios, resumable cell by cell.
//!
//! A cell is (round, scenario, contender): the contender is started anew, checked byte by byte, warmed up, measured
//! and stopped. Its result is written before the next begins, so that a run that was cut short goes on with `--resume`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hdrhistogram::serialization::{Serializer, V2Serializer};
use serde_json::{Value, json};

use crate::clock;
use crate::contender::{self, Contender, Programs, Running, Wiring};
use crate::load::{Engine, Pace};
use crate::proc;
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
    let (mut programs, mut gaps) = prepare(options);
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
    let mut engine = Engine::new().map_err(|e| format!("upstream: {e}"))?;
    let plan = plan(options, &programs, &mut gaps);
    for gap in &gaps {
        say(&format!("!!! {gap}"));
    }
    let half = half_of_envoy(options, &mut programs, &mut engine, &plan)?;
    let start = clock::now();
    let mut ran = 0u64;
    for (done, &(round, scenario, who)) in plan.iter().enumerate() {
        let file = cells.join(format!("r{round}.{}.{}.json", scenario.name, who.name()));
        if file.exists() {
            continue;
        }
        let outcome = cell(options, &programs, &mut engine, scenario, who, half);
        let mut value = match outcome {
            Ok((value, histogram)) => {
                let mut bytes = Vec::new();
                if V2Serializer::new().serialize(&histogram, &mut bytes).is_ok() && !histogram.is_empty() {
                    let _ = fs::write(file.with_extension("hdr"), bytes);
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
        fs::write(&file, format!("{value:#}\n")).map_err(|e| format!("{}: {e}", file.display()))?;
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
            plan.extend(here.iter().filter(|&&who| scenario.suits(who)).map(|&who| (round, scenario, who)));
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
    programs: &mut Programs,
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
    let tiny = scenario::ALL[0];
    let (value, _) = cell(options, programs, engine, tiny, Contender::Envoy, None)?;
    let rate = (value["per_second"].as_f64().unwrap_or(0.0) / 2.0).round();
    say(&format!("half of Envoy's saturated rate: {rate} requests/s"));
    fs::write(&file, json!({ "per_second": rate }).to_string())
        .map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(Some(rate))
}

type Cell = (Value, hdrhistogram::Histogram<u64>);

fn cell(
    options: &Options,
    programs: &Programs,
    engine: &mut Engine,
    scenario: Scenario,
    who: Contender,
    half: Option<f64>,
) -> Result<Cell, String> {
    let pace = match scenario.rate {
        Rate::Saturate | Rate::Idle => Pace::Closed,
        Rate::PerSecond(per_second) => Pace::Open { per_second },
        Rate::HalfOfEnvoy => Pace::Open { per_second: half.ok_or("Envoy's rate is unknown")? },
    };
    let dir = options.out.join(format!("run-{}", who.name()));
    let wiring = Wiring { upstream: engine.upstream_at(), routes: scenario.routes, dir: &dir };
    let mut running = Running::start(who, programs, wiring)?;
    let at_start = proc::memory(&running.pids);
    engine.prepare(running.at, scenario.exchange());
    engine.verify(1, 3).map_err(|e| format!("wrong answer: {e}"))?;
    let some = scenario.connections.min(16);
    engine.verify(some, 4 * some as u64).map_err(|e| format!("wrong answer with {some} connections: {e}"))?;
    let mut value = if scenario.rate == Rate::Idle {
        let value = idle(engine, &running, scenario.connections)?;
        engine.close_clients();
        (value, hdrhistogram::Histogram::new(3).map_err(|e| e.to_string())?)
    } else {
        load(options, engine, &running, scenario, pace)?
    };
    running.check()?;
    value.0["rss_at_start_bytes"] = json!(at_start.rss);
    value.0["private_dirty_at_start_bytes"] = json!(at_start.private_dirty);
    Ok(value)
}

fn load(
    options: &Options,
    engine: &mut Engine,
    running: &Running,
    scenario: Scenario,
    pace: Pace,
) -> Result<Cell, String> {
    let mut times = [proc::RunTime::default(); 2];
    let warm_ns = if scenario.connections >= 1000 { options.warm_ns * 2 } else { options.warm_ns };
    let tally = engine.measure(scenario.connections, pace, warm_ns, options.window_ns, |end| {
        times[usize::from(end)] = proc::run_time(&running.pids);
    })?;
    let cpu_ns = times[1].ns.saturating_sub(times[0].ns);
    let ticks_ns = times[1].ticks.saturating_sub(times[0].ticks) * 10_000_000;
    let seconds = tally.window_ns as f64 / 1e9;
    let mut value = json!({
        "completed": tally.completed,
        "errors": tally.errors,
        "seconds": seconds,
        "per_second": tally.completed as f64 / seconds,
        "cpu_ns": cpu_ns,
        "cpu_us_per_request": cpu_ns as f64 / 1e3 / tally.completed as f64,
        "core_share": cpu_ns as f64 / tally.window_ns as f64,
        "samples": tally.latency.len(),
    });
    if ticks_ns > cpu_ns + 50_000_000 {
        value["note"] = json!("threads that ended in the window are not counted");
    }
    if let Some(error) = tally.first_error {
        value["first_error"] = json!(error);
    }
    if scenario.body_bytes() > 0 {
        let gigabytes = scenario.body_bytes() as f64 * tally.completed as f64 / 1e9;
        value["cpu_s_per_gb"] = json!(cpu_ns as f64 / 1e9 / gigabytes);
        value["gb_per_second"] = json!(gigabytes / seconds);
    }
    for (name, quantile) in report::QUANTILES {
        if report::enough(tally.latency.len(), quantile) {
            value[format!("{name}_us")] = json!(tally.latency.value_at_quantile(quantile) as f64 / 1e3);
        }
    }
    if tally.errors * 100 > tally.completed {
        return Err(format!(
            "{} errors in {} answers: {}",
            tally.errors, tally.completed, value["first_error"]
        ));
    }
    Ok((value, tally.latency))
}

/// Growth of memory a connection: opened and never used, then after one request each.
fn idle(engine: &mut Engine, running: &Running, connections: usize) -> Result<Value, String> {
    const SETTLE_NS: u64 = 500_000_000;
    engine.idle_for(SETTLE_NS);
    let before = proc::memory(&running.pids);
    engine.open_idle(connections)?;
    engine.idle_for(SETTLE_NS);
    let unused = proc::memory(&running.pids);
    engine.once_each(32)?;
    engine.idle_for(SETTLE_NS);
    let used = proc::memory(&running.pids);
    let each = |from: u64, to: u64| json!((to as f64 - from as f64) / connections as f64);
    Ok(json!({
        "connections": connections,
        "rss_before_bytes": before.rss,
        "rss_unused_bytes": unused.rss,
        "rss_used_bytes": used.rss,
        "unused_bytes_per_connection": each(before.rss, unused.rss),
        "used_bytes_per_connection": each(before.rss, used.rss),
        "unused_pss_per_connection": each(before.pss, unused.pss),
        "used_pss_per_connection": each(before.pss, used.pss),
        "unused_private_dirty_per_connection": each(before.private_dirty, unused.private_dirty),
        "used_private_dirty_per_connection": each(before.private_dirty, used.private_dirty),
    }))
}
