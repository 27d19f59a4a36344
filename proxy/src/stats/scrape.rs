//! Stats as text, JSON and Prometheus.

use std::fmt::Write;

use super::block::edges;
use super::names::Kind;
use super::scope::{HistogramRow, Registry, Row};

/// Which kind of stats is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shown {
    #[default]
    All,
    Counters,
    Gauges,
    Histograms,
    /// There are none.
    TextReadouts,
}

impl Shown {
    fn takes(self, kind: Kind) -> bool {
        match self {
            Shown::All => true,
            Shown::Counters => kind == Kind::Counter,
            Shown::Gauges => kind == Kind::Gauge,
            Shown::Histograms | Shown::TextReadouts => false,
        }
    }
}

/// How histograms are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buckets {
    /// Quantiles; buckets for Prometheus.
    #[default]
    Unset,
    Summary,
    Cumulative,
    Disjoint,
    Detailed,
}

/// Which stats are shown, and how.
#[derive(Debug, Default)]
pub struct Selection {
    pub filter: Option<regex::Regex>,
    /// Those that the filter does not match.
    pub invert: bool,
    /// Only those that were ever written.
    pub used_only: bool,
    pub shown: Shown,
    pub buckets: Buckets,
    /// Labels on every stat for Prometheus: `--stats-tag`.
    pub tags: Vec<(String, String)>,
}

impl Selection {
    fn takes(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|f| f.is_match(name) != self.invert)
    }
}

fn select(registry: &Registry, selection: &Selection) -> (Vec<Row>, Vec<HistogramRow>) {
    let mut rows = registry.rows(selection.used_only);
    rows.retain(|r| selection.shown.takes(r.kind) && selection.takes(&r.name));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let mut histograms = Vec::new();
    if matches!(selection.shown, Shown::All | Shown::Histograms) {
        histograms = registry.histograms();
        histograms.retain(|h| (h.count() != 0 || !selection.used_only) && selection.takes(&h.name));
        histograms.sort_by(|a, b| a.name.cmp(&b.name));
    }
    (rows, histograms)
}

/// The quantiles that Envoy shows.
const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// The value at a quantile: of n samples in a bin the k-th stands at k parts of n + 1 of its width.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn quantile(h: &HistogramRow, q: f64) -> f64 {
    let wanted = (q * h.count() as f64).ceil().max(1.0);
    let mut below = 0.0;
    for (bin, &n) in h.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (lower, width) = edges(bin);
        let n = n as f64;
        if wanted <= below + n {
            return lower + width * (wanted - below) / (n + 1.0);
        }
        below += n;
    }
    0.0
}

/// Samples up to an edge. //= envoy: a bin that begins at the edge counts whole
fn below(h: &HistogramRow, edge: f64) -> u64 {
    let begins = |bin: usize| edges(bin).0 <= edge + 1e-9;
    h.counts.iter().enumerate().filter(|(bin, n)| **n > 0 && begins(*bin)).map(|(_, n)| n).sum()
}

/// Each bucket's edge and its samples: all up to the edge, or those since the edge before.
fn bucket_counts(h: &HistogramRow, disjoint: bool) -> Vec<(f64, u64)> {
    let mut before = 0;
    BUCKETS
        .iter()
        .map(|&edge| {
            let all = below(h, edge);
            let own = if disjoint { all - before } else { all };
            before = all;
            (edge, own)
        })
        .collect()
}

/// The bins that hold samples: lower edge, width, count.
fn filled(h: &HistogramRow) -> impl Iterator<Item = (f64, f64, u64)> {
    let filled = h.counts.iter().enumerate().filter(|(_, n)| **n > 0);
    filled.map(|(bin, &n)| (edges(bin).0, edges(bin).1, n))
}

/// Six significant digits, as `%g` of C writes them: `1.8e+06`.
fn general(value: f64) -> String {
    let exponent = value.abs().log10().floor();
    if !(1e6..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let mantissa = value / 10f64.powf(exponent);
    format!("{}e+{exponent:02}", (mantissa * 1e5).round() / 1e5)
}

/// The shorter of a plain number and one with an exponent.
fn shortest(value: f64) -> String {
    let plain = value.to_string();
    let exponent = plain.len() - 1;
    let digits = plain.trim_end_matches('0');
    if plain.contains('.') || digits.is_empty() {
        return plain;
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let scientific = format!("{first}{point}{rest}e+{exponent:02}");
    if scientific.len() < plain.len() { scientific } else { plain }
}

pub fn text(registry: &Registry, selection: &Selection) -> String {
    let (rows, histograms) = select(registry, selection);
    let mut out = String::new();
    for row in rows {
        let _infallible = writeln!(out, "{}: {}", row.name, row.value);
    }
    histograms.iter().for_each(|h| text_histogram(&mut out, h, selection.buckets));
    out
}

/// Envoy writes two values: of the last interval, which we do not keep, and of all time.
fn text_histogram(out: &mut String, h: &HistogramRow, buckets: Buckets) {
    if h.count() == 0 {
        let _infallible = writeln!(out, "{}: No recorded values", h.name);
        return;
    }
    let quantiles: Vec<String> =
        QUANTILES.iter().map(|&q| format!("P{}(nan,{})", percent(q), quantile(h, q))).collect();
    let quantiles = quantiles.join(" ");
    let _infallible = match buckets {
        Buckets::Unset | Buckets::Summary => writeln!(out, "{}: {quantiles}", h.name),
        Buckets::Cumulative | Buckets::Disjoint => {
            let counts = bucket_counts(h, buckets == Buckets::Disjoint);
            let all: Vec<String> = counts.iter().map(|(e, n)| format!("B{}(0,{n})", general(*e))).collect();
            writeln!(out, "{}: {}", h.name, all.join(" "))
        }
        Buckets::Detailed => {
            let totals: Vec<String> =
                filled(h).map(|(lower, width, n)| format!(" {lower},{width}:{n}")).collect();
            let totals = totals.join(",");
            let totals = totals.trim_start();
            writeln!(out, "{}:\n  totals={totals}\n  intervals=\n  summary={quantiles}", h.name)
        }
    };
}

/// A quantile as percent, free of the dust of binary fractions.
fn percent(q: f64) -> f64 {
    (q * 1000.0).round() / 10.0
}

pub fn json(registry: &Registry, selection: &Selection) -> String {
    let (rows, histograms) = select(registry, selection);
    let mut parts: Vec<String> =
        rows.iter().map(|r| format!("{{\"name\":{},\"value\":{}}}", quoted(&r.name), r.value)).collect();
    if !histograms.is_empty() {
        parts.push(format!("{{\"histograms\":{}}}", json_histograms(&histograms, selection.buckets)));
    }
    format!("{{\"stats\":[{}]}}", parts.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn json_histograms(histograms: &[HistogramRow], buckets: Buckets) -> String {
    let supported: Vec<String> = QUANTILES.iter().map(|&q| percent(q).to_string()).collect();
    let supported = supported.join(",");
    let each = |form: &dyn Fn(&HistogramRow) -> String| {
        let all: Vec<String> =
            histograms.iter().map(|h| format!("{{\"name\":{},{}}}", quoted(&h.name), form(h))).collect();
        all.join(",")
    };
    match buckets {
        Buckets::Unset | Buckets::Summary => {
            let all = each(&|h| format!("\"values\":[{}]", json_quantiles(h)));
            format!("{{\"supported_quantiles\":[{supported}],\"computed_quantiles\":[{all}]}}")
        }
        Buckets::Cumulative | Buckets::Disjoint => {
            let one = |(edge, n): &(f64, u64)| {
                format!("{{\"upper_bound\":{},\"interval\":0,\"cumulative\":{n}}}", shortest(*edge))
            };
            let all = each(&|h| {
                let counts = bucket_counts(h, buckets == Buckets::Disjoint);
                let counts: Vec<String> = counts.iter().map(one).collect();
                format!("\"buckets\":[{}]", counts.join(","))
            });
            format!("[{all}]")
        }
        Buckets::Detailed => {
            let all = each(&|h| {
                let totals: Vec<String> = filled(h)
                    .map(|(l, w, n)| format!("{{\"lower_bound\":{l},\"width\":{w},\"count\":{n}}}"))
                    .collect();
                let percentiles = json_quantiles(h);
                let totals = totals.join(",");
                format!("\"totals\":[{totals}],\"intervals\":[],\"percentiles\":[{percentiles}]")
            });
            format!("{{\"supported_percentiles\":[{supported}],\"details\":[{all}]}}")
        }
    }
}

fn json_quantiles(h: &HistogramRow) -> String {
    let empty = h.count() == 0;
    let one = |q: &f64| {
        let value = if empty { "null".to_owned() } else { quantile(h, *q).to_string() };
        format!("{{\"cumulative\":{value},\"interval\":null}}")
    };
    QUANTILES.iter().map(one).collect::<Vec<_>>().join(",")
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

fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, last: Option<(&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (key, value) in pairs.chain(last) {
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
    // envoy: tags of the command line come before those of a stat
    let pairs = |own: &[(&'static str, String)], last: Option<(&str, &str)>| {
        let tags = selection.tags.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        labels(tags.chain(own.iter().map(|(k, v)| (*k, v.as_str()))), last)
    };
    let mut out = String::new();
    let mut last = None;
    for row in &rows {
        let metric = exported(&row.metric);
        if last != Some(&row.metric) {
            let kind = if row.kind == Kind::Counter { "counter" } else { "gauge" };
            let _infallible = writeln!(out, "# TYPE {metric} {kind}");
            last = Some(&row.metric);
        }
        let _infallible = writeln!(out, "{metric}{} {}", pairs(&row.labels, None), row.value);
    }
    let summary = selection.buckets == Buckets::Summary;
    let mut last = None;
    for h in &histograms {
        let metric = exported(&h.metric);
        if last != Some(&h.metric) {
            let kind = if summary { "summary" } else { "histogram" };
            let _infallible = writeln!(out, "# TYPE {metric} {kind}");
            last = Some(&h.metric);
        }
        let count = h.count();
        if summary {
            for q in QUANTILES {
                let le = pairs(&h.labels, Some(("quantile", &q.to_string())));
                let value = if count == 0 { "nan".to_owned() } else { quantile(h, q).to_string() };
                let _infallible = writeln!(out, "{metric}{le} {value}");
            }
        } else {
            for edge in BUCKETS {
                let le = pairs(&h.labels, Some(("le", &edge.to_string())));
                let _infallible = writeln!(out, "{metric}_bucket{le} {}", below(h, edge));
            }
            let all = pairs(&h.labels, Some(("le", "+Inf")));
            let _infallible = writeln!(out, "{metric}_bucket{all} {count}");
        }
        let plain = pairs(&h.labels, None);
        let _infallible = writeln!(out, "{metric}_sum{plain} {}\n{metric}_count{plain} {count}", h.sum);
    }
    out
}

/// The name of a metric as Prometheus has it. //= envoy: PrometheusStats::sanitizeName
fn exported(metric: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let name = metric.chars().map(|c| if fits(c) { c } else { '_' });
    "envoy_".chars().chain(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    use crate::stats::names::{Cluster, Http, HttpHist, Server};
    use crate::stats::scope::ScopeName;

    /// Of 1, 10, 27 and 105, as Envoy counts them.
    #[test]
    fn values_at_an_edge_belong_below_it() {
        let registry = Registry::default();
        let http = registry.scope::<Http>(ScopeName::new("x.", "x", &[]));
        for value in [1, 10, 27, 105] {
            http.block(0).record(HttpHist::DownstreamRqTime, value);
        }
        let filter = Some(regex::Regex::new("rq_time$").expect("a pattern"));
        let selection = Selection { filter, buckets: Buckets::Cumulative, ..Selection::default() };
        let expected =
            "x.downstream_rq_time: B0.5(0,0) B1(0,1) B5(0,1) B10(0,2) B25(0,2) B50(0,3) B100(0,4) ";
        assert!(text(&registry, &selection).starts_with(expected));
    }

    /// As Envoy sorts: by the name with its dots, which come before underscores.
    #[test]
    fn metrics_stand_in_envoys_order() {
        let registry = Registry::default();
        for (prefix, family) in [("cluster_manager.", "cluster_manager"), ("cluster.a.", "cluster")] {
            registry.scope::<Cluster>(ScopeName::new(prefix, family, &[])).block(0);
        }
        registry.scope::<Server>(ScopeName::new("server.", "server", &[])).block(0);
        let shown = prometheus(&registry, &Selection::default());
        let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text}"));
        assert!(
            at("envoy_cluster_upstream_rq_total{} 0") < at("envoy_cluster_manager_upstream_rq_total{} 0")
        );
        at("envoy_server_worker_watchdog_miss{envoy_worker_id=\"0\"} 0\n");
    }

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
        let used = Selection { used_only: true, ..Selection::default() };
        let expected = "cluster.a.external.upstream_rq_503: 1\ncluster.a.external.upstream_rq_5xx: 1\n\
            cluster.a.external.upstream_rq_completed: 1\ncluster.a.upstream_rq_503: 1\ncluster.a.upstream_rq_5xx: 1\n\
            cluster.a.upstream_rq_completed: 1\ncluster.a.warming_state: 0\nhttp.x.downstream_rq_2xx: 4\n\
            http.x.downstream_rq_time: P0(nan,405) P25(nan,405) P50(nan,405) P75(nan,405) P90(nan,405) P95(nan,405) \
            P99(nan,405) P99.5(nan,405) P99.9(nan,405) P100(nan,405)\n";
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
        assert_eq!(cluster.block(0).codes().map(|c| c.external[403].load(Relaxed)), Some(1));
        let reset = text(&registry, &used);
        for name in [
            "http.x.downstream_rq_2xx",
            "cluster.a.external.upstream_rq_503",
            "cluster.a.upstream_rq_completed",
        ] {
            assert!(reset.contains(&format!("{name}: 0\n")), "{reset}");
        }
    }

    /// 13 samples of 0, 11 of 2 and one of 3; the expectations are Envoy's for the same.
    #[test]
    fn histograms_in_every_form() {
        let registry = Registry::default();
        let http = registry.scope::<Http>(ScopeName::new("x.", "x", &[]));
        let block = http.block(0);
        for value in [0; 13].into_iter().chain([2; 11]).chain([3]) {
            block.record(HttpHist::DownstreamRqTime, value);
        }
        let filter = Some(regex::Regex::new("rq_time$").expect("a pattern"));
        let mut selection = Selection { filter, shown: Shown::Histograms, ..Selection::default() };
        assert_eq!(
            text(&registry, &selection),
            "x.downstream_rq_time: P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,2.05) P90(nan,2.0833333333333335) \
             P95(nan,2.091666666666667) P99(nan,3.05) P99.5(nan,3.05) P99.9(nan,3.05) P100(nan,3.05)\n"
        );
        selection.buckets = Buckets::Disjoint;
        let disjoint = text(&registry, &selection);
        assert!(
            disjoint.starts_with("x.downstream_rq_time: B0.5(0,13) B1(0,0) B5(0,12) B10(0,0)"),
            "{disjoint}"
        );
        assert!(disjoint.ends_with("B300000(0,0) B600000(0,0) B1.8e+06(0,0) B3.6e+06(0,0)\n"), "{disjoint}");
        selection.buckets = Buckets::Detailed;
        assert!(text(&registry, &selection).starts_with(
            "x.downstream_rq_time:\n  totals=0,0:13, 2,0.1:11, 3,0.1:1\n  intervals=\n  summary=P0("
        ));
        selection.buckets = Buckets::Cumulative;
        let buckets = json(&registry, &selection);
        assert!(
            buckets
                .contains("{\"upper_bound\":60000,\"interval\":0,\"cumulative\":25},{\"upper_bound\":3e+05")
        );
        assert!(
            buckets.ends_with("{\"upper_bound\":3600000,\"interval\":0,\"cumulative\":25}]}]}]}"),
            "{buckets}"
        );
        selection.buckets = Buckets::Summary;
        selection.tags = vec![("a".to_owned(), "b".to_owned())];
        let summary = prometheus(&registry, &selection);
        assert!(
            summary.contains("envoy_x_downstream_rq_time{a=\"b\",quantile=\"0.75\"} 2.05\n"),
            "{summary}"
        );
    }
}
