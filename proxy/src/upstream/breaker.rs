//! Circuit breakers: what one cluster may have in flight, over all shards.
//!
//! The one exception to sharing nothing: Envoy enforces these limits over all workers. Each shard writes its own
//! counts and may use its share of a limit without a look at the others; only while some shard is above its share
//! do all of them sum up. So a request far from the limit touches no line that another shard writes.
//! Invariant: the sum exceeds a limit by at most the number of shards, as in Envoy, where check and count are two
//! steps too.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::config::cluster::Breakers as Bounds;

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Connections,
    Pending,
    Requests,
}

impl Limit {
    pub const ALL: [Limit; 3] = [Limit::Connections, Limit::Pending, Limit::Requests];

    pub fn of(self, bounds: &Bounds) -> u32 {
        match self {
            Limit::Connections => bounds.max_connections,
            Limit::Pending => bounds.max_pending_requests,
            Limit::Requests => bounds.max_requests,
        }
    }
}

/// One shard's counts, by priority and limit.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts([[AtomicU32; 3]; 2]);

/// The breakers of one cluster.
#[derive(Debug)]
pub struct Breakers {
    shards: u32,
    /// Made with the cluster's first request.
    counts: OnceLock<Box<[Counts]>>,
    /// Shards that are above their share.
    above: Counts,
}

/// A limit of one priority, as one shard sees it.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    pub shard: usize,
    pub priority: usize,
    pub limit: Limit,
    pub bound: u32,
}

impl Breakers {
    pub fn new(shards: usize) -> Breakers {
        let shards = u32::try_from(shards.max(1)).unwrap_or(u32::MAX);
        Breakers { shards, counts: OnceLock::new(), above: Counts::default() }
    }

    fn own(&self, gate: Gate) -> &AtomicU32 {
        let counts = self.counts.get_or_init(|| (0..self.shards).map(|_| Counts::default()).collect());
        &counts[gate.shard].0[gate.priority][gate.limit as usize]
    }

    /// What all shards use.
    pub fn get(&self, priority: usize, limit: Limit) -> u32 {
        let counts = self.counts.get().into_iter().flatten();
        counts.map(|c| c.0[priority][limit as usize].load(Relaxed)).fold(0, u32::saturating_add)
    }

    /// Whether one more fits now.
    pub fn allows(&self, gate: Gate) -> bool {
        let own = self.own(gate).load(Relaxed);
        let above = self.above.0[gate.priority][gate.limit as usize].load(Relaxed);
        if own < gate.bound / self.shards && above == 0 {
            return true;
        }
        self.get(gate.priority, gate.limit) < gate.bound
    }

    pub fn inc(&self, gate: Gate) {
        let own = self.own(gate);
        let used = own.load(Relaxed) + 1;
        own.store(used, Relaxed);
        if used == gate.bound / self.shards + 1 {
            self.above.0[gate.priority][gate.limit as usize].fetch_add(1, Relaxed);
        }
    }

    pub fn dec(&self, gate: Gate) {
        let own = self.own(gate);
        let used = own.load(Relaxed);
        own.store(used - 1, Relaxed);
        if used == gate.bound / self.shards + 1 {
            self.above.0[gate.priority][gate.limit as usize].fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_over_all_shards() {
        for (shards, bound) in [(1, 0), (1, 3), (2, 1), (2, 3), (3, 10), (4, 2), (4, 1024)] {
            let breakers = Breakers::new(shards);
            let gate = |shard| Gate { shard, priority: 0, limit: Limit::Requests, bound };
            let rng = selvedge_runtime::rng::Rng::new(u64::from(bound) + shards as u64);
            let mut used = vec![0_u32; shards];
            for step in 0..20_000 {
                let shard = usize::try_from(rng.next() % shards as u64).expect("a shard");
                // Fills up, then empties, and again.
                let rises = rng.next() % 8 < if step / 2500 % 2 == 0 { 6 } else { 2 };
                let sum: u32 = used.iter().sum();
                if rises {
                    assert_eq!(breakers.allows(gate(shard)), sum < bound, "{used:?} of {bound}");
                    if sum < bound {
                        breakers.inc(gate(shard));
                        used[shard] += 1;
                    }
                } else if used[shard] > 0 {
                    breakers.dec(gate(shard));
                    used[shard] -= 1;
                }
                assert_eq!(breakers.get(0, Limit::Requests), used.iter().sum::<u32>());
            }
            assert_eq!(breakers.get(1, Limit::Requests), 0);
        }
    }
}
