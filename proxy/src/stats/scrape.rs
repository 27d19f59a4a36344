//! Stats as text, JSON and Prometheus.

use std::fmt::Write;

use super::block::edges;
use super::names::Kind;
use super::scope::{HistogramRow, Registry, Row};

/// Which stats are shown.
#[derive(Debug, Default)]
pub struct Selection {
    pub filter: Option<regex::Regex>,
    /// Only those that were ever written: taken as not zero.
    pub used_only: bool,
}

impl Selection {
    fn takes(&self, name: &str, used: bool) -> bool {
        (used || !self.used_only) && self.filter.as_ref().is_none_or(|f| f.is_match(name))
    }
}

fn select(registry: &Registry, selection: &Selection) -> (Vec<Row>, Vec<HistogramRow>) {
    let mut rows = registry.rows();
    rows.retain(|r| selection.takes(&r.name, r.value != 0));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let mut histograms = registry.histograms();
    histograms.retain(|h| selection.takes(&h.name, h.count() != 0));
    histograms.sort_by(|a, b| a.name.cmp(&b.name));
    (rows, histograms)
}

/// The quantiles that Envoy shows.
const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// The value at a quantile, interpolated within its bin.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn quantile(h: &HistogramRow, q: f64) -> f64 {
    let wanted = q * h.count() as f64;
    let mut below = 0.0;
    let mut last = 0.0;
    for (bin, &n) in h.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (lower, width) = edges(bin);
        let n = n as f64;
        last = lower + width;
        if wanted <= below + n {
            // envoy: a quantile of 0 is read off the first sample, not the bin's edge
            let into = if q == 0.0 { 1.0 / (n + 1.0) } else { (wanted - below) / n };
            return lower + width * into.min(1.0);
        }
        below += n;
    }
    last
}

pub fn text(registry: &Registry, selection: &Selection) -> String {
    let (rows, histograms) = select(registry, selection);
    let mut out = String::new();
    for row in rows {
        let _infallible = writeln!(out, "{}: {}", row.name, row.value);
    }
    for h in histograms {
        if h.count() == 0 {
            let _infallible = writeln!(out, "{}: No recorded values", h.name);
            continue;
        }
        let _infallible = write!(out, "{}:", h.name);
        for q in QUANTILES {
            let value = quantile(&h, q);
            let _infallible = write!(out, " P{}({value},{value})", q * 100.0);
        }
        out.push('\n');
    }
    out
}

pub fn json(registry: &Registry, selection: &Selection) -> String {
    let (rows, histograms) = select(registry, selection);
    let mut stats: Vec<serde_json::Value> =
        rows.iter().map(|r| serde_json::json!({"name": r.name, "value": r.value})).collect();
    if !histograms.is_empty() {
        let computed: Vec<_> = histograms
            .iter()
            .map(|h| {
                let empty = h.count() == 0;
                let values: Vec<_> = QUANTILES
                    .iter()
                    .map(|&q| {
                        let value = if empty { serde_json::Value::Null } else { quantile(h, q).into() };
                        serde_json::json!({"interval": value, "cumulative": value})
                    })
                    .collect();
                serde_json::json!({"name": h.name, "values": values})
            })
            .collect();
        let quantiles: Vec<f64> = QUANTILES.iter().map(|q| q * 100.0).collect();
        stats.push(serde_json::json!({
            "histograms": {"supported_quantiles": quantiles, "computed_quantiles": computed}
        }));
    }
    serde_json::json!({ "stats": stats }).to_string()
}

/// Upper edges of Prometheus buckets, in the histogram's unit. envoy: the defaults of histogram_bucket_settings
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

fn labels(pairs: &[(&'static str, String)], le: Option<&str>) -> String {
    let mut out = String::from("{");
    for (key, value) in pairs.iter().map(|(k, v)| (*k, v.as_str())).chain(le.map(|v| ("le", v))) {
        if out.len() > 1 {
            out.push(',');
        }
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _infallible = write!(out, "{key}=\"{value}\"");
    }
    out.push('}');
    out
}

pub fn prometheus(registry: &Registry, selection: &Selection) -> String {
    let (mut rows, mut histograms) = select(registry, selection);
    rows.sort_by(|a, b| {
        (a.kind == Kind::Gauge, &a.metric, &a.name).cmp(&(b.kind == Kind::Gauge, &b.metric, &b.name))
    });
    histograms.sort_by(|a, b| (&a.metric, &a.name).cmp(&(&b.metric, &b.name)));
    let mut out = String::new();
    let mut last = None;
    for row in &rows {
        if last != Some(&row.metric) {
            let kind = if row.kind == Kind::Counter { "counter" } else { "gauge" };
            let _infallible = writeln!(out, "# TYPE envoy_{} {kind}", row.metric);
            last = Some(&row.metric);
        }
        let _infallible = writeln!(out, "envoy_{}{} {}", row.metric, labels(&row.labels, None), row.value);
    }
    let mut last = None;
    for h in &histograms {
        let metric = &h.metric;
        if last != Some(metric) {
            let _infallible = writeln!(out, "# TYPE envoy_{metric} histogram");
            last = Some(metric);
        }
        for edge in BUCKETS {
            let below: u64 = h
                .counts
                .iter()
                .enumerate()
                .filter(|(bin, n)| **n > 0 && edges(*bin).0 + edges(*bin).1 <= edge + 1e-9 || *bin == 0)
                .map(|(_, n)| n)
                .sum();
            let le = labels(&h.labels, Some(&edge.to_string()));
            let _infallible = writeln!(out, "envoy_{metric}_bucket{le} {below}");
        }
        let (all, plain) = (labels(&h.labels, Some("+Inf")), labels(&h.labels, None));
        let count = h.count();
        let _infallible = writeln!(out, "envoy_{metric}_bucket{all} {count}");
        let _infallible =
            writeln!(out, "envoy_{metric}_sum{plain} {}\nenvoy_{metric}_count{plain} {count}", h.sum);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::names::{Cluster, Http, HttpHist};
    use crate::stats::scope::ScopeName;

    #[test]
    fn shards_are_summed_and_shown_in_three_forms() {
        let registry = Registry::default();
        let http = registry.scope::<Http>(ScopeName::new(
            "http.x.",
            "http",
            &[("envoy_http_conn_manager_prefix", "x")],
        ));
        for shard in 0..2 {
            http.block(shard).add(Http::DownstreamRq2xx, 2);
        }
        http.block(0).record(HttpHist::DownstreamRqTime, 405);
        let cluster = registry.scope::<Cluster>(ScopeName::new(
            "cluster.a.",
            "cluster",
            &[("envoy_cluster_name", "a")],
        ));
        cluster.block(0).code(503, false);
        let used = Selection { used_only: true, filter: None };
        let expected = "cluster.a.external.upstream_rq_503: 1\ncluster.a.external.upstream_rq_5xx: 1\n\
            cluster.a.external.upstream_rq_completed: 1\ncluster.a.upstream_rq_503: 1\ncluster.a.upstream_rq_5xx: 1\n\
            cluster.a.upstream_rq_completed: 1\nhttp.x.downstream_rq_2xx: 4\n\
            http.x.downstream_rq_time: P0(405,405) P25(402.5,402.5) P50(405,405) P75(407.5,407.5) P90(409,409) \
            P95(409.5,409.5) P99(409.9,409.9) P99.5(409.95,409.95) P99.9(409.99,409.99) P100(410,410)\n";
        assert_eq!(text(&registry, &used), expected);
        let prom = prometheus(&registry, &used);
        assert!(
            prom.contains(
                "envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"a\"} 1\n"
            )
        );
        assert!(prom.contains(
            "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"x\"} 4\n"
        ));
        assert!(prom.contains(
            "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"x\",le=\"500\"} 1"
        ));
        assert!(json(&registry, &used).contains(r#"{"name":"http.x.downstream_rq_2xx","value":4}"#));
        registry.reset_counters();
        assert_eq!(http.get(Http::DownstreamRq2xx), 4);
        assert!(!text(&registry, &used).contains("downstream_rq_2xx"));
    }
}
