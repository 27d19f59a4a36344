//! Follows the names of one STRICT_DNS cluster: when to ask for which, and what the answers make of its endpoints.
//!
//! ```text
//! due -> ask for each name, one after the other -> take the list over -> wait (refresh rate, TTL or back-off) -> due
//! ```
//! Invariant: what was resolved stays in use until an answer replaces it; a look-up that fails changes nothing.
//! It asks nobody itself: questions go out, answers and `now` come in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::rng::Rng;
use selvedge_runtime::{Instant, SocketAddress};

use super::cluster::ClusterShared;
use super::endpoint::EndpointShared;
use crate::config::cluster::{ClusterKind, DnsFamily, DnsOptions};
use crate::config::endpoint::{ConfiguredHealth, EndpointTarget};
use crate::stats::names::Cluster as Stat;

/// What one look-up came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Each once, in the order in which they are used, and how long they may be believed.
    Addresses(Vec<IpAddr>, Duration),
    /// The name has no address.
    Empty,
    Failed,
}

/// A name to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub cluster: usize,
    pub name: Arc<str>,
    pub family: DnsFamily,
}

/// A cluster whose names are followed.
#[derive(Debug)]
pub struct Follower {
    cluster: Arc<ClusterShared>,
    options: DnsOptions,
    /// In the order of the endpoints.
    names: Vec<Arc<str>>,
    /// Of the round that runs, to the first of the names.
    answers: Vec<Answer>,
    /// When the next round begins. `None`: one runs.
    due: Option<Instant>,
    failed_rounds: u32,
    warm: bool,
}

impl Follower {
    /// `None`: the cluster has no names. The first round is due at once.
    pub fn new(cluster: &Arc<ClusterShared>) -> Option<Follower> {
        let ClusterKind::StrictDns(options) = cluster.config.kind.clone() else { return None };
        let endpoints = cluster.config.endpoints.iter().flat_map(|l| &l.endpoints);
        let names = endpoints.filter_map(|e| match &e.target {
            EndpointTarget::Name { host, .. } => Some(Arc::clone(host)),
            EndpointTarget::Address(_) => None,
        });
        Some(Follower {
            names: names.collect(),
            cluster: Arc::clone(cluster),
            options,
            answers: Vec::new(),
            due: Some(Instant(0)),
            failed_rounds: 0,
            warm: false,
        })
    }

    /// Whether nobody need wait for it: its first round is over, or it says so.
    pub fn is_warm(&self) -> bool {
        self.warm || !self.options.wait_for_warm
    }

    pub fn cluster(&self) -> &ClusterShared {
        &self.cluster
    }

    pub fn poll_timeout(&self) -> Instant {
        self.due.unwrap_or(Instant::FAR)
    }

    /// Begins a round when it is time. The answer: whether the endpoints are others now, and what to ask.
    pub fn handle_timeout(&mut self, now: Instant, rng: &Rng) -> (bool, Option<Question>) {
        if self.due.is_none_or(|due| due > now) {
            return (false, None);
        }
        self.due = None;
        self.go_on(now, rng)
    }

    /// Takes the answer to the last question. One that nobody asked for is dropped.
    pub fn handle_answer(&mut self, now: Instant, answer: Answer, rng: &Rng) -> (bool, Option<Question>) {
        if self.due.is_some() {
            return (false, None);
        }
        self.answers.push(answer);
        self.go_on(now, rng)
    }

    fn go_on(&mut self, now: Instant, rng: &Rng) -> (bool, Option<Question>) {
        if let Some(name) = self.names.get(self.answers.len()) {
            self.cluster.scope.block(0).inc(Stat::UpdateAttempt);
            let (cluster, name, family) = (self.cluster.number, Arc::clone(name), self.options.family);
            return (false, Some(Question { cluster, name, family }));
        }
        let round = self.round_over();
        self.warm = true;
        self.due = Some(now + self.pause(&round, rng));
        (round.changed, None)
    }

    /// How long until the next round.
    fn pause(&mut self, round: &Round, rng: &Rng) -> Duration {
        self.failed_rounds = if round.failed { self.failed_rounds.saturating_add(1) } else { 0 };
        let wait = match &self.options.failure_refresh {
            Some((base, bound)) if round.failed => {
                base.saturating_mul(1 << self.failed_rounds.saturating_sub(1).min(16)).min(*bound)
            }
            //= envoy: respect_dns_ttl
            _ if !round.failed && self.options.respect_ttl => round.ttl.max(Duration::from_secs(1)),
            _ => self.options.refresh_rate,
        };
        let share = u32::try_from(rng.next() % 1024).unwrap_or(0);
        wait + self.options.jitter * share / 1024
    }

    /// All names have their answers: makes the list of endpoints of them.
    fn round_over(&mut self) -> Round {
        let stats = self.cluster.scope.block(0);
        let old = self.cluster.endpoints();
        let mut merge = Merge::new(&old);
        let mut round = Round { failed: false, ttl: self.options.refresh_rate, changed: false };
        let mut answers = std::mem::take(&mut self.answers).into_iter();
        for locality in &self.cluster.config.endpoints {
            for endpoint in &locality.endpoints {
                let port = match &endpoint.target {
                    EndpointTarget::Address(address) => {
                        merge.add(EndpointShared::new(endpoint, address.clone(), locality));
                        continue;
                    }
                    EndpointTarget::Name { port, .. } => *port,
                };
                match answers.next().unwrap_or(Answer::Failed) {
                    Answer::Addresses(addresses, lives) => {
                        stats.inc(Stat::UpdateSuccess);
                        round.ttl = round.ttl.min(lives);
                        stats.add(Stat::DefaultTotalMatchCount, addresses.len() as u64);
                        for ip in addresses {
                            let address = SocketAddress::Ip((ip, port).into());
                            merge.add(EndpointShared::new(endpoint, address, locality));
                        }
                    }
                    Answer::Empty => {
                        stats.inc(Stat::UpdateSuccess);
                        stats.inc(Stat::UpdateEmpty);
                    }
                    Answer::Failed => {
                        round.failed = true;
                        stats.inc(Stat::UpdateFailure);
                        merge.keep(&endpoint.hostname, port);
                    }
                }
            }
        }
        let fresh = merge.fresh;
        let same = fresh.len() == old.len() && fresh.iter().zip(old.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            stats.inc(Stat::UpdateNoRebuild);
            return round;
        }
        self.cluster.set_endpoints(fresh.into());
        Round { changed: true, ..round }
    }
}

/// What one round of questions came to.
struct Round {
    failed: bool,
    /// The least of the answers.
    ttl: Duration,
    changed: bool,
}

/// A new list of endpoints while it is made. An endpoint that stays keeps its numbers and its connections.
struct Merge {
    old: BTreeMap<(Arc<str>, SocketAddress), Arc<EndpointShared>>,
    fresh: Vec<Arc<EndpointShared>>,
    seen: BTreeSet<(Arc<str>, SocketAddress)>,
}

impl Merge {
    fn new(old: &[Arc<EndpointShared>]) -> Merge {
        let old = old.iter().map(|e| ((Arc::clone(&e.hostname), e.address.clone()), Arc::clone(e)));
        Merge { old: old.collect(), fresh: Vec::new(), seen: BTreeSet::new() }
    }

    /// The next endpoint of the list, unless it stands there already.
    fn add(&mut self, new: EndpointShared) {
        let key = (Arc::clone(&new.hostname), new.address.clone());
        let kept = self.old.get(&key).map_or_else(|| Arc::new(new), Arc::clone);
        if self.seen.insert(key) {
            self.fresh.push(kept);
        }
    }

    /// What a name that cannot be resolved now had before, in the order of addresses, as `look_up` gives them.
    fn keep(&mut self, hostname: &Arc<str>, port: u16) {
        let first = SocketAddress::Ip((Ipv4Addr::UNSPECIFIED, 0).into());
        let of_name =
            self.old.range((Arc::clone(hostname), first)..).take_while(|((name, _), _)| name == hostname);
        for (key, kept) in of_name.filter(|((_, address), _)| address.port() == Some(port)) {
            if self.seen.insert(key.clone()) {
                self.fresh.push(Arc::clone(kept));
            }
        }
    }
}

/// Sets the gauges of a cluster's membership.
pub(crate) fn count_members(cluster: &ClusterShared, list: &[Arc<EndpointShared>]) {
    let stats = cluster.scope.block(0);
    let count = |health| list.iter().filter(|e| e.health == health).count() as u64;
    stats.set(Stat::MembershipTotal, list.len() as u64);
    stats.set(Stat::MembershipHealthy, count(ConfiguredHealth::Healthy));
    stats.set(Stat::MembershipDegraded, count(ConfiguredHealth::Degraded));
    stats.set(Stat::MembershipExcluded, count(ConfiguredHealth::Draining));
    if cluster.config.kind == ClusterKind::Static {
        stats.add(Stat::DefaultTotalMatchCount, list.len() as u64);
    } else {
        //= envoy: only clusters that change keep the largest weight
        stats.set(Stat::MaxHostWeight, list.iter().map(|e| u64::from(e.weight)).max().unwrap_or(0));
    }
    stats.inc(Stat::MembershipChange);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::endpoint::{Endpoint, LocalityEndpoints};

    fn made(hostname: &str, address: &str) -> EndpointShared {
        let address = SocketAddress::Ip(address.parse().expect("an address"));
        let endpoint = Endpoint {
            target: EndpointTarget::Address(address.clone()),
            hostname: hostname.into(),
            weight: 1,
            health: ConfiguredHealth::Healthy,
            metadata: None,
        };
        let nowhere = || Arc::from("");
        let locality = LocalityEndpoints {
            region: nowhere(),
            zone: nowhere(),
            sub_zone: nowhere(),
            priority: 0,
            weight: None,
            endpoints: Vec::new(),
        };
        EndpointShared::new(&endpoint, address, &locality)
    }

    fn old() -> Vec<Arc<EndpointShared>> {
        ["10.0.0.2:80", "10.0.0.10:80", "10.0.0.1:81", "[::1]:80"].map(|a| Arc::new(made("h", a))).to_vec()
    }

    fn told(merge: &Merge, old: &[Arc<EndpointShared>]) -> String {
        let one = |e: &Arc<EndpointShared>| {
            let kept = old.iter().any(|o| Arc::ptr_eq(o, e));
            format!("{} {}{}", e.hostname, e.address, if kept { " kept" } else { "" })
        };
        merge.fresh.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The list stands in the order of the answers; what stays is the same endpoint; none stands there twice.
    #[test]
    fn what_is_resolved_keeps_its_order_and_what_stays_is_kept() {
        let old = old();
        let mut merge = Merge::new(&old);
        for address in ["10.0.0.3:80", "10.0.0.10:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.2:80"] {
            merge.add(made("h", address));
        }
        merge.add(made("other", "10.0.0.2:80"));
        assert_eq!(
            told(&merge, &old),
            "h 10.0.0.3:80, h 10.0.0.10:80 kept, h 10.0.0.2:80 kept, other 10.0.0.2:80"
        );
    }

    /// Two ports of one name that fails: each keeps its own, once.
    #[test]
    fn a_name_that_fails_keeps_what_it_had() {
        let old = old();
        let mut merge = Merge::new(&old);
        merge.keep(&Arc::from("h"), 80);
        merge.keep(&Arc::from("g"), 80);
        assert_eq!(told(&merge, &old), "h 10.0.0.2:80 kept, h 10.0.0.10:80 kept, h [::1]:80 kept");
        merge.keep(&Arc::from("h"), 80);
        merge.keep(&Arc::from("h"), 81);
        assert_eq!((merge.fresh.len(), &merge.fresh[3].address), (4, &old[2].address));
    }
}
