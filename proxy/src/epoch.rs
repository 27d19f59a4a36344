//! One epoch as all threads know it: a snapshot, and what lives on beside it from one epoch to the next.
//!
//! The control thread makes it and frees it; shards make their twins of it. Nothing of it is changed afterwards but
//! what its parts hold themselves: endpoints, breakers, statistics.

use std::any::Any;
use std::sync::Arc;

use crate::config::listener::Listener;
use crate::config::snapshot::Snapshot;
use crate::shard::ListenerScopes;
use crate::stats::scope::Registry;
use crate::upstream::cluster::ClusterShared;

#[derive(Debug)]
pub struct Epoch {
    /// 1 is that of the start.
    pub number: u64,
    pub snapshot: Arc<Snapshot>,
    /// In the order of the snapshot's ids.
    pub clusters: Vec<Arc<ClusterShared>>,
    /// In the order of the first epoch, whose sockets they keep.
    pub listeners: Vec<Arc<Listener>>,
    pub scopes: Vec<Arc<ListenerScopes>>,
}

impl Epoch {
    /// That of the start.
    pub fn first(snapshot: Arc<Snapshot>, shards: usize, registry: &Registry) -> Epoch {
        let clusters = snapshot.clusters.iter().enumerate();
        Epoch {
            number: 1,
            clusters: clusters.map(|(n, c)| Arc::new(ClusterShared::new(n, c, shards, registry))).collect(),
            scopes: snapshot
                .listeners
                .iter()
                .map(|l| Arc::new(ListenerScopes::new(l, registry, None)))
                .collect(),
            listeners: snapshot.listeners.clone(),
            snapshot,
        }
    }
}

/// What makes one epoch after the other.
#[derive(Debug)]
pub struct Epochs {
    shards: usize,
    registry: Arc<Registry>,
    /// The newest that serves.
    pub current: Arc<Epoch>,
    /// One that waits for the first endpoints of its clusters.
    pub warming: Option<Arc<Epoch>>,
    retired: Vec<Arc<Epoch>>,
    /// Parts of those before, which connections and requests of a shard may use still.
    parts: Vec<Arc<dyn Any + Send + Sync>>,
    number: u64,
    next_cluster: usize,
}

impl Epochs {
    pub fn new(current: Arc<Epoch>, shards: usize, registry: &Arc<Registry>) -> Epochs {
        Epochs {
            shards,
            registry: Arc::clone(registry),
            warming: None,
            retired: Vec::new(),
            parts: Vec::new(),
            number: current.number,
            next_cluster: current.clusters.len(),
            current,
        }
    }

    /// Makes the epoch of a snapshot, which now warms in place of any other. What it has in common with those before
    /// lives on: a cluster of the same name and configuration with its endpoints, connections and breakers.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) -> Result<(), String> {
        let listeners = same_listeners(&self.current.listeners, &snapshot.listeners)?;
        let known = |epoch: &Epoch, name: &[u8]| {
            epoch.snapshot.clusters.find(name).map(|id| Arc::clone(&epoch.clusters[id.index()]))
        };
        let mut clusters = Vec::with_capacity(snapshot.clusters.len());
        for config in snapshot.clusters.iter() {
            let mut before = [Some(&self.current), self.warming.as_ref()].into_iter().flatten();
            let kept = before.find_map(|e| known(e, config.name.as_bytes()).filter(|c| c.config == *config));
            clusters.push(kept.unwrap_or_else(|| {
                let number = self.next_cluster;
                self.next_cluster += 1;
                Arc::new(ClusterShared::new(number, config, self.shards, &self.registry))
            }));
        }
        let scopes = listeners.iter().zip(&self.current.scopes);
        let scopes = scopes.map(|(l, old)| Arc::new(ListenerScopes::new(l, &self.registry, Some(old))));
        let (number, scopes) = (self.number + 1, scopes.collect());
        self.number = number;
        let replaced =
            self.warming.replace(Arc::new(Epoch { number, snapshot, clusters, listeners, scopes }));
        self.retired.extend(replaced);
        Ok(())
    }

    /// The epoch that was warming serves from now on. The answer is the one before.
    pub fn publish(&mut self) -> Option<Arc<Epoch>> {
        let old = std::mem::replace(&mut self.current, self.warming.take()?);
        // A shard may hold these for longer than the whole.
        self.parts.extend(old.listeners.iter().map(|l| Arc::clone(&l.hcm) as _));
        let gone = old.clusters.iter().filter(|c| !self.uses(c));
        let gone: Vec<Arc<dyn Any + Send + Sync>> = gone.map(|c| Arc::clone(c) as _).collect();
        self.parts.extend(gone);
        self.retired.push(Arc::clone(&old));
        Some(old)
    }

    /// Whether the newest epoch, or the one that warms, has that very cluster.
    pub fn uses(&self, cluster: &ClusterShared) -> bool {
        let has = |epoch: &Arc<Epoch>| {
            let found = epoch.snapshot.clusters.find(cluster.config.name.as_bytes());
            found.is_some_and(|id| epoch.clusters[id.index()].number == cluster.number)
        };
        has(&self.current) || self.warming.as_ref().is_some_and(has)
    }

    /// Frees what nobody else holds any more: here, and never on a shard.
    pub fn sweep(&mut self) {
        self.retired.retain(|epoch| Arc::strong_count(epoch) > 1);
        self.parts.retain(|part| Arc::strong_count(part) > 1);
    }

    /// Whether anything waits to be freed.
    pub fn is_swept(&self) -> bool {
        self.retired.is_empty() && self.parts.is_empty()
    }

    /// Epochs that are held: the newest, and those that requests began with.
    pub fn live(&self) -> usize {
        1 + self.retired.len()
    }
}

/// The new listeners in the order of the old ones, if they listen at the same places.
fn same_listeners(old: &[Arc<Listener>], new: &[Arc<Listener>]) -> Result<Vec<Arc<Listener>>, String> {
    if let Some(more) = new.iter().find(|n| old.iter().all(|o| o.name != n.name)) {
        return Err(format!(
            "listener '{}' is new: listeners cannot be added to a running server yet",
            more.name
        ));
    }
    let one = |o: &Arc<Listener>| {
        let Some(n) = new.iter().find(|n| n.name == o.name) else {
            return Err(format!(
                "listener '{}' is missing: listeners cannot be removed from a running server yet",
                o.name
            ));
        };
        let sockets = |l: &Listener| (l.addresses.clone(), l.reuse_port, l.backlog);
        if sockets(n) != sockets(o) {
            return Err(format!(
                "listener '{}' has another address or other socket options: they cannot change yet",
                o.name
            ));
        }
        Ok(Arc::clone(n))
    };
    old.iter().map(one).collect()
}
