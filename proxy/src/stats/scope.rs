//! Scopes, their blocks, and the registry that a scrape walks. Control and admin side; shards hold blocks only.
#![allow(clippy::disallowed_types, reason = "control and admin threads; a shard takes its block once")]

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::{BINS, Block};
use super::names::{Kind, Table};

/// Where a scope's numbers appear: its prefix, and how Prometheus names it.
#[derive(Debug, Clone, Default)]
pub struct ScopeName {
    /// `cluster.a.`
    pub prefix: String,
    /// `cluster`, which becomes `envoy_cluster_…`
    pub family: String,
    pub labels: Vec<(&'static str, String)>,
    /// Show only what has been counted, as Envoy does with what it names when it comes.
    pub sparse: bool,
}

impl ScopeName {
    pub fn new(prefix: &str, family: &str, labels: &[(&'static str, &str)]) -> ScopeName {
        ScopeName {
            prefix: prefix.to_owned(),
            family: family.to_owned(),
            labels: labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
            sparse: false,
        }
    }

    #[must_use]
    pub fn sparse(mut self) -> ScopeName {
        self.sparse = true;
        self
    }
}

pub struct Scope<T: Table> {
    name: ScopeName,
    state: Mutex<ScopeState<T>>,
}

struct ScopeState<T: Table> {
    blocks: Vec<Option<Arc<Block<T>>>>,
    /// What `/reset_counters` takes off.
    baseline: Vec<u64>,
}

impl<T: Table> fmt::Debug for Scope<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.name.prefix)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Table> Scope<T> {
    /// The numbers of one shard (or of the control side, as shard 0 of a scope of its own).
    pub fn block(&self, shard: usize) -> Arc<Block<T>> {
        let mut state = locked(&self.state);
        if state.blocks.len() <= shard {
            state.blocks.resize_with(shard + 1, || None);
        }
        Arc::clone(state.blocks[shard].get_or_insert_with(Arc::default))
    }

    /// The sum over all shards.
    pub fn get(&self, stat: T) -> u64 {
        let state = locked(&self.state);
        state.blocks.iter().flatten().map(|b| b.get(stat)).fold(0, u64::wrapping_add)
    }
}

/// One number as it is shown.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    /// Prometheus: the metric's name without `envoy_`, and labels before those of the scope.
    pub metric: String,
    pub labels: Vec<(&'static str, String)>,
    pub kind: Kind,
    pub value: u64,
}

/// One histogram as it is shown: all shards together.
#[derive(Debug, Clone)]
pub struct HistogramRow {
    pub name: String,
    pub metric: String,
    pub labels: Vec<(&'static str, String)>,
    pub counts: Vec<u64>,
    pub sum: u64,
}

impl HistogramRow {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

trait AnyScope: Send + Sync {
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
    fn rows(&self, out: &mut Vec<Row>);
    fn histograms(&self, out: &mut Vec<HistogramRow>);
    fn reset(&self);
}

impl<T: Table> Scope<T> {
    fn sums(state: &ScopeState<T>) -> Vec<u64> {
        (0..T::SLOTS.len())
            .map(|at| state.blocks.iter().flatten().map(|b| b.slot(at)).fold(0, u64::wrapping_add))
            .collect()
    }

    fn code_rows(&self, state: &ScopeState<T>, out: &mut Vec<Row>) {
        let mut sides = [vec![0u64; 500], vec![0u64; 500]];
        let mut any = false;
        for codes in state.blocks.iter().flatten().filter_map(|b| b.codes()) {
            any = true;
            for (side, slots) in sides.iter_mut().zip([&codes.external, &codes.internal]) {
                for (sum, slot) in side.iter_mut().zip(slots) {
                    *sum += slot.load(Relaxed);
                }
            }
        }
        if !any {
            return;
        }
        let both: Vec<u64> = sides[0].iter().zip(&sides[1]).map(|(a, b)| a + b).collect();
        for (part, codes) in [("external.", &sides[0]), ("internal.", &sides[1]), ("", &both)] {
            if codes.iter().any(|&n| n > 0) {
                self.side_rows(part, codes, out);
            }
        }
    }

    fn side_rows(&self, part: &str, codes: &[u64], out: &mut Vec<Row>) {
        let family = format!("{}_{}", self.name.family, part.replace('.', "_"));
        let mut push = |suffix: String, metric: &str, label: Option<(&'static str, String)>, value| {
            out.push(Row {
                name: format!("{}{part}{suffix}", self.name.prefix),
                metric: format!("{family}{metric}"),
                labels: label.into_iter().chain(self.name.labels.iter().cloned()).collect(),
                kind: Kind::Counter,
                value,
            });
        };
        for class in 0..5usize {
            let sum: u64 = codes[class * 100..class * 100 + 100].iter().sum();
            if sum > 0 {
                let label = ("envoy_response_code_class", (class + 1).to_string());
                push(format!("upstream_rq_{}xx", class + 1), "upstream_rq_xx", Some(label), sum);
            }
        }
        for (at, &n) in codes.iter().enumerate().filter(|(_, n)| **n > 0) {
            let label = ("envoy_response_code", (at + 100).to_string());
            push(format!("upstream_rq_{}", at + 100), "upstream_rq", Some(label), n);
        }
        push("upstream_rq_completed".to_owned(), "upstream_rq_completed", None, codes.iter().sum());
    }
}

/// `downstream_rq_2xx` is one metric with a class label.
fn metric_of(family: &str, stat: &str) -> (String, Option<(&'static str, String)>) {
    if let Some(front) = stat.strip_suffix("xx")
        && let Some(class) = front.chars().last().filter(char::is_ascii_digit)
    {
        let base = &front[..front.len() - 1];
        return (format!("{family}_{base}xx"), Some(("envoy_response_code_class", class.to_string())));
    }
    (format!("{family}_{stat}").replace(['.', '-'], "_"), None)
}

impl<T: Table> AnyScope for Scope<T> {
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn rows(&self, out: &mut Vec<Row>) {
        let state = locked(&self.state);
        if state.blocks.is_empty() {
            return;
        }
        for (at, (&(stat, kind), sum)) in T::SLOTS.iter().zip(Self::sums(&state)).enumerate() {
            if self.name.sparse && sum == 0 {
                continue;
            }
            let base = if kind == Kind::Counter { state.baseline.get(at).copied().unwrap_or(0) } else { 0 };
            let (metric, label) = metric_of(&self.name.family, stat);
            out.push(Row {
                name: format!("{}{stat}", self.name.prefix),
                metric,
                labels: label.into_iter().chain(self.name.labels.iter().cloned()).collect(),
                kind,
                value: sum.wrapping_sub(base),
            });
        }
        self.code_rows(&state, out);
    }

    fn histograms(&self, out: &mut Vec<HistogramRow>) {
        let state = locked(&self.state);
        if state.blocks.is_empty() {
            return;
        }
        for (at, &stat) in T::HISTOGRAMS.iter().enumerate() {
            let (mut counts, mut sum) = (vec![0u64; BINS], 0);
            for bins in state.blocks.iter().flatten().filter_map(|b| b.bins(at)) {
                sum += bins.sum.load(Relaxed);
                for (total, slot) in counts.iter_mut().zip(&bins.counts) {
                    *total += slot.load(Relaxed);
                }
            }
            //= envoy: by side they appear with the first value
            let by_side = stat.starts_with("external.") || stat.starts_with("internal.");
            if by_side && counts.iter().all(|n| *n == 0) {
                continue;
            }
            let (metric, _) = metric_of(&self.name.family, stat);
            let labels = self.name.labels.clone();
            out.push(HistogramRow {
                name: format!("{}{stat}", self.name.prefix),
                metric,
                labels,
                counts,
                sum,
            });
        }
    }

    fn reset(&self) {
        let mut state = locked(&self.state);
        state.baseline = Self::sums(&state);
    }
}

/// All scopes of the process.
#[derive(Default)]
pub struct Registry {
    scopes: Mutex<Scopes>,
}

#[derive(Default)]
struct Scopes {
    list: Vec<Arc<dyn AnyScope>>,
    by_prefix: HashMap<String, Vec<usize>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({} scopes)", locked(&self.scopes).list.len())
    }
}

impl Registry {
    /// The scope of that name; there is one for each prefix and table.
    pub fn scope<T: Table>(&self, name: ScopeName) -> Arc<Scope<T>> {
        let mut scopes = locked(&self.scopes);
        let same = scopes.by_prefix.get(&name.prefix).into_iter().flatten();
        let mut same = same.filter_map(|at| Arc::clone(&scopes.list[*at]).any().downcast::<Scope<T>>().ok());
        if let Some(scope) = same.next() {
            return scope;
        }
        drop(same);
        let at = scopes.list.len();
        scopes.by_prefix.entry(name.prefix.clone()).or_default().push(at);
        let state = Mutex::new(ScopeState { blocks: Vec::new(), baseline: Vec::new() });
        let scope = Arc::new(Scope { name, state });
        scopes.list.push(Arc::clone(&scope) as Arc<dyn AnyScope>);
        scope
    }

    pub fn rows(&self) -> Vec<Row> {
        let mut out = Vec::new();
        locked(&self.scopes).list.iter().for_each(|s| s.rows(&mut out));
        out
    }

    pub fn histograms(&self) -> Vec<HistogramRow> {
        let mut out = Vec::new();
        locked(&self.scopes).list.iter().for_each(|s| s.histograms(&mut out));
        out
    }

    pub fn reset_counters(&self) {
        locked(&self.scopes).list.iter().for_each(|s| s.reset());
    }
}
