//! From cells to a table: medians over rounds, spreads, ratios taken within each round, and what was promised.
//!
//! A percentile is shown only with at least a hundred samples beyond it. Ratios are formed within a round, where both
//! sides met the same weather, and then the median of the rounds is taken. HAProxy stands with the better of its two
//! runs (with its log and without).

use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, V2Serializer, interval_log};
use serde_json::{Value, json};

use crate::bakeoff::say;
use crate::contender::{self, Contender};
use crate::plot;
use crate::proc;
use crate::scenario::{self, Rate, Scenario};

pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)];

/// At least a hundred samples lie beyond this quantile.
pub fn enough(samples: u64, quantile: f64) -> bool {
    samples as f64 * (1.0 - quantile) >= 99.999
}

/// A cell for the progress display.
pub fn one_line(value: &Value) -> String {
    if let Some(why) = value["failed"].as_str() {
        return format!("FAILED: {why}");
    }
    if let Some(bytes) = value["unused_bytes_per_connection"].as_f64() {
        let used = value["used_bytes_per_connection"].as_f64().unwrap_or(0.0);
        return format!("{bytes:.0} B unused, {used:.0} B used a connection");
    }
    let get = |name: &str| value[name].as_f64().unwrap_or(0.0);
    let errors =
        value["errors"].as_u64().filter(|&e| e > 0).map(|e| format!(", {e} ERRORS")).unwrap_or_default();
    let us = get("cpu_us_per_request");
    format!(
        "{us:>8.2} us/req {:>8.0} req/s, core {:>3.0} %{errors}",
        get("per_second"),
        get("core_share") * 100.0
    )
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return None;
    }
    Some(f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]))
}

/// All cells of an output directory.
#[derive(Debug)]
pub struct Results {
    cells: Vec<Value>,
}

impl Results {
    fn read(out: &Path) -> Result<Results, String> {
        let dir = out.join("cells");
        let mut names: Vec<_> = fs::read_dir(&dir)
            .map_err(|e| format!("{}: {e}", dir.display()))?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        names.sort();
        let mut cells = Vec::new();
        for name in names {
            let text = fs::read_to_string(&name).map_err(|e| format!("{}: {e}", name.display()))?;
            cells.push(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", name.display()))?);
        }
        Ok(Results { cells })
    }

    /// The measure by round.
    fn rounds(&self, scenario: &str, who: Contender, measure: &str) -> Vec<(u64, f64)> {
        self.cells
            .iter()
            .filter(|c| c["scenario"] == scenario && c["contender"] == who.name())
            .filter_map(|c| Some((c["round"].as_u64()?, c[measure].as_f64()?)))
            .collect()
    }

    fn value(&self, scenario: &str, who: Contender, measure: &str) -> Option<f64> {
        median(&self.rounds(scenario, who, measure).iter().map(|r| r.1).collect::<Vec<_>>())
    }

    fn failures(&self, scenario: &str, who: Contender) -> Vec<String> {
        self.cells
            .iter()
            .filter(|c| c["scenario"] == scenario && c["contender"] == who.name())
            .filter_map(|c| c["failed"].as_str().map(str::to_owned))
            .collect()
    }

    /// The other side of a ratio; HAProxy is the better of its two, round by round.
    fn baseline(&self, scenario: &str, who: Contender, measure: &str) -> Vec<(u64, f64)> {
        let mut rounds = self.rounds(scenario, who, measure);
        if who == Contender::Haproxy {
            for (round, value) in self.rounds(scenario, Contender::HaproxyNoLog, measure) {
                match rounds.iter_mut().find(|r| r.0 == round) {
                    Some(here) => here.1 = here.1.min(value),
                    None => rounds.push((round, value)),
                }
            }
        }
        rounds
    }

    /// Median over the rounds of `who / base` within a round.
    fn ratio(&self, scenario: &str, who: Contender, base: Contender, measure: &str) -> Option<f64> {
        let base = self.baseline(scenario, base, measure);
        let ratios: Vec<f64> = self
            .rounds(scenario, who, measure)
            .iter()
            .filter_map(|(round, value)| base.iter().find(|b| b.0 == *round).map(|b| value / b.1))
            .collect();
        median(&ratios)
    }

    /// The same for what a contender adds to the direct way.
    fn added_ratio(&self, scenario: &str, who: Contender, base: Contender, measure: &str) -> Option<f64> {
        let direct = self.rounds(scenario, Contender::Direct, measure);
        let base = self.rounds(scenario, base, measure);
        let at = |list: &[(u64, f64)], round: u64| list.iter().find(|b| b.0 == round).map(|b| b.1);
        let ratios: Vec<f64> = self
            .rounds(scenario, who, measure)
            .iter()
            .filter_map(|&(round, value)| {
                Some((value - at(&direct, round)?) / (at(&base, round)? - at(&direct, round)?))
            })
            .collect();
        median(&ratios)
    }

    /// The same contender in two scenarios.
    fn against(&self, scenario: &str, other: &str, who: Contender, measure: &str) -> Option<f64> {
        let base = self.rounds(other, who, measure);
        let ratios: Vec<f64> = self
            .rounds(scenario, who, measure)
            .iter()
            .filter_map(|(round, value)| base.iter().find(|b| b.0 == *round).map(|b| value / b.1))
            .collect();
        median(&ratios)
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v.abs() >= 10_000.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 100.0 => format!("{v:.1}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.2}"),
        Some(v) => format!("{v:.3}"),
    }
}

fn spread(rounds: &[(u64, f64)]) -> String {
    let low = rounds.iter().map(|r| r.1).fold(f64::INFINITY, f64::min);
    let high = rounds.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max);
    if rounds.is_empty() { "-".to_owned() } else { format!("{}..{}", number(Some(low)), number(Some(high))) }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(c, v)| format!("{v:<w$}", w = width(c))).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if i == 0 {
            let dashes: Vec<String> = (0..columns).map(|c| "-".repeat(width(c))).collect();
            text.push_str(&format!("| {} |\n", dashes.join(" | ")));
        }
    }
    text
}

fn scenario_table(results: &Results, scenario: &Scenario) -> Option<String> {
    let idle = scenario.rate == Rate::Idle;
    let bodies = scenario.body_bytes() > 0;
    let open = matches!(scenario.rate, Rate::PerSecond(_) | Rate::HalfOfEnvoy);
    let (measure, unit) = if idle {
        ("used_bytes_per_connection", "B/conn after a request")
    } else if bodies {
        ("cpu_s_per_gb", "CPU s/GB")
    } else {
        ("cpu_us_per_request", "CPU us/req")
    };
    let mut head = vec!["contender", unit, "range", "/ Envoy", "/ nginx", "/ HAProxy"];
    let more: &[(&str, &str)] = match (idle, bodies) {
        (true, _) => &[
            ("unused_bytes_per_connection", "B/conn unused"),
            ("used_private_dirty_per_connection", "dirty B/conn"),
            ("rss_at_start_bytes", "RSS at start MB"),
        ],
        (_, true) => &[("gb_per_second", "GB/s"), ("core_share", "core")],
        _ => &[
            ("per_second", "req/s"),
            ("core_share", "core"),
            ("p50_us", "p50 us"),
            ("p99_us", "p99 us"),
            ("p99_9_us", "p99.9 us"),
        ],
    };
    head.extend(more.iter().map(|m| m.1));
    if open {
        head.extend(["added p50 / Envoy's", "added p99 / Envoy's"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let mut notes = String::new();
    for who in contender::ALL {
        let failures = results.failures(scenario.name, who);
        if let Some(why) = failures.first() {
            notes.push_str(&format!("\n!!! {} failed in {} round(s): {why}\n", who.name(), failures.len()));
        }
        let errors: f64 = results.rounds(scenario.name, who, "errors").iter().map(|r| r.1).sum();
        if errors > 0.0 {
            notes.push_str(&format!("\n!!! {}: {errors} errors in all rounds\n", who.name()));
        }
        let rounds = results.rounds(scenario.name, who, measure);
        if rounds.is_empty() {
            continue;
        }
        let ratio = |base| {
            if who == base {
                "1".to_owned()
            } else {
                number(results.ratio(scenario.name, who, base, measure))
            }
        };
        let mut row = vec![
            who.name().to_owned(),
            number(median(&rounds.iter().map(|r| r.1).collect::<Vec<_>>())),
            spread(&rounds),
        ];
        if who == Contender::Direct {
            row[1..].fill("-".to_owned());
            row.extend(["-"; 3].map(str::to_owned));
        } else {
            row.extend([Contender::Envoy, Contender::Nginx, Contender::Haproxy].map(ratio));
        }
        row.extend(more.iter().map(|(m, _)| {
            let value = results.value(scenario.name, who, m);
            number(if m.starts_with("rss") { value.map(|v| v / 1e6) } else { value })
        }));
        if open {
            row.extend(
                ["p50_us", "p99_us"]
                    .map(|m| number(results.added_ratio(scenario.name, who, Contender::Envoy, m))),
            );
        }
        rows.push(row);
    }
    if rows.len() == 1 && notes.is_empty() {
        return None;
    }
    Some(format!("## {}: {}\n\n{}{notes}\n", scenario.name, scenario.title, aligned(&rows)))
}

/// What the proxy promises: measure, value, the highest allowed value, the aim.
fn promises(results: &Results) -> Vec<(String, Option<f64>, f64, f64)> {
    use Contender::{Envoy, Haproxy, Nginx, SelvedgeEpoll as Epoll, SelvedgeUring as Uring};
    let cpu = "cpu_us_per_request";
    let vs = |scenario: &str, base, measure: &str| results.ratio(scenario, Uring, base, measure);
    let own = |scenario: &str, measure: &str, scale: f64| {
        results.value(scenario, Uring, measure).map(|v| v / scale)
    };
    let mut list: Vec<(String, Option<f64>, f64, f64)> = vec![
        ("CPU per request, 64 connections / Envoy".into(), vs("tiny64", Envoy, cpu), 0.30, 0.25),
        ("CPU per request, 64 connections / HAProxy".into(), vs("tiny64", Haproxy, cpu), 1.0, 0.9),
        ("CPU per request, 64 connections / nginx".into(), vs("tiny64", Nginx, cpu), 1.0, 0.8),
        ("new connection and request / Envoy".into(), vs("newconn", Envoy, cpu), 0.45, 0.35),
        ("64 KiB download, CPU per GB / Envoy".into(), vs("down64k", Envoy, "cpu_s_per_gb"), 0.50, 0.40),
        ("64 KiB upload, CPU per GB / Envoy".into(), vs("up64k", Envoy, "cpu_s_per_gb"), 0.50, 0.40),
        ("1 MiB download, CPU per GB / Envoy".into(), vs("down1m", Envoy, "cpu_s_per_gb"), 0.85, 0.65),
        ("1 MiB upload, CPU per GB / Envoy".into(), vs("up1m", Envoy, "cpu_s_per_gb"), 0.85, 0.65),
        (
            "idle connection, never used, bytes".into(),
            own("idle5000", "unused_bytes_per_connection", 1.0),
            2048.0,
            600.0,
        ),
        (
            "idle connection, after a request, bytes".into(),
            own("idle5000", "used_bytes_per_connection", 1.0),
            4096.0,
            600.0,
        ),
        ("RSS at start, MB".into(), own("tiny64", "rss_at_start_bytes", 1e6), 20.0, 10.0),
        (
            "last of 10,000 routes / first".into(),
            results.against("routes10k-last", "routes10k-first", Uring, cpu),
            1.2,
            1.05,
        ),
    ];
    let epoll = results.ratio("tiny64", Epoll, Uring, cpu);
    list.push(("epoll / io_uring, CPU per request".into(), epoll, 1.12, 1.08));
    for scenario in ["open5k", "open-half"] {
        for measure in ["p50_us", "p99_us"] {
            let value = results.added_ratio(scenario, Uring, Envoy, measure);
            list.push((
                format!("added latency {} at {scenario} / Envoy", measure.trim_end_matches("_us")),
                value,
                0.7,
                0.5,
            ));
        }
    }
    list
}

fn promise_table(results: &Results) -> String {
    let mut rows = vec![["measure", "value", "must", "aim", ""].map(str::to_owned).to_vec()];
    for (name, value, must, aim) in promises(results) {
        let verdict = match value {
            None => "not measured",
            Some(v) if v <= aim => "aim reached",
            Some(v) if v <= must => "ok",
            Some(_) => "LOST",
        };
        rows.push(vec![name, number(value), format!("<= {must}"), format!("<= {aim}"), verdict.to_owned()]);
    }
    aligned(&rows)
}

/// Writes `results.md`, `results.json`, `*.hlog` and `*.svg`, and prints the tables.
pub fn write(
    out: &Path,
    versions: &[(String, String)],
    gaps: &[String],
    half: Option<f64>,
) -> Result<(), String> {
    let results = Results::read(out)?;
    let rounds = results.cells.iter().filter_map(|c| c["round"].as_u64()).max().unwrap_or(0);
    let mut text = format!(
        "# Bake-off\n\n{}. {rounds} interleaved round(s), medians; ratios within a round.\n",
        proc::machine()
    );
    text.push_str("Proxy on core 0, load generator and upstream on core 1. Read ratios, not absolutes; two cores say nothing of scaling.\n\n");
    if rounds < 5 {
        text.push_str("Fewer than five rounds: a look, not a result.\n\n");
    }
    for (name, version) in versions {
        text.push_str(&format!("- {name}: {version}\n"));
    }
    if let Some(rate) = half {
        text.push_str(&format!("- open-half: {rate} requests/s\n"));
    }
    for gap in gaps {
        text.push_str(&format!("\n!!! {gap}\n"));
    }
    text.push_str(&format!("\n## Promises\n\n{}\n", promise_table(&results)));
    for scenario in &scenario::ALL {
        text.push_str(&scenario_table(&results, scenario).unwrap_or_default());
    }
    let save =
        |name: &str, bytes: &[u8]| fs::write(out.join(name), bytes).map_err(|e| format!("{name}: {e}"));
    save("results.md", text.as_bytes())?;
    let promises: Vec<Value> = promises(&results)
        .into_iter()
        .map(|(n, v, must, aim)| json!({"measure": n, "value": v, "must": must, "aim": aim}))
        .collect();
    let all = json!({
        "machine": proc::machine(), "rounds": rounds, "versions": versions, "gaps": gaps, "open_half_per_second": half,
        "promises": promises, "cells": results.cells,
    });
    save("results.json", format!("{all:#}\n").as_bytes())?;
    for scenario in &scenario::ALL {
        latencies(out, scenario)?;
    }
    cpu_plot(out, &results)?;
    say(&text);
    say(&format!("written: {}/results.md, results.json, *.hlog, *.svg", out.display()));
    Ok(())
}

/// Histograms of each contender: one interval a round, and all rounds together in the plot.
fn latencies(out: &Path, scenario: &Scenario) -> Result<(), String> {
    let mut curves = Vec::new();
    for who in contender::ALL {
        let mut log = Vec::new();
        let mut all: Option<Histogram<u64>> = None;
        let mut serializer = V2Serializer::new();
        let mut builder = interval_log::IntervalLogWriterBuilder::new();
        builder.add_comment(&format!("{} {}; nanoseconds", scenario.name, who.name()));
        let mut writer = builder.begin_log_with(&mut log, &mut serializer).map_err(|e| e.to_string())?;
        for round in 1u32..=1000 {
            let file = out.join("cells").join(format!("r{round}.{}.{}.hdr", scenario.name, who.name()));
            let Ok(bytes) = fs::read(&file) else { if round > 64 { break } else { continue } };
            let one: Histogram<u64> = Deserializer::new()
                .deserialize(&mut &bytes[..])
                .map_err(|e| format!("{}: {e:?}", file.display()))?;
            let (start, length) =
                (std::time::Duration::from_secs(round.into()), std::time::Duration::from_secs(1));
            writer.write_histogram(&one, start, length, None).map_err(|e| format!("{e:?}"))?;
            match &mut all {
                Some(sum) => sum.add(&one).map_err(|e| e.to_string())?,
                None => all = Some(one),
            }
        }
        if let Some(all) = all {
            let name = format!("{}.{}.hlog", scenario.name, who.name());
            fs::write(out.join(&name), log).map_err(|e| format!("{name}: {e}"))?;
            curves.push((who.name(), all));
        }
    }
    if matches!(scenario.rate, Rate::PerSecond(_) | Rate::HalfOfEnvoy) && !curves.is_empty() {
        let name = format!("latency-{}.svg", scenario.name);
        fs::write(out.join(&name), plot::latency(scenario.title, &curves))
            .map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

fn cpu_plot(out: &Path, results: &Results) -> Result<(), String> {
    for scenario in &scenario::ALL {
        let measure = match (scenario.rate, scenario.body_bytes()) {
            (Rate::Idle, _) => "used_bytes_per_connection",
            (_, 0) => "cpu_us_per_request",
            _ => "cpu_s_per_gb",
        };
        let bars: Vec<(&str, f64, f64, f64)> = contender::ALL
            .into_iter()
            .filter(|&who| who != Contender::Direct)
            .filter_map(|who| {
                let rounds: Vec<f64> =
                    results.rounds(scenario.name, who, measure).iter().map(|r| r.1).collect();
                let low = rounds.iter().copied().fold(f64::INFINITY, f64::min);
                let high = rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                median(&rounds).map(|mid| (who.name(), mid, low, high))
            })
            .collect();
        if !bars.is_empty() {
            let name = format!("cost-{}.svg", scenario.name);
            let title = format!("{} ({})", scenario.title, measure.replace('_', " "));
            fs::write(out.join(&name), plot::bars(&title, &bars)).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(round: u64, who: Contender, us: f64) -> Value {
        json!({"round": round, "scenario": "tiny64", "contender": who.name(), "cpu_us_per_request": us})
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_haproxy_is_the_better_of_two() {
        let cells = vec![
            cell(1, Contender::SelvedgeUring, 8.0),
            cell(1, Contender::Envoy, 32.0),
            cell(1, Contender::Haproxy, 16.0),
            cell(1, Contender::HaproxyNoLog, 10.0),
            cell(2, Contender::SelvedgeUring, 16.0),
            cell(2, Contender::Envoy, 64.0),
            cell(2, Contender::Haproxy, 20.0),
        ];
        let results = Results { cells };
        let ratio = |base| results.ratio("tiny64", Contender::SelvedgeUring, base, "cpu_us_per_request");
        assert_eq!(ratio(Contender::Envoy), Some(0.25));
        assert_eq!(ratio(Contender::Haproxy), Some(0.8));
        assert_eq!(ratio(Contender::Nginx), None);
    }

    #[test]
    fn a_percentile_needs_a_hundred_samples_beyond_it() {
        assert!(enough(10_000, 0.99) && !enough(9_999, 0.99));
        assert!(enough(200, 0.5) && !enough(199, 0.5));
    }
}
