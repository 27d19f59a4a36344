//! The numbers of the process as a whole: `server.*`, `cluster_manager.*`, `listener_manager.*`, `filesystem.*`.
//! They are set when somebody looks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use selvedge_runtime::{Instant, memory};

use super::control::Core;
use crate::epoch::Epoch;
use crate::process::Process;
use crate::stats::block::Block;
use crate::stats::names::{ClusterManager, Filesystem, ListenerManager, Runtime, Server, ServerHist, Shard};
use crate::stats::scope::ScopeName;
use crate::upstream::cluster::ClusterShared;

#[derive(Debug)]
pub(crate) struct Gauges {
    server: Arc<Block<Server>>,
    clusters: Arc<Block<ClusterManager>>,
    listeners: Arc<Block<ListenerManager>>,
    files: Arc<Block<Filesystem>>,
    runtime: Arc<Block<Runtime>>,
    own: Arc<Block<Shard>>,
    shards: u64,
}

impl Gauges {
    pub(crate) fn new(process: &Process) -> Gauges {
        let registry = &process.registry;
        Gauges {
            server: registry.scope(ScopeName::new("server.", "server", &[])).block(0),
            clusters: registry.scope(ScopeName::new("cluster_manager.", "cluster_manager", &[])).block(0),
            listeners: registry.scope(ScopeName::new("listener_manager.", "listener_manager", &[])).block(0),
            files: registry.scope(ScopeName::new("filesystem.", "filesystem", &[])).block(0),
            runtime: registry.scope(ScopeName::new("runtime.", "runtime", &[])).block(0),
            // Each shard counts in one of its own.
            own: registry
                .scope(ScopeName::new("server.selvedge.", "server.selvedge", &[]))
                .block(process.shards),
            shards: process.shards as u64,
        }
    }

    /// What never changes after the start.
    pub(super) fn begun(&self, core: &Core) {
        let epoch = core.process.epoch();
        let (clusters, listeners) = (epoch.clusters.len() as u64, core.listeners.len() as u64);
        self.server.set(Server::Concurrency, self.shards);
        // The number that Envoy 1.40 shows: the first bytes of its commit.
        self.server.set(Server::Version, u64::from(crate::version::REVISION_NUMBER));
        self.server.set(Server::StaticUnknownFields, core.plan.unknown_fields as u64);
        self.server.set(Server::DaysUntilFirstCertExpiring, u64::from(u32::MAX));
        self.clusters.set(ClusterManager::ClusterAdded, clusters);
        self.clusters.set(ClusterManager::ActiveClusters, clusters);
        self.listeners.set(ListenerManager::ListenerAdded, listeners);
        self.listeners.set(ListenerManager::TotalListenersActive, listeners);
        self.live_epochs(1);
        let layers = &epoch.snapshot.runtime.layers;
        //= envoy: twice, before and with the clusters
        self.runtime.set(Runtime::LoadSuccess, 2);
        self.runtime.set(Runtime::OverrideDirNotExists, 2);
        self.runtime.set(Runtime::NumLayers, layers.len() as u64);
        let keys: BTreeSet<&String> = layers.iter().flat_map(|(_, values)| values.keys()).collect();
        self.runtime.set(Runtime::NumKeys, keys.len() as u64);
    }

    /// The shards accept, so long after the start.
    pub(super) fn live(&self, listeners: usize, now: Instant) {
        self.listeners.set(ListenerManager::ListenerCreateSuccess, listeners as u64 * self.shards);
        self.listeners.set(ListenerManager::WorkersStarted, 1);
        self.server.record(ServerHist::InitializationTimeMs, now.millis_since(Instant(0)));
    }

    pub(super) fn live_epochs(&self, epochs: usize) {
        self.own.set(Shard::LiveEpochs, epochs as u64);
    }

    /// `new` serves in place of `old`.
    pub(super) fn replaced(&self, old: &Epoch, new: &Epoch) {
        let find = |epoch: &Epoch, one: &ClusterShared| {
            let id = epoch.snapshot.clusters.find(one.config.name.as_bytes())?;
            Some(epoch.clusters[id.index()].number)
        };
        for cluster in &new.clusters {
            match find(old, cluster) {
                None => self.clusters.inc(ClusterManager::ClusterAdded),
                Some(number) if number != cluster.number => {
                    self.clusters.inc(ClusterManager::ClusterModified);
                }
                Some(_) => {}
            }
        }
        let removed = old.clusters.iter().filter(|c| find(new, c).is_none()).count();
        self.clusters.add(ClusterManager::ClusterRemoved, removed as u64);
        self.clusters.set(ClusterManager::ActiveClusters, new.clusters.len() as u64);
    }

    /// Listeners take no more connections.
    pub(super) fn stopped(&self, listeners: usize) {
        self.listeners.add(ListenerManager::ListenerStopped, listeners as u64);
    }

    /// What changes by itself.
    pub(super) fn refresh(&self, core: &Core) {
        let state = core.process.state();
        self.server.set(Server::Uptime, core.started.elapsed().as_secs());
        self.server.set(Server::Live, u64::from(state == crate::process::LIVE));
        self.server.set(Server::State, u64::from(state));
        self.server.set(Server::TotalConnections, core.process.server.connections.load(Relaxed));
        core.process.epoch().clusters.iter().for_each(|c| c.show_breakers());
        if let Some(used) = memory::used() {
            self.server.set(Server::MemoryAllocated, used.private);
            self.server.set(Server::MemoryHeapSize, used.private);
            self.server.set(Server::MemoryPhysicalSize, used.resident);
        }
        let files = core.process.writer.stats();
        self.files.set(Filesystem::WriteCompleted, files.write_completed.load(Relaxed));
        self.files.set(Filesystem::WriteFailed, files.write_failed.load(Relaxed));
        self.files.set(Filesystem::ReopenFailed, files.reopen_failed.load(Relaxed));
        self.own.set(Shard::AccessLogLinesDropped, files.lines_dropped.load(Relaxed));
    }
}
