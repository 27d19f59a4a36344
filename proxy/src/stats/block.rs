//! One shard's numbers of one scope.
//!
//! A slot is written by its shard alone, with a relaxed load and store: a plain add in machine code. Whoever
//! scrapes reads relaxed and sums the shards. Histograms and status codes take memory on first touch.

use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::names::Table;

fn bump(slot: &AtomicU64, n: u64) {
    slot.store(slot.load(Relaxed).wrapping_add(n), Relaxed);
}

pub struct Block<T: Table> {
    slots: Box<[AtomicU64]>,
    histograms: Box<[OnceLock<Box<Bins>>]>,
    codes: OnceLock<Box<Codes>>,
    table: PhantomData<fn(T)>,
}

impl<T: Table> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} slots)", self.slots.len())
    }
}

impl<T: Table> Default for Block<T> {
    fn default() -> Self {
        Block {
            slots: T::SLOTS.iter().map(|_| AtomicU64::new(0)).collect(),
            histograms: T::HISTOGRAMS.iter().map(|_| OnceLock::new()).collect(),
            codes: OnceLock::new(),
            table: PhantomData,
        }
    }
}

impl<T: Table> Block<T> {
    pub fn inc(&self, stat: T) {
        self.add(stat, 1);
    }

    pub fn add(&self, stat: T, n: u64) {
        bump(&self.slots[stat.slot()], n);
    }

    /// Takes one off a gauge.
    pub fn dec(&self, stat: T) {
        self.sub(stat, 1);
    }

    pub fn sub(&self, stat: T, n: u64) {
        bump(&self.slots[stat.slot()], 0u64.wrapping_sub(n));
    }

    pub fn set(&self, stat: T, value: u64) {
        self.slots[stat.slot()].store(value, Relaxed);
    }

    pub fn get(&self, stat: T) -> u64 {
        self.slots[stat.slot()].load(Relaxed)
    }

    pub(super) fn slot(&self, at: usize) -> u64 {
        self.slots[at].load(Relaxed)
    }

    pub fn record(&self, histogram: T::Histogram, value: u64) {
        self.histograms[T::histogram(histogram)].get_or_init(Box::default).record(value);
    }

    pub(super) fn bins(&self, at: usize) -> Option<&Bins> {
        self.histograms[at].get().map(|b| &**b)
    }

    /// Counts a response by its status, as internal or external.
    pub fn code(&self, status: u16, internal: bool) {
        self.codes.get_or_init(Box::default).count(status, internal);
    }

    pub(super) fn codes(&self) -> Option<&Codes> {
        self.codes.get().map(|c| &**c)
    }
}

/// Responses by status, 100 to 599.
pub struct Codes {
    pub(super) external: [AtomicU64; 500],
    pub(super) internal: [AtomicU64; 500],
}

impl Default for Codes {
    fn default() -> Self {
        Codes { external: [const { AtomicU64::new(0) }; 500], internal: [const { AtomicU64::new(0) }; 500] }
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codes")
    }
}

impl Codes {
    fn count(&self, status: u16, internal: bool) {
        let side = if internal { &self.internal } else { &self.external };
        if let Some(slot) = side.get(usize::from(status).wrapping_sub(100)) {
            bump(slot, 1);
        }
    }
}

/// Decades that a histogram spans: values up to 10^11.
const DECADES: usize = 11;
pub(super) const BINS: usize = 1 + DECADES * 90;

/// Counts by value with two significant digits: a bin for zero, then 90 for each power of ten.
pub struct Bins {
    pub(super) counts: [AtomicU64; BINS],
    pub(super) sum: AtomicU64,
}

impl Default for Bins {
    fn default() -> Self {
        Bins { counts: [const { AtomicU64::new(0) }; BINS], sum: AtomicU64::new(0) }
    }
}

impl fmt::Debug for Bins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bins")
    }
}

impl Bins {
    fn record(&self, value: u64) {
        bump(&self.counts[bin_of(value)], 1);
        bump(&self.sum, value);
    }
}

pub(super) fn bin_of(value: u64) -> usize {
    if value == 0 {
        return 0;
    }
    let (mut mantissa, mut decade) = (value, 0);
    if value < 10 {
        mantissa *= 10;
    } else {
        while mantissa >= 100 {
            mantissa /= 10;
            decade += 1;
        }
        decade += 1;
    }
    let at = 1 + decade * 90 + usize::try_from(mantissa - 10).unwrap_or(0);
    at.min(BINS - 1)
}

/// The lower edge and the width of a bin.
pub(super) fn edges(bin: usize) -> (f64, f64) {
    if bin == 0 {
        return (0.0, 0.0);
    }
    let (decade, mantissa) = ((bin - 1) / 90, (bin - 1) % 90 + 10);
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most 11 decades")]
    let width = 10f64.powi(decade as i32 - 1);
    #[expect(clippy::cast_precision_loss, reason = "a mantissa below 100")]
    let lower = mantissa as f64 * width;
    (lower, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::names::{Http, HttpHist};

    #[test]
    fn bins_hold_their_values() {
        for value in [0, 1, 9, 10, 11, 99, 100, 101, 119, 405, 999, 1000, 123_456_789] {
            let (lower, width) = edges(bin_of(value));
            let v = value as f64;
            assert!(
                v >= lower - 1e-9 && (v < lower + width + 1e-9),
                "{value} in [{lower}, {})",
                lower + width
            );
        }
        assert_eq!(edges(bin_of(405)), (400.0, 10.0));
    }

    #[test]
    fn slots_add_and_gauges_fall() {
        let block = Block::<Http>::default();
        block.inc(Http::DownstreamCxActive);
        block.add(Http::DownstreamCxActive, 2);
        block.dec(Http::DownstreamCxActive);
        block.record(HttpHist::DownstreamRqTime, 3);
        assert_eq!(block.get(Http::DownstreamCxActive), 2);
    }
}
