//! Resolves the names of STRICT_DNS clusters, on the control thread, and posts the endpoints to the shards.
//!
//! Invariant: what was resolved stays in use until an answer replaces it; a look-up that fails changes nothing.
#![allow(clippy::disallowed_types, reason = "control thread")]

use std::net::IpAddr;
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

/// New endpoints of one cluster, for all shards.
#[derive(Debug)]
pub struct Resolved {
    pub cluster: usize,
    pub list: Arc<[Arc<EndpointShared>]>,
}

/// What one look-up came to.
enum Answer {
    Addresses(Vec<IpAddr>, Duration),
    /// The name has no address.
    Empty,
    Failed,
}

/// Keeps a cluster's endpoints fresh for ever. `warm` is dropped when its first round of answers is in.
pub async fn follow(
    number: usize,
    cluster: Arc<ClusterShared>,
    out: UnboundedSender<Resolved>,
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
    out: &UnboundedSender<Resolved>,
) -> (bool, Duration) {
    let stats = cluster.scope.block(0);
    let old = cluster.endpoints();
    let mut fresh: Vec<Arc<EndpointShared>> = Vec::new();
    let (mut failed, mut ttl) = (false, options.refresh_rate);
    for locality in &cluster.config.endpoints {
        for endpoint in &locality.endpoints {
            let (host, port) = match &endpoint.target {
                EndpointTarget::Address(address) => {
                    keep_or_make(&old, &mut fresh, EndpointShared::new(endpoint, address.clone(), locality));
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
                        keep_or_make(&old, &mut fresh, EndpointShared::new(endpoint, address, locality));
                    }
                }
                Answer::Empty => {
                    stats.inc(Stat::UpdateSuccess);
                    stats.inc(Stat::UpdateEmpty);
                }
                Answer::Failed => {
                    failed = true;
                    stats.inc(Stat::UpdateFailure);
                    fresh.extend(old.iter().filter(|e| e.hostname == endpoint.hostname).cloned());
                }
            }
        }
    }
    let same = fresh.len() == old.len() && fresh.iter().zip(old.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
    if same {
        stats.inc(Stat::UpdateNoRebuild);
        return (failed, ttl);
    }
    let list: Arc<[_]> = fresh.into();
    cluster.set_endpoints(Arc::clone(&list));
    let _ends_with_the_process = out.send(Resolved { cluster: number, list });
    (failed, ttl)
}

/// An endpoint that stays keeps its numbers and its connections.
fn keep_or_make(old: &[Arc<EndpointShared>], fresh: &mut Vec<Arc<EndpointShared>>, new: EndpointShared) {
    if fresh.iter().any(|e| e.address == new.address && e.hostname == new.hostname) {
        return;
    }
    let kept = old.iter().find(|e| e.address == new.address && e.hostname == new.hostname);
    fresh.push(kept.map_or_else(|| Arc::new(new), Arc::clone));
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
    let healthy = list.iter().filter(|e| e.health == ConfiguredHealth::Healthy).count();
    stats.set(Stat::MembershipTotal, list.len() as u64);
    stats.set(Stat::MembershipHealthy, healthy as u64);
    if cluster.config.kind == ClusterKind::Static {
        stats.add(Stat::DefaultTotalMatchCount, list.len() as u64);
    } else {
        //= envoy: only clusters that change keep the largest weight
        stats.set(Stat::MaxHostWeight, list.iter().map(|e| u64::from(e.weight)).max().unwrap_or(0));
    }
    stats.inc(Stat::MembershipChange);
}
