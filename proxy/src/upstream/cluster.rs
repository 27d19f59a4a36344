//! The shard-local twin of a cluster, and what all shards and the admin thread share of it.
//!
//! Invariant: `usable` holds the places of the hosts that may be picked; it is rebuilt only when the hosts change.
#![allow(
    clippy::disallowed_types,
    reason = "the list of endpoints is swapped by the control thread; shards get letters"
)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use selvedge_runtime::{Rt, SocketAddress};

use super::breaker::Breaker;
use super::lb::{Weights, least_request, random, round_robin::RoundRobin};
use super::pool::{Pool, Reaper};
use crate::config::cluster::{Cluster as ClusterConfig, ClusterKind, LbPolicy};
use crate::config::endpoint::{ConfiguredHealth, Endpoint, EndpointTarget};
use crate::config::snapshot::{ClusterId, Snapshot};
use crate::stats::block::Block;
use crate::stats::names::Cluster as Stat;
use crate::stats::scope::{Registry, Scope, ScopeName};

/// Numbers of one endpoint, for `/clusters`: of one shard, which alone writes them, or summed over all.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointStats {
    pub cx_active: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub cx_total: AtomicU64,
    pub rq_active: AtomicU64,
    pub rq_error: AtomicU64,
    pub rq_success: AtomicU64,
    pub rq_timeout: AtomicU64,
    pub rq_total: AtomicU64,
}

/// One resolved endpoint, as every thread knows it.
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
    /// One for each shard that knows the endpoint.
    shards: Mutex<Vec<Arc<EndpointStats>>>,
}

impl EndpointShared {
    /// The numbers over all shards.
    pub fn stats(&self) -> EndpointStats {
        let total = EndpointStats::default();
        for one in self.shards.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (sum, part) in total.all().into_iter().zip(one.all()) {
                sum.store(sum.load(Relaxed).wrapping_add(part.load(Relaxed)), Relaxed);
            }
        }
        total
    }

    /// A shard's own numbers.
    fn join(&self) -> Arc<EndpointStats> {
        let own = Arc::<EndpointStats>::default();
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&own));
        own
    }
}

impl EndpointStats {
    fn all(&self) -> [&AtomicU64; 8] {
        [
            &self.cx_active,
            &self.cx_connect_fail,
            &self.cx_total,
            &self.rq_active,
            &self.rq_error,
            &self.rq_success,
            &self.rq_timeout,
            &self.rq_total,
        ]
    }
}

/// What all shards and the admin thread share of one cluster.
#[derive(Debug)]
pub struct ClusterShared {
    pub config: Arc<ClusterConfig>,
    pub breakers: [Breaker; 2],
    pub scope: Arc<Scope<Stat>>,
    endpoints: Mutex<Arc<[Arc<EndpointShared>]>>,
}

impl ClusterShared {
    pub fn new(config: &Arc<ClusterConfig>, registry: &Registry) -> ClusterShared {
        let prefix = format!("cluster.{}.", config.stat_name);
        let scope =
            registry.scope(ScopeName::new(&prefix, "cluster", &[("envoy_cluster_name", &config.stat_name)]));
        let shared = ClusterShared {
            config: Arc::clone(config),
            breakers: [Breaker::default(), Breaker::default()],
            scope,
            endpoints: Mutex::new(Arc::from([])),
        };
        let endpoints: Arc<[_]> = static_endpoints(config).into();
        if !endpoints.is_empty() {
            shared.set_endpoints(endpoints);
        }
        shared
    }

    pub fn endpoints(&self) -> Arc<[Arc<EndpointShared>]> {
        Arc::clone(&self.endpoints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The control thread's: the new list, for letters to the shards. Endpoints that stay keep their numbers.
    pub fn set_endpoints(&self, list: Arc<[Arc<EndpointShared>]>) {
        super::dns::count_members(self, &list);
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }
}

/// The endpoints that need no name service.
fn static_endpoints(config: &ClusterConfig) -> Vec<Arc<EndpointShared>> {
    let mut list = Vec::new();
    if config.kind != ClusterKind::Static {
        return list;
    }
    for locality in &config.endpoints {
        for endpoint in &locality.endpoints {
            if let EndpointTarget::Address(address) = &endpoint.target {
                let resolved = resolved(endpoint, address.clone(), locality);
                list.push(Arc::new(resolved));
            }
        }
    }
    list
}

/// An endpoint with an address of its own.
pub fn resolved(
    endpoint: &Endpoint,
    address: SocketAddress,
    locality: &crate::config::endpoint::LocalityEndpoints,
) -> EndpointShared {
    EndpointShared {
        address,
        hostname: Arc::clone(&endpoint.hostname),
        weight: endpoint.weight,
        health: endpoint.health,
        region: Arc::clone(&locality.region),
        zone: Arc::clone(&locality.zone),
        sub_zone: Arc::clone(&locality.sub_zone),
        priority: locality.priority,
        shards: Mutex::default(),
    }
}

/// One endpoint as this shard knows it.
#[derive(Debug)]
pub struct Host {
    pub shared: Arc<EndpointShared>,
    /// This shard's numbers.
    pub stats: Arc<EndpointStats>,
    /// Requests in flight on this shard.
    pub active: Cell<u32>,
    pub(super) pool: RefCell<Pool>,
    /// Not in the cluster any more: its connections are not kept.
    pub(super) removed: Cell<bool>,
}

/// The hosts that may be picked: their places, and their weights.
#[derive(Debug, Default)]
struct Usable {
    places: Vec<usize>,
    weights: Weights,
}

/// One cluster as this shard knows it.
#[derive(Debug)]
pub struct ClusterTwin {
    pub shared: Arc<ClusterShared>,
    pub stats: Arc<Block<Stat>>,
    pub(super) hosts: RefCell<Vec<Rc<Host>>>,
    usable: RefCell<Usable>,
    turn: RefCell<RoundRobin>,
    pub(super) reaper: Rc<Reaper>,
    pub(super) next_connection: Cell<u64>,
}

impl ClusterTwin {
    pub fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// Takes over a new list of endpoints; hosts that stay keep their connections.
    pub fn set_endpoints(&self, list: &[Arc<EndpointShared>]) {
        let mut hosts = self.hosts.borrow_mut();
        let mut fresh = Vec::with_capacity(list.len());
        for shared in list {
            let kept =
                hosts.iter().position(|h| h.shared.address == shared.address).map(|at| hosts.swap_remove(at));
            fresh.push(match kept {
                Some(host) if Arc::ptr_eq(&host.shared, shared) => host,
                _ => Rc::new(Host {
                    shared: Arc::clone(shared),
                    stats: shared.join(),
                    active: Cell::new(0),
                    pool: RefCell::default(),
                    removed: Cell::new(false),
                }),
            });
        }
        let gone = std::mem::replace(&mut *hosts, fresh);
        let healthy = |h: &Rc<Host>| h.shared.health != ConfiguredHealth::Unhealthy;
        let count = hosts.iter().filter(|h| healthy(h)).count();
        #[expect(clippy::cast_precision_loss, reason = "counts of hosts")]
        let share = count as f64 * 100.0 / hosts.len().max(1) as f64;
        //= envoy: common_lb_config.healthy_panic_threshold
        let panic = share < self.config().healthy_panic_threshold;
        let places: Vec<usize> = (0..hosts.len()).filter(|&n| panic || healthy(&hosts[n])).collect();
        let weights = Weights::new(places.iter().map(|&n| hosts[n].shared.weight).collect());
        *self.usable.borrow_mut() = Usable { places, weights };
        drop(hosts);
        for host in gone {
            host.removed.set(true);
            super::pool::close_idle(self, &host);
        }
    }

    /// The endpoint for one attempt. `None`: there is none to choose.
    pub fn pick(&self, rt: &Rt) -> Option<Rc<Host>> {
        let hosts = self.hosts.borrow();
        let usable = self.usable.borrow();
        let Usable { places, weights } = &*usable;
        if let [only] = places.as_slice() {
            return Some(Rc::clone(&hosts[*only]));
        }
        let at = match self.config().lb {
            LbPolicy::RoundRobin => self.turn.borrow_mut().pick(weights),
            LbPolicy::Random => random::pick(weights, rt.random()),
            LbPolicy::LeastRequest { choice_count, active_request_bias } => {
                let active = |at: usize| hosts[places[at]].active.get();
                least_request::pick(weights, choice_count, active_request_bias, active, || rt.random())
            }
        }?;
        Some(Rc::clone(&hosts[places[at]]))
    }
}

/// All clusters of one shard.
#[derive(Debug)]
pub struct ClusterSet {
    list: Vec<Rc<ClusterTwin>>,
}

impl ClusterSet {
    pub fn new(shared: &[Arc<ClusterShared>], shard: usize, reaper: &Rc<Reaper>) -> ClusterSet {
        let list = shared
            .iter()
            .map(|shared| {
                let twin = Rc::new(ClusterTwin {
                    shared: Arc::clone(shared),
                    stats: shared.scope.block(shard),
                    hosts: RefCell::default(),
                    usable: RefCell::default(),
                    turn: RefCell::default(),
                    reaper: Rc::clone(reaper),
                    next_connection: Cell::new(0),
                });
                twin.set_endpoints(&shared.endpoints());
                twin
            })
            .collect();
        ClusterSet { list }
    }

    pub fn get(&self, id: ClusterId) -> Option<&Rc<ClusterTwin>> {
        self.list.get(id.index())
    }

    pub fn find(&self, snapshot: &Snapshot, name: &[u8]) -> Option<&Rc<ClusterTwin>> {
        snapshot.clusters.find(name).and_then(|id| self.get(id))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rc<ClusterTwin>> {
        self.list.iter()
    }
}

/// Adds to a number of an endpoint that this shard alone writes.
pub(crate) fn bump(slot: &AtomicU64) {
    slot.store(slot.load(Relaxed).wrapping_add(1), Relaxed);
}

pub(crate) fn drop_one(slot: &AtomicU64) {
    slot.store(slot.load(Relaxed).wrapping_sub(1), Relaxed);
}
