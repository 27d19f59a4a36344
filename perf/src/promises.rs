//! What the proxy promises, and whether the measured numbers keep it.
//!
//! One list: a promise is one entry. `LOST` is printed like any other verdict.

use serde_json::{Value, json};

use crate::contender::Contender::{Envoy, Haproxy, Nginx, SelvedgeEpoll as Epoll, SelvedgeUring as Uring};
use crate::report::{aligned, number};
use crate::results::{Results, Rounds, middle, range};

/// One line of the table.
struct Promise {
    measure: String,
    /// After the numbers.
    unit: &'static str,
    must: f64,
    aim: f64,
    rounds: Rounds,
}

impl Promise {
    fn verdict(&self) -> &'static str {
        match middle(&self.rounds) {
            None => "not measured",
            Some(v) if v <= self.aim => "aim reached",
            Some(v) if v <= self.must => "reached",
            Some(_) => "LOST",
        }
    }

    fn measured(&self) -> String {
        match (middle(&self.rounds), range(&self.rounds)) {
            (Some(mid), Some((low, high))) => {
                let [mid, low, high] = [mid, low, high].map(|v| number(Some(v)));
                format!("{mid}{} ({low}..{high})", self.unit)
            }
            _ => "-".to_owned(),
        }
    }
}

fn promises(results: &Results) -> Vec<Promise> {
    let mut list = Vec::new();
    let mut promise = |measure: &str, unit, must, aim, rounds| {
        list.push(Promise { measure: measure.to_owned(), unit, must, aim, rounds });
    };
    let (cpu, gb) = ("cpu_us_per_request", "cpu_s_per_gb");
    let vs = |scenario, base, measure| results.ratio(scenario, Uring, base, measure);
    let own = |scenario, measure, scale: f64| -> Rounds {
        results.rounds(scenario, Uring, measure).into_iter().map(|(r, v)| (r, v / scale)).collect()
    };
    let busy = "CPU per request, 64 connections keep-alive, stats and access log on, to";
    promise(&format!("{busy} Envoy"), "", 0.30, 0.25, vs("tiny64", Envoy, cpu));
    promise(&format!("{busy} HAProxy"), "", 1.0, 0.9, vs("tiny64", Haproxy, cpu));
    promise(&format!("{busy} nginx"), "", 1.0, 0.8, vs("tiny64", Nginx, cpu));
    promise("new connection and request, CPU, to Envoy", "", 0.45, 0.35, vs("newconn", Envoy, cpu));
    promise("64 KiB bodies down, CPU per GB, to Envoy", "", 0.50, 0.40, vs("down64k", Envoy, gb));
    promise("64 KiB bodies up, CPU per GB, to Envoy", "", 0.50, 0.40, vs("up64k", Envoy, gb));
    promise("1 MiB bodies down, CPU per GB, to Envoy", "", 0.85, 0.65, vs("down1m", Envoy, gb));
    promise("1 MiB bodies up, CPU per GB, to Envoy", "", 0.85, 0.65, vs("up1m", Envoy, gb));
    let unused = own("idle5000", "unused_bytes_per_connection", 1.0);
    promise("idle connection, never used, user memory", " B", 2048.0, 600.0, unused);
    let used = own("idle5000", "used_bytes_per_connection", 1.0);
    promise("idle connection, after a request, user memory", " B", 4096.0, 600.0, used);
    promise("RSS at start, example config, one shard", " MB", 20.0, 10.0, own("start", "rss_bytes", 1e6));
    let drivers = results.ratio("tiny64", Epoll, Uring, cpu);
    promise("CPU per request, 64 connections, epoll to io_uring", "", 1.12, 1.08, drivers);
    let routes = results.against("routes10k-last", "routes10k-first", Uring, cpu);
    promise("CPU per request, last of 10,000 routes to the first", "", 1.2, 1.05, routes);
    for (scenario, rate) in [("open5k", "5,000/s"), ("open-half", "half of Envoy's saturated rate")] {
        for (measure, name) in [("p50_us", "p50"), ("p99_us", "p99")] {
            let rounds = results.added_ratio(scenario, Uring, Envoy, measure);
            promise(&format!("added latency {name} at {rate}, to Envoy"), "", 0.7, 0.5, rounds);
        }
    }
    list
}

/// measure | must | aim | measured (range of the rounds) | verdict
pub fn table(results: &Results) -> String {
    let mut rows = vec![["measure", "must", "aim", "measured", "verdict"].map(str::to_owned).to_vec()];
    for p in promises(results) {
        let bound = |v: f64| format!("<= {v}{}", p.unit);
        let measured = p.measured();
        rows.push(vec![p.measure.clone(), bound(p.must), bound(p.aim), measured, p.verdict().to_owned()]);
    }
    aligned(&rows)
}

pub fn json(results: &Results) -> Vec<Value> {
    let one = |p: Promise| {
        json!({
            "measure": p.measure, "must": p.must, "aim": p.aim, "value": middle(&p.rounds),
            "range": range(&p.rounds), "verdict": p.verdict(),
        })
    };
    promises(results).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_from_the_numbers() {
        let cell = |scenario: &str, who: &str, us: f64| json!({"round": 1, "scenario": scenario, "contender": who, "cpu_us_per_request": us});
        let results = Results {
            cells: vec![
                cell("tiny64", "selvedge-uring", 9.0),
                cell("tiny64", "envoy", 31.0),
                cell("tiny64", "nginx", 8.0),
                cell("tiny64", "haproxy", 12.0),
            ],
        };
        let table = table(&results);
        let line = |part: &str| table.lines().find(|l| l.contains(part)).unwrap_or_default().to_owned();
        assert!(line("access log on, to Envoy").ends_with("| reached      |"), "{table}");
        assert!(
            line("to HAProxy").contains("0.750 (0.750..0.750)") && line("to HAProxy").contains("aim reached")
        );
        assert!(line("to nginx").contains("LOST"));
        assert!(line("epoll to io_uring").contains("not measured"));
    }
}
