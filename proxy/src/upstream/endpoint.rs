//! One endpoint as every thread knows it, and its numbers.
//!
//! Invariant: a shard's block is written by that shard alone, with a relaxed load and store; `/clusters` sums.
#![allow(clippy::disallowed_types, reason = "a shard locks once, when it first counts something here")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::config::core::v3::Metadata;
use selvedge_runtime::SocketAddress;

use crate::config::endpoint::{ConfiguredHealth, Endpoint, LocalityEndpoints};

/// What is counted of an endpoint, for `/clusters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStat {
    CxActive,
    CxConnectFail,
    CxTotal,
    RqActive,
    RqError,
    RqSuccess,
    RqTimeout,
    RqTotal,
}

/// One shard's numbers of one endpoint: a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointBlock([AtomicU64; 8]);

impl EndpointBlock {
    pub fn add(&self, stat: EndpointStat, n: u64) {
        let slot = &self.0[stat as usize];
        slot.store(slot.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

/// One resolved endpoint.
#[derive(Debug)]
pub struct EndpointShared {
    pub address: SocketAddress,
    pub hostname: Arc<str>,
    pub weight: u32,
    pub health: ConfiguredHealth,
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
    pub priority: u32,
    /// Of the locality; 0: not set.
    pub locality_weight: u32,
    pub canary: bool,
    pub metadata: Option<Arc<Metadata>>,
    blocks: Mutex<Vec<Arc<EndpointBlock>>>,
}

impl EndpointShared {
    /// A configured endpoint with an address of its own.
    pub fn new(endpoint: &Endpoint, address: SocketAddress, locality: &LocalityEndpoints) -> EndpointShared {
        EndpointShared {
            address,
            hostname: Arc::clone(&endpoint.hostname),
            weight: endpoint.weight,
            health: endpoint.health,
            region: Arc::clone(&locality.region),
            zone: Arc::clone(&locality.zone),
            sub_zone: Arc::clone(&locality.sub_zone),
            priority: locality.priority,
            locality_weight: locality.weight.unwrap_or(0),
            canary: endpoint.is_canary(),
            metadata: endpoint.metadata.clone(),
            blocks: Mutex::default(),
        }
    }

    /// A block for one more shard.
    pub fn block(&self) -> Arc<EndpointBlock> {
        let block = Arc::<EndpointBlock>::default();
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&block));
        block
    }

    /// Shards that have counted something here: each has a pool of connections.
    pub fn shards(&self) -> usize {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The sum over all shards.
    pub fn get(&self, stat: EndpointStat) -> u64 {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.iter().map(|b| b.0[stat as usize].load(Relaxed)).fold(0, u64::wrapping_add)
    }
}
