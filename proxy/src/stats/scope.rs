//! Scopes, their blocks, and the registry that a scrape walks. Control and admin side; shards hold blocks only.
#![allow(clippy::disallowed_types, reason = "control and admin threads; a shard takes its block once")]

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::{BINS, Block};
use super::names::{Kind, Table};
use super::used;

/// Where a scope's numbers appear: its prefix, and how Prometheus names it.
#[derive(Debug, Clone, Default)]
pub struct ScopeName {
    /// `cluster.a.`
    pub prefix: String,
    /// `cluster`, which becomes `envoy_cluster_…`; parts of it are parted by dots, which say the order.
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
    codes_baseline: Option<Sides>,
}

/// Responses by status from 100 on: external, internal.
type Sides = [Vec<u64>; 2];

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
    /// Prometheus: the metric's name without `envoy_` and with dots, and labels before those of the scope.
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
    fn rows(&self, used_only: bool, out: &mut Vec<Row>);
    fn histograms(&self, out: &mut Vec<HistogramRow>);
    fn reset(&self);
}

impl<T: Table> Scope<T> {
    fn sums(state: &ScopeState<T>) -> Vec<u64> {
        (0..T::SLOTS.len())
            .map(|at| state.blocks.iter().flatten().map(|b| b.slot(at)).fold(0, u64::wrapping_add))
            .collect()
    }

    fn codes(state: &ScopeState<T>) -> Option<Sides> {
        let mut sides: Option<Sides> = None;
        for codes in state.blocks.iter().flatten().filter_map(|b| b.codes()) {
            let sides = sides.get_or_insert_with(|| [vec![0; 500], vec![0; 500]]);
            for (side, slots) in sides.iter_mut().zip([&codes.external, &codes.internal]) {
                for (sum, slot) in side.iter_mut().zip(slots) {
                    *sum += slot.load(Relaxed);
                }
            }
        }
        sides
    }

    /// Each code as it was counted, and as it is shown.
    fn code_rows(&self, state: &ScopeState<T>, out: &mut Vec<Row>) {
        let Some(sides) = Self::codes(state) else { return };
        let side = |n: usize| -> Vec<(u64, u64)> {
            let base = |at: usize| state.codes_baseline.as_ref().map_or(0, |b| b[n][at]);
            sides[n].iter().enumerate().map(|(at, &all)| (all, all - base(at))).collect()
        };
        let (external, internal) = (side(0), side(1));
        let both = external.iter().zip(&internal).map(|(a, b)| (a.0 + b.0, a.1 + b.1)).collect();
        for (part, codes) in [("external.", external), ("internal.", internal), ("", both)] {
            if codes.iter().any(|(all, _)| *all > 0) {
                self.side_rows(part, &codes, out);
            }
        }
    }

    fn side_rows(&self, part: &str, codes: &[(u64, u64)], out: &mut Vec<Row>) {
        let mut push = |suffix: String, metric: &str, label: Option<(&'static str, String)>, value| {
            out.push(Row {
                name: format!("{}{part}{suffix}", self.name.prefix),
                metric: format!("{}.{part}{metric}", self.name.family),
                labels: label.into_iter().chain(self.name.labels.iter().cloned()).collect(),
                kind: Kind::Counter,
                value,
            });
        };
        let sum = |codes: &[(u64, u64)]| codes.iter().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        for (class, codes) in codes.chunks(100).enumerate() {
            let (all, shown) = sum(codes);
            if all > 0 {
                let label = ("envoy_response_code_class", (class + 1).to_string());
                push(format!("upstream_rq_{}xx", class + 1), "upstream_rq_xx", Some(label), shown);
            }
        }
        for (at, &(_, shown)) in codes.iter().enumerate().filter(|(_, n)| n.0 > 0) {
            let label = ("envoy_response_code", (at + 100).to_string());
            push(format!("upstream_rq_{}", at + 100), "upstream_rq", Some(label), shown);
        }
        push("upstream_rq_completed".to_owned(), "upstream_rq_completed", None, sum(codes).1);
    }
}

/// `downstream_rq_2xx` is one metric with a class label, `worker_0.x` one with the number of its thread.
fn metric_of(family: &str, stat: &str) -> (String, Option<(&'static str, String)>) {
    if let Some(front) = stat.strip_suffix("xx")
        && let Some(class) = front.chars().last().filter(char::is_ascii_digit)
    {
        let base = &front[..front.len() - 1];
        return (format!("{family}.{base}xx"), Some(("envoy_response_code_class", class.to_string())));
    }
    if let Some(rest) = stat.strip_prefix("worker_0.") {
        return (format!("{family}.worker_{rest}"), Some(("envoy_worker_id", "0".to_owned())));
    }
    (format!("{family}.{stat}"), None)
}

impl<T: Table> AnyScope for Scope<T> {
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn rows(&self, used_only: bool, out: &mut Vec<Row>) {
        let state = locked(&self.state);
        if state.blocks.is_empty() {
            return;
        }
        let sums = Self::sums(&state);
        let counted = |name: &str| T::SLOTS.iter().zip(&sums).any(|((n, _), sum)| *n == name && *sum != 0);
        for (at, (&(stat, kind), &sum)) in T::SLOTS.iter().zip(&sums).enumerate() {
            let hidden = self.name.sparse || (used_only && !used::although_zero(stat, counted));
            if sum == 0 && hidden {
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
        state.codes_baseline = Self::codes(&state);
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
        let state = Mutex::new(ScopeState { blocks: Vec::new(), baseline: Vec::new(), codes_baseline: None });
        let scope = Arc::new(Scope { name, state });
        scopes.list.push(Arc::clone(&scope) as Arc<dyn AnyScope>);
        scope
    }

    /// `used_only`: without what was never written.
    pub fn rows(&self, used_only: bool) -> Vec<Row> {
        let mut out = Vec::new();
        locked(&self.scopes).list.iter().for_each(|s| s.rows(used_only, &mut out));
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
