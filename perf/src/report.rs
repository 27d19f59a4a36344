//! The tables: what was promised, every ratio, every scenario; files of histograms and plots.
//!
//! A percentile is shown only with at least a hundred samples beyond it. Rows that lose are printed like the others.

use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, V2Serializer, interval_log};
use serde_json::{Value, json};

use crate::bakeoff::say;
use crate::contender::{self, Contender};
use crate::plot;
use crate::proc;
use crate::promises;
use crate::results::{Results, middle, range};
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
    if let Some(bytes) = value["rss_bytes"].as_f64() {
        return format!("{:.1} MB RSS", bytes / 1e6);
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

pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v.abs() >= 10_000.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 100.0 => format!("{v:.1}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.2}"),
        Some(v) => format!("{v:.3}"),
    }
}

fn spread(rounds: &[(u64, f64)], scale: f64) -> String {
    range(rounds).map_or("-".to_owned(), |(low, high)| {
        format!("{}..{}", number(Some(low / scale)), number(Some(high / scale)))
    })
}

pub fn aligned(rows: &[Vec<String>]) -> String {
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

/// Whether others had the cores while we measured; then times are not to be trusted.
fn quiet(results: &Results) -> Option<String> {
    const SHARE: f64 = 0.05;
    let loads: Vec<&Value> = results.cells.iter().filter(|c| c["generator_share"].is_f64()).collect();
    let disturbed = |c: &&&Value| {
        let get = |name: &str| c[name].as_f64().unwrap_or(0.0);
        get("waited_share") > SHARE || get("generator_share") < 1.0 - SHARE
    };
    let count = loads.iter().filter(disturbed).count();
    (count > 0).then(|| {
        format!(
            "!!! THE MACHINE WAS NOT QUIET in {count} of {} cells: another process took more than 5 % of a core\n\n",
            loads.len()
        )
    })
}

/// Every scenario in one table: what Selvedge costs, and its ratio to each of the others.
fn ratio_table(results: &Results) -> String {
    use Contender::{Envoy, Haproxy, Nginx, SelvedgeEpoll as Epoll, SelvedgeUring as Uring};
    let head =
        ["scenario", "unit", "io_uring", "/ Envoy", "/ nginx", "/ HAProxy", "epoll", "epoll / io_uring"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for scenario in &scenario::ALL {
        let (measure, unit, scale) = scenario.measure();
        let value = |who| number(results.value(scenario.name, who, measure).map(|v| v / scale));
        let ratio = |who, base| {
            let ratio = middle(&results.ratio(scenario.name, who, base, measure));
            let text = number(ratio);
            // What loses is what one looks for.
            if ratio.is_some_and(|r| r > 1.0) { format!("**{text}**") } else { text }
        };
        if results.value(scenario.name, Uring, measure).is_none() {
            continue;
        }
        let mut row = vec![scenario.title.to_owned(), unit.to_owned(), value(Uring)];
        row.extend([Envoy, Nginx, Haproxy].map(|base| ratio(Uring, base)));
        row.extend([value(Epoll), number(middle(&results.ratio(scenario.name, Epoll, Uring, measure)))]);
        rows.push(row);
    }
    aligned(&rows)
}

/// More columns of a scenario's table: measure, title, divisor.
fn columns(scenario: &Scenario) -> &'static [(&'static str, &'static str, f64)] {
    match scenario.rate {
        Rate::Idle => &[
            ("unused_bytes_per_connection", "B/conn unused", 1.0),
            ("unused_anonymous_per_connection", "anonymous unused", 1.0),
            ("used_anonymous_per_connection", "anonymous used", 1.0),
            ("rss_before_bytes", "RSS before MB", 1e6),
        ],
        Rate::Start => &[("pss_bytes", "PSS MB", 1e6), ("anonymous_bytes", "anonymous MB", 1e6)],
        _ if scenario.body_bytes() > 0 => &[("gb_per_second", "GB/s", 1.0), ("core_share", "core", 1.0)],
        _ => &[
            ("per_second", "req/s", 1.0),
            ("core_share", "core", 1.0),
            ("p50_us", "p50 us", 1.0),
            ("p99_us", "p99 us", 1.0),
            ("p99_9_us", "p99.9 us", 1.0),
        ],
    }
}

fn scenario_table(results: &Results, scenario: &Scenario) -> Option<String> {
    let (measure, unit, scale) = scenario.measure();
    let more = columns(scenario);
    let mut head = vec!["contender", unit, "range", "/ Envoy", "/ nginx", "/ HAProxy"];
    head.extend(more.iter().map(|m| m.1));
    if scenario.rate.is_open() {
        head.extend(["added p50 us", "/ Envoy's", "added p99 us", "/ Envoy's"]);
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
        let Some(mid) = middle(&rounds) else { continue };
        let mut row = vec![who.name().to_owned(), number(Some(mid / scale)), spread(&rounds, scale)];
        if who == Contender::Direct {
            row[1..].fill("-".to_owned());
            row.extend(["-"; 3].map(str::to_owned));
        } else {
            let bases = [Contender::Envoy, Contender::Nginx, Contender::Haproxy];
            row.extend(bases.map(|base| number(middle(&results.ratio(scenario.name, who, base, measure)))));
        }
        for (m, _, scale) in more {
            row.push(number(results.value(scenario.name, who, m).map(|v| v / scale)));
        }
        if scenario.rate.is_open() {
            for m in ["p50_us", "p99_us"] {
                row.push(number(middle(&results.added(scenario.name, who, m))));
                row.push(number(middle(&results.added_ratio(scenario.name, who, Contender::Envoy, m))));
            }
        }
        rows.push(row);
    }
    if rows.len() == 1 && notes.is_empty() {
        return None;
    }
    Some(format!("## {}: {}\n\n{}{notes}\n", scenario.name, scenario.title, aligned(&rows)))
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
    text.push_str(&quiet(&results).unwrap_or_default());
    for (name, version) in versions {
        text.push_str(&format!("- {name}: {version}\n"));
    }
    if let Some(rate) = half {
        text.push_str(&format!("- open-half: {rate} requests/s\n"));
    }
    for gap in gaps {
        text.push_str(&format!("\n!!! {gap}\n"));
    }
    text.push_str(&format!("\n## What it must reach\n\n{}\n", promises::table(&results)));
    text.push_str(
        "## Every ratio\n\nBelow 1: Selvedge on io_uring costs less than the other. Bold: it loses.\n\n",
    );
    text.push_str(&format!("{}\n", ratio_table(&results)));
    for scenario in &scenario::ALL {
        text.push_str(&scenario_table(&results, scenario).unwrap_or_default());
    }
    let save =
        |name: &str, bytes: &[u8]| fs::write(out.join(name), bytes).map_err(|e| format!("{name}: {e}"));
    save("results.md", text.as_bytes())?;
    let all = json!({
        "machine": proc::machine(), "rounds": rounds, "versions": versions, "gaps": gaps, "open_half_per_second": half,
        "promises": promises::json(&results), "cells": results.cells,
    });
    save("results.json", format!("{all:#}\n").as_bytes())?;
    for scenario in &scenario::ALL {
        latencies(out, scenario)?;
    }
    cost_plots(out, &results)?;
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
    if scenario.rate.is_open() && !curves.is_empty() {
        let name = format!("latency-{}.svg", scenario.name);
        fs::write(out.join(&name), plot::latency(scenario.title, &curves))
            .map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

fn cost_plots(out: &Path, results: &Results) -> Result<(), String> {
    for scenario in &scenario::ALL {
        let (measure, unit, scale) = scenario.measure();
        let bars: Vec<(&str, f64, f64, f64)> = contender::ALL
            .into_iter()
            .filter(|&who| who != Contender::Direct)
            .filter_map(|who| {
                let rounds = results.rounds(scenario.name, who, measure);
                let (low, high) = range(&rounds)?;
                Some((who.name(), middle(&rounds)? / scale, low / scale, high / scale))
            })
            .collect();
        if !bars.is_empty() {
            let name = format!("cost-{}.svg", scenario.name);
            let title = format!("{} ({unit})", scenario.title);
            fs::write(out.join(&name), plot::bars(&title, &bars)).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_needs_a_hundred_samples_beyond_it() {
        assert!(enough(10_000, 0.99) && !enough(9_999, 0.99));
        assert!(enough(200, 0.5) && !enough(199, 0.5));
    }

    #[test]
    fn a_shared_core_is_told() {
        let cell = |waited: f64, own: f64| json!({"waited_share": waited, "generator_share": own});
        let told = |cells| quiet(&Results { cells });
        assert_eq!(told(vec![cell(0.01, 0.99), json!({"rss_bytes": 1})]), None);
        let text = told(vec![cell(0.2, 1.0), cell(0.0, 0.5), cell(0.0, 1.0)]).expect("disturbed");
        assert!(text.contains("in 2 of 3 cells"), "{text}");
    }

    #[test]
    fn a_losing_row_is_printed_and_marked() {
        let cell = |who: &str, us: f64| json!({"round": 1, "scenario": "slow", "contender": who, "cpu_us_per_request": us});
        let results =
            Results { cells: vec![cell("selvedge-uring", 9.0), cell("envoy", 30.0), cell("nginx", 6.0)] };
        let table = ratio_table(&results);
        assert!(table.contains("0.300") && table.contains("**1.500**"), "{table}");
    }
}
