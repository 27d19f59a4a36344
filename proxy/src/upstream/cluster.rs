//! The shard-local twin of a cluster, and what all shards and the admin thread share of it.
//!
//! Invariant: the balancer's places are those of `hosts`; both are made anew when the endpoints change.
#![allow(
    clippy::disallowed_types,
    reason = "the list of endpoints is swapped by the control thread; shards look when a letter says so"
)]

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use selvedge_runtime::Rt;

use super::breaker::{Breakers, Gate, Limit};
use super::endpoint::{EndpointBlock, EndpointShared, EndpointStat};
use super::lb::{Balancer, Candidate};
use super::pool::Pool;
use super::reaper::Reaper;
use crate::config::cluster::{Cluster as ClusterConfig, ClusterKind};
use crate::config::endpoint::EndpointTarget;
use crate::config::snapshot::ClusterId;
use crate::stats::block::Block;
use crate::stats::names::{Cluster as Stat, Remaining};
use crate::stats::scope::{Registry, Scope, ScopeName};

/// What all shards and the admin thread share of one cluster.
#[derive(Debug)]
pub struct ClusterShared {
    /// Its own for ever.
    pub number: usize,
    pub config: Arc<ClusterConfig>,
    pub breakers: Breakers,
    pub scope: Arc<Scope<Stat>>,
    /// By priority: what the breakers still allow, where it is tracked.
    remaining: [Option<Arc<Scope<Remaining>>>; 2],
    endpoints: Mutex<Arc<[Arc<EndpointShared>]>>,
}

impl ClusterShared {
    pub fn new(
        number: usize,
        config: &Arc<ClusterConfig>,
        shards: usize,
        registry: &Registry,
    ) -> ClusterShared {
        let prefix = format!("cluster.{}.", config.stat_name);
        let labels = [("envoy_cluster_name", &*config.stat_name)];
        let scope = registry.scope(ScopeName::new(&prefix, "cluster", &labels));
        let remaining = [0, 1].map(|priority| {
            let name = PRIORITIES[priority];
            let prefix = format!("{prefix}circuit_breakers.{name}.");
            let family = format!("cluster.circuit_breakers.{name}");
            config.track_remaining[priority]
                .then(|| registry.scope(ScopeName::new(&prefix, &family, &labels)))
        });
        let shared = ClusterShared {
            number,
            config: Arc::clone(config),
            breakers: Breakers::new(shards),
            scope,
            remaining,
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

    /// The control thread's: the new list, which shards take over when they are told. Endpoints that stay keep their
    /// numbers.
    pub fn set_endpoints(&self, list: Arc<[Arc<EndpointShared>]>) {
        super::dns::count_members(self, &list);
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// Shows how the breakers stand, to whoever looks at the statistics now.
    pub fn show_breakers(&self) {
        let stats = self.scope.block(0);
        for (priority, open) in OPEN.iter().enumerate() {
            let bounds = &self.config.breakers[priority];
            let left = |limit: Limit| limit.of(bounds).saturating_sub(self.breakers.get(priority, limit));
            for (limit, stat) in Limit::ALL.into_iter().zip(open) {
                stats.set(*stat, u64::from(left(limit) == 0));
            }
            if let Some(scope) = &self.remaining[priority] {
                let remaining = scope.block(0);
                remaining.set(Remaining::RemainingCx, left(Limit::Connections).into());
                remaining.set(Remaining::RemainingPending, left(Limit::Pending).into());
                remaining.set(Remaining::RemainingRq, left(Limit::Requests).into());
                remaining.set(Remaining::RemainingRetries, bounds.max_retries.into());
                let pools: usize = self.endpoints().iter().map(|e| e.shards()).sum();
                remaining.set(Remaining::RemainingCxPools, u64::MAX - pools as u64);
            }
        }
    }
}

const PRIORITIES: [&str; 2] = ["default", "high"];
const OPEN: [[Stat; 3]; 2] = [
    [
        Stat::CircuitBreakersDefaultCxOpen,
        Stat::CircuitBreakersDefaultRqPendingOpen,
        Stat::CircuitBreakersDefaultRqOpen,
    ],
    [
        Stat::CircuitBreakersHighCxOpen,
        Stat::CircuitBreakersHighRqPendingOpen,
        Stat::CircuitBreakersHighRqOpen,
    ],
];

/// The endpoints that need no name service.
fn static_endpoints(config: &ClusterConfig) -> Vec<Arc<EndpointShared>> {
    let mut list = Vec::new();
    if config.kind != ClusterKind::Static {
        return list;
    }
    for locality in &config.endpoints {
        for endpoint in &locality.endpoints {
            if let EndpointTarget::Address(address) = &endpoint.target {
                list.push(Arc::new(EndpointShared::new(endpoint, address.clone(), locality)));
            }
        }
    }
    list
}

/// One endpoint as this shard knows it.
#[derive(Debug)]
pub struct Host {
    pub shared: Arc<EndpointShared>,
    /// This shard's numbers, from the first on.
    stats: OnceCell<Arc<EndpointBlock>>,
    /// Requests in flight on this shard.
    pub active: Cell<u32>,
    /// By priority.
    pub(super) pools: [RefCell<Pool>; 2],
    /// Not in the cluster any more: its connections are not kept.
    pub(super) removed: Cell<bool>,
}

impl Host {
    fn new(shared: &Arc<EndpointShared>) -> Host {
        Host {
            shared: Arc::clone(shared),
            stats: OnceCell::new(),
            active: Cell::new(0),
            pools: Default::default(),
            removed: Cell::new(false),
        }
    }

    pub fn inc(&self, stat: EndpointStat) {
        self.stats.get_or_init(|| self.shared.block()).add(stat, 1);
    }

    /// Takes one off a gauge.
    pub fn dec(&self, stat: EndpointStat) {
        self.stats.get_or_init(|| self.shared.block()).add(stat, u64::MAX);
    }
}

/// One cluster as this shard knows it.
#[derive(Debug)]
pub struct ClusterTwin {
    pub shared: Arc<ClusterShared>,
    pub stats: Arc<Block<Stat>>,
    shard: usize,
    rt: Rt,
    hosts: RefCell<Vec<Rc<Host>>>,
    balancer: RefCell<Balancer>,
    pub(super) reaper: Rc<Reaper>,
    pub(super) next_connection: Cell<u64>,
}

impl ClusterTwin {
    fn new(shared: &Arc<ClusterShared>, shard: usize, rt: &Rt, reaper: &Rc<Reaper>) -> ClusterTwin {
        let twin = ClusterTwin {
            shared: Arc::clone(shared),
            stats: shared.scope.block(shard),
            shard,
            rt: rt.clone(),
            hosts: RefCell::default(),
            balancer: RefCell::new(balancer(&shared.config, &[], rt)),
            reaper: Rc::clone(reaper),
            next_connection: Cell::new(0),
        };
        twin.take_endpoints();
        twin
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// One of the cluster's limits.
    fn gate(&self, priority: usize, limit: Limit) -> Gate {
        Gate { shard: self.shard, priority, limit, bound: limit.of(&self.config().breakers[priority]) }
    }

    pub fn allows(&self, priority: usize, limit: Limit) -> bool {
        self.shared.breakers.allows(self.gate(priority, limit))
    }

    pub fn enter(&self, priority: usize, limit: Limit) {
        self.shared.breakers.inc(self.gate(priority, limit));
    }

    pub fn leave(&self, priority: usize, limit: Limit) {
        self.shared.breakers.dec(self.gate(priority, limit));
    }

    /// Panics where a test has planted that.
    pub(super) fn pass(&self, place: &'static str) {
        self.rt.pass(place);
    }

    /// Takes over the newest list of endpoints; hosts that stay keep their connections.
    pub fn take_endpoints(&self) {
        let list = self.shared.endpoints();
        let old = self.hosts.borrow().clone();
        let mut known: BTreeMap<_, _> = old.iter().map(|h| (Arc::as_ptr(&h.shared), Rc::clone(h))).collect();
        let fresh: Vec<Rc<Host>> = list
            .iter()
            .map(|e| known.remove(&Arc::as_ptr(e)).unwrap_or_else(|| Rc::new(Host::new(e))))
            .collect();
        let balancer = balancer(self.config(), &list, &self.rt);
        // Both at once, and nothing between them that could fail.
        *self.balancer.borrow_mut() = balancer;
        *self.hosts.borrow_mut() = fresh;
        for host in old.iter().filter(|host| known.contains_key(&Arc::as_ptr(&host.shared))) {
            host.removed.set(true);
            super::pool::close_idle(host);
        }
    }

    /// It is in no epoch to come: requests that began before may still use it, but it keeps no connection.
    pub fn drain(&self) {
        self.hosts.borrow().iter().for_each(|host| host.removed.set(true));
        self.close_idle();
    }

    /// Closes what is idle in its pools: a pool and its connections hold each other.
    pub fn close_idle(&self) {
        self.hosts.borrow().iter().for_each(|host| super::pool::close_idle(host));
    }

    /// The endpoint for one attempt. `None`: there is none to choose.
    pub fn pick(&self) -> Option<Rc<Host>> {
        let hosts = self.hosts.borrow();
        let choice = self.balancer.borrow().pick(|n| hosts[n].active.get(), || self.rt.random());
        if choice.panic {
            self.stats.inc(Stat::LbHealthyPanic);
        }
        choice.place.map(|n| Rc::clone(&hosts[n]))
    }
}

fn balancer(config: &ClusterConfig, list: &[Arc<EndpointShared>], rt: &Rt) -> Balancer {
    let candidates: Vec<Candidate> =
        list.iter().map(|e| Candidate { weight: e.weight, health: e.health }).collect();
    let (factor, threshold) = (config.overprovisioning_factor, config.healthy_panic_threshold);
    Balancer::new(config.lb, &candidates, factor, threshold, || rt.random())
}

/// All clusters of one shard.
#[derive(Debug)]
pub struct ClusterSet {
    list: Box<[Rc<ClusterTwin>]>,
    /// Numbers, sorted, and where they are in the list.
    by_number: Box<[(usize, usize)]>,
}

impl ClusterSet {
    /// `kept` gives the twin of a number that is there already.
    pub fn new<'a>(
        shared: &[Arc<ClusterShared>],
        shard: usize,
        rt: &Rt,
        reaper: &Rc<Reaper>,
        kept: impl Fn(usize) -> Option<&'a Rc<ClusterTwin>>,
    ) -> ClusterSet {
        let twin = |shared: &Arc<ClusterShared>| match kept(shared.number) {
            Some(twin) => Rc::clone(twin),
            None => Rc::new(ClusterTwin::new(shared, shard, rt, reaper)),
        };
        let list: Box<[_]> = shared.iter().map(twin).collect();
        let mut by_number: Box<[_]> = list.iter().enumerate().map(|(at, c)| (c.shared.number, at)).collect();
        by_number.sort_unstable();
        ClusterSet { list, by_number }
    }

    pub fn get(&self, id: ClusterId) -> Option<&Rc<ClusterTwin>> {
        self.list.get(id.index())
    }

    /// By the number that the control thread knows it by.
    pub fn at(&self, number: usize) -> Option<&Rc<ClusterTwin>> {
        let at = self.by_number.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(&self.list[self.by_number[at].1])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rc<ClusterTwin>> {
        self.list.iter()
    }
}
