//! Circuit breakers: what one cluster may have in flight, counted over all shards.
//!
//! The one exception to sharing nothing: Envoy enforces these limits over all workers. Each count is one padded
//! atomic; a request touches two.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::config::cluster::Breakers;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU32);

/// The live counts of one cluster at one priority.
#[derive(Debug, Default)]
pub struct Breaker {
    connections: Padded,
    pending: Padded,
    requests: Padded,
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Connections,
    Pending,
    Requests,
}

impl Breaker {
    fn count(&self, limit: Limit) -> &AtomicU32 {
        match limit {
            Limit::Connections => &self.connections.0,
            Limit::Pending => &self.pending.0,
            Limit::Requests => &self.requests.0,
        }
    }

    fn bound(bounds: &Breakers, limit: Limit) -> u32 {
        match limit {
            Limit::Connections => bounds.max_connections,
            Limit::Pending => bounds.max_pending_requests,
            Limit::Requests => bounds.max_requests,
        }
    }

    /// Whether one more fits now. As in Envoy the check and the count are two steps: a race may overshoot by the
    /// number of shards.
    pub fn allows(&self, bounds: &Breakers, limit: Limit) -> bool {
        self.count(limit).load(Relaxed) < Self::bound(bounds, limit)
    }

    pub fn inc(&self, limit: Limit) {
        self.count(limit).fetch_add(1, Relaxed);
    }

    pub fn dec(&self, limit: Limit) {
        self.count(limit).fetch_sub(1, Relaxed);
    }

    pub fn get(&self, limit: Limit) -> u32 {
        self.count(limit).load(Relaxed)
    }
}
