//! Resolves the names of STRICT_DNS clusters, on the control thread, and tells which clusters have new endpoints.
//!
//! Invariant: what was resolved stays in use until an answer replaces it; a look-up that fails changes nothing.
#![allow(clippy::disallowed_types, reason = "control thread")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use selvedge_runtime::SocketAddress;
use tokio::sync::mpsc::UnboundedSender;

use super::cluster::ClusterShared;
use super::endpoint::EndpointShared;
use crate::config::cluster::{ClusterKind, DnsFamily, DnsOptions};
use crate::config::endpoint::{ConfiguredHealth, EndpointTarget};
use crate::stats::names::Cluster as Stat;

/// What one look-up came to.
enum Answer {
    Addresses(Vec<IpAddr>, Duration),
    /// The name has no address.
    Empty,
    Failed,
}

/// Keeps a cluster's endpoints fresh for ever, and sends its number when they change. `warm` is dropped when its first round of answers is in.
pub async fn follow(
    number: usize,
    cluster: Arc<ClusterShared>,
    out: UnboundedSender<usize>,
    warm: tokio::sync::oneshot::Sender<()>,
) {
    let ClusterKind::StrictDns(options) = cluster.config.kind.clone() else { return };
    let resolver = match resolver(&options) {
        Ok(resolver) => resolver,
        Err(error) => {
            crate::log::error("dns", &format!("cluster '{}': no resolver: {error}", cluster.config.name));
            return;
        }
    };
    let mut warm = Some(warm);
    let mut failures = 0_u32;
    loop {
        let begun = Instant::now();
        let (failed, ttl) = round(number, &cluster, &resolver, &options, &out).await;
        drop(warm.take());
        failures = if failed { failures.saturating_add(1) } else { 0 };
        let wait = match (&options.failure_refresh, failed) {
            (Some((base, bound)), true) => {
                base.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(*bound)
            }
            //= envoy: respect_dns_ttl
            (_, false) if options.respect_ttl => ttl.max(Duration::from_secs(1)),
            _ => options.refresh_rate,
        };
        let jitter = jitter(options.jitter, begun);
        tokio::time::sleep(wait + jitter).await;
    }
}

/// A share of `bound`, from the low bits of the clock: it only has to differ between processes.
fn jitter(bound: Duration, at: Instant) -> Duration {
    let bits = at.elapsed().subsec_nanos() % 1024;
    bound * bits / 1024
}

fn resolver(options: &DnsOptions) -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_tokio().map_err(|e| e.to_string())?;
    let own = builder.options_mut();
    own.cache_size = 0;
    own.ip_strategy = match options.family {
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        //= envoy: AUTO asks for IPv6 first and takes IPv4 only where there is none
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    builder.build().map_err(|e| e.to_string())
}

/// Resolves every name of the cluster once. The answer: whether one failed, and the least time to live.
async fn round(
    number: usize,
    cluster: &ClusterShared,
    resolver: &TokioResolver,
    options: &DnsOptions,
    out: &UnboundedSender<usize>,
) -> (bool, Duration) {
    let stats = cluster.scope.block(0);
    let old = cluster.endpoints();
    let mut merge = Merge::new(&old);
    let (mut failed, mut ttl) = (false, options.refresh_rate);
    for locality in &cluster.config.endpoints {
        for endpoint in &locality.endpoints {
            let (host, port) = match &endpoint.target {
                EndpointTarget::Address(address) => {
                    merge.add(EndpointShared::new(endpoint, address.clone(), locality));
                    continue;
                }
                EndpointTarget::Name { host, port } => (host, *port),
            };
            stats.inc(Stat::UpdateAttempt);
            match look_up(resolver, host).await {
                Answer::Addresses(addresses, lives) => {
                    stats.inc(Stat::UpdateSuccess);
                    ttl = ttl.min(lives);
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
                    failed = true;
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
        return (failed, ttl);
    }
    cluster.set_endpoints(fresh.into());
    let _ends_with_the_process = out.send(number);
    (failed, ttl)
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

async fn look_up(resolver: &TokioResolver, host: &str) -> Answer {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let lives = found.valid_until().saturating_duration_since(Instant::now());
            let mut addresses: Vec<IpAddr> = found.iter().collect();
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() { Answer::Empty } else { Answer::Addresses(addresses, lives) }
        }
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => Answer::Empty,
        Err(_) => Answer::Failed,
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
