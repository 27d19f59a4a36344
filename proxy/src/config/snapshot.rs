//! The compiled whole: what one epoch of the configuration is.
//!
//! Invariant: every `ClusterId` held by a route of a snapshot is an index into the clusters of that snapshot.
//! Not here: health, resolved addresses, counters; those live outside of epochs.

use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::SocketAddress;

use crate::config::cluster::Cluster;
use crate::config::listener::{AccessLog, Listener};
use crate::config::runtime_values::RuntimeValues;

pub use crate::route::table::ClusterId;

/// One version of the whole configuration. Immutable; shared by all shards.
#[derive(Debug)]
pub struct Snapshot {
    pub epoch: u64,
    pub listeners: Vec<Arc<Listener>>,
    pub clusters: Clusters,
    pub node: Node,
    pub admin: Option<AdminConfig>,
    pub runtime: Arc<RuntimeValues>,
    pub stats_flush_interval: Duration,
    /// Every static resource as it was read, for `/config_dump`.
    pub resources: Vec<Resource>,
}

/// The bytes of one static resource.
#[derive(Debug, Clone)]
pub struct Resource {
    pub kind: ResourceKind,
    pub name: Arc<str>,
    pub type_url: &'static str,
    pub bytes: Arc<[u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    Bootstrap,
    Listener,
    Cluster,
    Route,
}

/// Who this process is towards control planes and in formats such as `%NODE_ID%`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    pub cluster: String,
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Debug)]
pub struct AdminConfig {
    pub address: SocketAddress,
    pub access_logs: Vec<AccessLog>,
    pub ignore_global_conn_limit: bool,
}

/// All clusters: by id, and by name for configuration and for `cluster_header`.
#[derive(Debug, Default)]
pub struct Clusters {
    list: Vec<Arc<Cluster>>,
    by_name: ClusterNames,
}

impl Clusters {
    /// Clusters in the order of their ids. `names` maps each name to its place in `list`.
    pub fn new(list: Vec<Arc<Cluster>>) -> Clusters {
        let by_name = ClusterNames::new(list.iter().map(|c| Arc::clone(&c.name)));
        Clusters { list, by_name }
    }

    pub fn get(&self, id: ClusterId) -> &Arc<Cluster> {
        &self.list[id.index()]
    }

    pub fn find(&self, name: &[u8]) -> Option<ClusterId> {
        self.by_name.find(name)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Cluster>> {
        self.list.iter()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Names of clusters, sorted: found by halving, without a hash.
#[derive(Debug, Default, Clone)]
pub struct ClusterNames {
    sorted: Vec<(Arc<str>, ClusterId)>,
}

impl ClusterNames {
    /// Ids are given in the order of the names. Of two equal names the first counts.
    pub fn new(names: impl Iterator<Item = Arc<str>>) -> ClusterNames {
        let mut sorted: Vec<_> = names.enumerate().map(|(i, name)| (name, ClusterId::new(i))).collect();
        sorted.sort();
        sorted.dedup_by(|later, earlier| later.0 == earlier.0);
        ClusterNames { sorted }
    }

    pub fn find(&self, name: &[u8]) -> Option<ClusterId> {
        let at = self.sorted.binary_search_by(|(n, _)| n.as_bytes().cmp(name)).ok()?;
        Some(self.sorted[at].1)
    }
}
