//! Earliest deadline first: each entry comes as often as its weight says, spread out evenly.
//!
//! Invariant: every entry stands in the heap once.
//= envoy: EdfScheduler

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

#[derive(Debug)]
pub(super) struct Edf {
    now: f64,
    heap: BinaryHeap<Reverse<Entry>>,
    /// Of entries that are due at once, the one that waits longest comes first.
    order: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: f64,
    order: u64,
    place: usize,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.due.total_cmp(&other.due).then(self.order.cmp(&other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Picks that a new round is put forward by at most: enough that shards do not all begin with the same endpoint.
const OFFSET_MAX: usize = 1024;

impl Edf {
    /// `offset`: so many picks have been made already.
    pub(super) fn new(weights: &[u32], offset: usize) -> Edf {
        let mut edf = Edf { now: 0.0, heap: BinaryHeap::with_capacity(weights.len()), order: 0 };
        for (place, weight) in weights.iter().enumerate() {
            edf.push(place, f64::from(*weight));
        }
        for _ in 0..offset.min(OFFSET_MAX) {
            edf.pick(|place| f64::from(weights[place]));
        }
        edf
    }

    fn push(&mut self, place: usize, weight: f64) {
        // A weight of (nearly) nothing comes late, but comes.
        let due = self.now + 1.0 / weight.max(f64::MIN_POSITIVE);
        self.order += 1;
        self.heap.push(Reverse(Entry { due, order: self.order, place }));
    }

    /// The next one; `weight` tells how soon it comes again.
    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let Reverse(first) = self.heap.pop()?;
        self.now = first.due;
        self.push(first.place, weight(first.place));
        Some(first.place)
    }
}
