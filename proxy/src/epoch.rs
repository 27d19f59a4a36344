//! One epoch as all threads know it: a snapshot, and what lives on beside it from one epoch to the next.
//!
//! The control thread makes it; shards make their twins of it. Nothing of it is changed afterwards but what its
//! parts count and hold themselves: endpoints, breakers, statistics.

use std::sync::Arc;

use crate::config::snapshot::Snapshot;
use crate::shard::ListenerScopes;
use crate::stats::scope::Registry;
use crate::upstream::cluster::ClusterShared;

#[derive(Debug)]
pub struct Epoch {
    pub snapshot: Arc<Snapshot>,
    /// In the order of the snapshot's ids.
    pub clusters: Vec<Arc<ClusterShared>>,
    /// In the order of the snapshot's listeners.
    pub scopes: Vec<Arc<ListenerScopes>>,
}

impl Epoch {
    /// That of the start.
    pub fn first(snapshot: Arc<Snapshot>, shards: usize, registry: &Registry) -> Epoch {
        let clusters = snapshot.clusters.iter().enumerate();
        Epoch {
            clusters: clusters.map(|(n, c)| Arc::new(ClusterShared::new(n, c, shards, registry))).collect(),
            scopes: snapshot.listeners.iter().map(|l| Arc::new(ListenerScopes::new(l, registry))).collect(),
            snapshot,
        }
    }
}
