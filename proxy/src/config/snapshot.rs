//! The compiled whole: what one epoch of the configuration is.
//!
//! Invariant: every `ClusterId` held by a route of a snapshot is an index into the clusters of that snapshot.
//! Not here: health, resolved addresses, counters; those live outside of epochs.

use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::SocketAddress;

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;

use crate::config::access_log::{self, AccessLog};
use crate::config::cluster::{self, Cluster};
use crate::config::listener::{self, Listener};
use crate::config::overload::{self, Overload};
use crate::config::rejection::{At, Fault, Rejection};
use crate::config::route::Lookup;
use crate::config::runtime_values::RuntimeValues;
use crate::config::values;

pub use crate::route::table::ClusterId;

/// One version of the whole configuration. Immutable; shared by all shards.
#[derive(Debug)]
pub struct Snapshot {
    pub listeners: Vec<Arc<Listener>>,
    pub clusters: Clusters,
    pub node: Node,
    pub admin: Option<AdminConfig>,
    pub runtime: Arc<RuntimeValues>,
    pub overload: Option<Arc<Overload>>,
    /// Downstream connections over all listeners and shards.
    pub max_connections: Option<u64>,
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
}

const BOOTSTRAP: &str = "Bootstrap";

/// Compiles a whole bootstrap. Every resource that is wrong is named, clusters first.
pub fn compile(config: &bootstrap::Bootstrap, node: Node) -> Result<Snapshot, Vec<Rejection>> {
    let root = At::resource();
    let fail = |fault: Fault| vec![fault.of(ResourceKind::Bootstrap, "")];
    let runtime =
        RuntimeValues::compile(config.layered_runtime.as_ref(), &root.field(BOOTSTRAP, "layered_runtime"))
            .map_err(fail)?;
    harmless_durations(config, &root).map_err(fail)?;
    let resources = config.static_resources.clone().unwrap_or_default();
    let here = root.field(BOOTSTRAP, "static_resources");
    let mut rejections = Vec::new();
    let names = ClusterNames::new(resources.clusters.iter().map(|c| Arc::from(c.name.as_str())));
    let mut clusters = Vec::new();
    for (i, one) in resources.clusters.iter().enumerate() {
        let at = here.item("StaticResources", "clusters", i);
        if names.find(one.name.as_bytes()) != Some(ClusterId::new(i)) && !one.name.is_empty() {
            let reason = format!("cluster manager: duplicate cluster '{}'", one.name);
            rejections.push(at.refuse(reason).of(ResourceKind::Cluster, &one.name));
            continue;
        }
        match cluster::compile(one, &runtime, &at) {
            Ok(cluster) => clusters.push(Arc::new(cluster)),
            Err(fault) => rejections.push(fault.of(ResourceKind::Cluster, &one.name)),
        }
    }
    let lookup = Lookup::new(&names, &runtime);
    let mut listeners: Vec<Arc<Listener>> = Vec::new();
    for (i, one) in resources.listeners.iter().enumerate() {
        let at = here.item("StaticResources", "listeners", i);
        match listener::compile(one, i, lookup, &at) {
            Ok(found) if listeners.iter().any(|l| l.name == found.name) => {
                let reason = format!("error adding listener: duplicate listener name '{}'", found.name);
                rejections.push(at.refuse(reason).of(ResourceKind::Listener, &one.name));
            }
            Ok(found) => listeners.push(Arc::new(found)),
            Err(fault) => rejections.push(fault.of(ResourceKind::Listener, &one.name)),
        }
    }
    let admin = match admin(config, &runtime, &root.field(BOOTSTRAP, "admin")) {
        Ok(admin) => admin,
        Err(fault) => return Err(fail(fault)),
    };
    if !rejections.is_empty() {
        return Err(rejections);
    }
    let here = root.field(BOOTSTRAP, "overload_manager");
    let overload = config.overload_manager.as_ref().map(|own| overload::compile(own, &runtime, &here));
    let overload = overload.transpose().map_err(fail)?.map(Arc::new);
    //= envoy: the overload manager's monitor comes before the older key of the runtime
    let max_connections = overload.as_ref().and_then(|o| o.max_connections());
    let max_connections =
        max_connections.or_else(|| runtime.integer("overload.global_downstream_max_connections"));
    Ok(Snapshot {
        listeners,
        clusters: Clusters::new(clusters),
        node,
        admin,
        runtime: Arc::new(runtime),
        overload,
        max_connections,
    })
}

/// Time limits that mean nothing here are still to be such.
fn harmless_durations(config: &bootstrap::Bootstrap, root: &At<'_>) -> Result<(), Fault> {
    let here = root.field(BOOTSTRAP, "stats_flush_interval");
    if let Some(interval) = &config.stats_flush_interval {
        let every = values::duration(interval, &here)?;
        if !(Duration::from_millis(1)..Duration::from_secs(300)).contains(&every) {
            return Err(here.violates("value must be inside range [1ms, 5m0s)"));
        }
    }
    let dogs = config.watchdogs.as_ref();
    let main = dogs.and_then(|d| d.main_thread_watchdog.as_ref());
    let worker = dogs.and_then(|d| d.worker_watchdog.as_ref());
    #[expect(deprecated, reason = "part of the API")]
    let old = config.watchdog.as_ref();
    for dog in [old, main, worker].into_iter().flatten() {
        let here = root.field(BOOTSTRAP, "watchdogs");
        let all = [
            &dog.miss_timeout,
            &dog.megamiss_timeout,
            &dog.kill_timeout,
            &dog.multikill_timeout,
            &dog.max_kill_timeout_jitter,
        ];
        for timeout in all {
            values::timeout(timeout.as_ref(), None, &here)?;
        }
    }
    Ok(())
}

fn admin(
    config: &bootstrap::Bootstrap,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<Option<AdminConfig>, Fault> {
    let Some(admin) = &config.admin else { return Ok(None) };
    let mut access_logs = access_log::list(&admin.access_log, runtime, "Admin", at)?;
    //= envoy: the older access_log_path is one more logger with the default format
    #[expect(deprecated, reason = "part of the API")]
    if !admin.access_log_path.is_empty() {
        access_logs.push(AccessLog::default_at(&admin.access_log_path));
    }
    let Some(address) = &admin.address else { return Ok(None) };
    Ok(Some(AdminConfig {
        address: values::known_place(address, &at.field("Admin", "address"))?,
        access_logs,
    }))
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
