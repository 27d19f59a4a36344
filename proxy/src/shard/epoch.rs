//! One epoch as one shard knows it: its twins of listeners and clusters, and the routes.
//!
//! Invariant: a request takes routes and clusters from the epoch at its start, a connection its listener's twin from
//! the one at its own. The last reference to what all shards share is never one of these: the control thread keeps
//! each epoch and its parts until no shard holds them, and frees them itself.

use std::rc::Rc;
use std::sync::Arc;

use selvedge_runtime::Rt;

use super::{Cx, ListenerTwin};
use crate::access_log::sink::ShardLogs;
use crate::epoch::Epoch;
use crate::process::Process;
use crate::route::table::RouteTable;
use crate::upstream::cluster::{ClusterSet, ClusterTwin};
use crate::upstream::reaper::Reaper;

#[derive(Debug)]
pub struct EpochTwin {
    pub clusters: ClusterSet,
    /// By the numbers of the listening sockets.
    pub listeners: Vec<Rc<ListenerTwin>>,
    routes: Vec<Arc<RouteTable>>,
    // The last field: what the others refer to goes after them.
    pub shared: Arc<Epoch>,
}

/// Where twins are made.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) shard: usize,
    pub(super) rt: &'a Rt,
    pub(super) process: &'a Arc<Process>,
    pub(super) logs: &'a ShardLogs,
    pub(super) reaper: &'a Rc<Reaper>,
}

impl EpochTwin {
    /// `old`: what is in both lives on.
    pub(super) fn new(site: &Site<'_>, shared: Arc<Epoch>, old: Option<&EpochTwin>) -> EpochTwin {
        let kept = |number| old.and_then(|old| old.clusters.at(number));
        let clusters = ClusterSet::new(&shared.clusters, site.shard, site.rt, site.reaper, kept);
        let listener = |at: usize| {
            let before = old.map(|old| &*old.listeners[at]);
            Rc::new(ListenerTwin::new(site, &shared, at, before))
        };
        EpochTwin {
            clusters,
            listeners: (0..shared.listeners.len()).map(listener).collect(),
            routes: shared.listeners.iter().map(|l| Arc::clone(&l.routes)).collect(),
            shared,
        }
    }

    pub fn routes(&self, listener: usize) -> &RouteTable {
        &self.routes[listener]
    }

    /// The cluster of that name: for whom a configuration names it but does not hold its number.
    pub fn find(&self, name: &[u8]) -> Option<&Rc<ClusterTwin>> {
        self.shared.snapshot.clusters.find(name).and_then(|id| self.clusters.get(id))
    }
}

impl Cx {
    /// The newest epoch.
    pub fn epoch(&self) -> Rc<EpochTwin> {
        Rc::clone(&self.epoch.borrow())
    }

    /// Requests that begin from now on are served by `shared`; clusters that it has no more keep no connection.
    pub(super) fn swap(&self, site: &Site<'_>, shared: Arc<Epoch>) {
        let old = self.epoch();
        let new = Rc::new(EpochTwin::new(site, shared, Some(&old)));
        for cluster in old.clusters.iter() {
            if new.clusters.at(cluster.shared.number).is_none() {
                cluster.drain();
            }
        }
        self.epoch.replace(new);
    }
}
