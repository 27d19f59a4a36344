//! One cell: a contender is started anew, checked byte by byte, warmed up, measured and stopped.
//!
//! What is measured is what the kernel says of the whole process, at the two ends of the window.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::bakeoff::Options;
use crate::contender::{Contender, Programs, Running, Wiring};
use crate::load::{Engine, Pace};
use crate::proc;
use crate::report;
use crate::scenario::{Rate, Scenario};

/// What was measured, and the latencies.
type Cell = (Value, Histogram<u64>);

/// Measures one contender in one scenario. `half`: the rate of `Rate::HalfOfEnvoy`, when it is known.
pub fn cell(
    options: &Options,
    programs: &Programs,
    engine: &mut Engine,
    scenario: Scenario,
    who: Contender,
    half: Option<f64>,
) -> Result<Cell, String> {
    let dir = options.out.join(format!("run-{}", who.name()));
    let wiring = Wiring { upstream: engine.upstream_at(), routes: scenario.routes, dir: &dir };
    if scenario.rate == Rate::Start {
        return Ok((just_started(who, programs, wiring)?, empty()));
    }
    let mut running = Running::start(who, programs, wiring)?;
    let outcome = measure(options, engine, &running, scenario, half);
    engine.close_clients();
    match (running.check(), outcome) {
        // That it is gone says more than what the generator saw of it.
        (Err(gone), Err(seen)) => Err(format!("{gone} (seen by the generator: {seen})")),
        (Err(gone), Ok(_)) => Err(gone),
        (Ok(()), outcome) => outcome,
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

fn measure(
    options: &Options,
    engine: &mut Engine,
    running: &Running,
    scenario: Scenario,
    half: Option<f64>,
) -> Result<Cell, String> {
    let pace = match scenario.rate {
        Rate::Saturate | Rate::Idle | Rate::Start => Pace::Closed,
        Rate::PerSecond(per_second) => Pace::Open { per_second },
        Rate::HalfOfEnvoy => Pace::Open { per_second: half.ok_or("Envoy's rate is unknown")? },
    };
    engine.prepare(running.at, scenario.exchange());
    engine.verify(1, 3).map_err(|e| format!("wrong answer: {e}"))?;
    let some = scenario.connections.min(16);
    engine.verify(some, 4 * some as u64).map_err(|e| format!("wrong answer with {some} connections: {e}"))?;
    if scenario.rate == Rate::Idle {
        return Ok((idle(engine, running, scenario.connections)?, empty()));
    }
    load(options, engine, running, scenario, pace)
}

/// Memory of a process that has read an example configuration and serves nobody yet.
fn just_started(who: Contender, programs: &Programs, wiring: Wiring<'_>) -> Result<Value, String> {
    let mut running = Running::start_example(who, programs, wiring)?;
    let memory = proc::memory(&running.pids);
    running.check()?;
    Ok(json!({
        "rss_bytes": memory.rss,
        "pss_bytes": memory.pss,
        "anonymous_bytes": memory.anonymous,
    }))
}

fn load(
    options: &Options,
    engine: &mut Engine,
    running: &Running,
    scenario: Scenario,
    pace: Pace,
) -> Result<Cell, String> {
    let own = [std::process::id()];
    let mut times = [proc::RunTime::default(); 2];
    let mut own_times = [proc::RunTime::default(); 2];
    let warm_ns = if scenario.connections >= 1000 { options.warm_ns * 2 } else { options.warm_ns };
    let window_ns = match pace {
        Pace::Closed => options.window_ns,
        Pace::Open { per_second } => options.window_ns.max(window_for_p99(per_second)),
    };
    let tally = engine.measure(scenario.connections, pace, warm_ns, window_ns, |end| {
        times[usize::from(end)] = proc::run_time(&running.pids);
        own_times[usize::from(end)] = proc::run_time(&own);
    })?;
    let cpu_ns = times[1].ns.saturating_sub(times[0].ns);
    let waited_ns = times[1].waited_ns.saturating_sub(times[0].waited_ns);
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
        "waited_share": waited_ns as f64 / tally.window_ns as f64,
        "generator_share": (own_times[1].ns - own_times[0].ns) as f64 / tally.window_ns as f64,
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

/// So long that a hundred samples lie beyond the 99th percentile.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds, at most a few hundred")]
fn window_for_p99(per_second: f64) -> u64 {
    (10_300.0 / per_second.max(100.0) * 1e9) as u64
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
        "unused_anonymous_per_connection": each(before.anonymous, unused.anonymous),
        "used_anonymous_per_connection": each(before.anonymous, used.anonymous),
    }))
}
