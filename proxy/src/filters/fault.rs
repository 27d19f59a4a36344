//! `envoy.extensions.filters.http.fault.v3.HTTPFault`: delays requests, or answers them with an error, on purpose.
//!
//! Both are independent; an abort comes after the delay. A route's configuration replaces the filter's. The response
//! rate limit is refused by the table of fields.
//!
//! ```yaml
//! name: envoy.filters.http.fault
//! typed_config:
//!   "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
//!   delay: {fixed_delay: 0.1s, percentage: {numerator: 5}}
//!   abort: {http_status: 503, percentage: {numerator: 1}}
//! ```

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as delay_pb;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as pb;
use envoy_types::pb::google::protobuf::Any;

use super::{Call, Cx, Filter, Place, Running, Verdict};
use crate::config::matchers::header_matcher;
use crate::config::rejection::{At, Fault as Wrong};
use crate::config::route::Lookup;
use crate::config::values;
use crate::http::message::{HeaderId, RequestHead};
use crate::limits;
use crate::observe::flags::Flags;
use crate::route::matchers::{Fraction, HeaderMatcher};
use crate::stats::block::Block;
use crate::stats::names::table;
use crate::stats::scope::{Registry, ScopeName};
use crate::stream::Reply;

table! {
    /// The filter: `http.<stat_prefix>.fault.`
    FaultStat / FaultHist {
        counters [
        AbortsInjected = "aborts_injected",
        DelaysInjected = "delays_injected",
        FaultsOverflow = "faults_overflow",
        ResponseRlInjected = "response_rl_injected",
        ]
        gauges [
        ActiveFaults = "active_faults",
        ]
        histograms [
        ]
    }
}

table! {
    /// What the services of one downstream cluster met: `http.<stat_prefix>.fault.<cluster>.`
    DownstreamStat / DownstreamHist {
        counters [
        AbortsInjected = "aborts_injected",
        DelaysInjected = "delays_injected",
        ]
        gauges [
        ]
        histograms [
        ]
    }
}

/// The filter.
#[derive(Debug)]
pub struct Fault {
    settings: Settings,
    /// Faults at work over all shards, for `max_active_faults`.
    active: Arc<AtomicU64>,
}

/// What it does, and to whom; on a route as well.
#[derive(Debug)]
pub struct Settings {
    delay: Option<(Delay, Fraction)>,
    abort: Option<(Abort, Fraction)>,
    abort_body: Box<[u8]>,
    upstream_cluster: Box<str>,
    headers: Box<[HeaderMatcher]>,
    downstream_nodes: Box<[Box<[u8]>]>,
    max_active: Option<u64>,
    keys: Keys,
    count_downstream: bool,
}

#[derive(Debug, Clone, Copy)]
enum Delay {
    Fixed(Duration),
    /// `x-envoy-fault-delay-request`, in milliseconds.
    Header,
}

#[derive(Debug, Clone, Copy)]
enum Abort {
    Status(u16),
    Grpc(u32),
    /// `x-envoy-fault-abort-request`, else `x-envoy-fault-abort-grpc-request`.
    Header,
}

/// What a request is answered with.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Status(u16),
    /// 200; a gRPC client learns this status.
    Grpc(u64),
}

/// Statuses that an abort may have.
const STATUS_MIN: u16 = 200;
const STATUS_MAX: u16 = 599;
const BODY: &[u8] = b"fault filter abort";

/// Names of runtime values.
#[derive(Debug)]
struct Keys {
    delay_percent: Box<str>,
    delay_duration: Box<str>,
    abort_percent: Box<str>,
    abort_status: Box<str>,
    abort_grpc_status: Box<str>,
    max_active: Box<str>,
}

/// The numbers of one downstream cluster, by its name; sorted.
type Downstream = (Box<str>, Arc<Block<DownstreamStat>>);

/// The shard's part.
#[derive(Debug)]
pub struct Local {
    stats: Arc<Block<FaultStat>>,
    downstream: RefCell<Vec<Downstream>>,
    registry: Arc<Registry>,
    shard: usize,
    manager: Box<str>,
}

/// A fault at work, counted.
#[derive(Debug)]
struct Active {
    stats: Arc<Block<FaultStat>>,
    count: Arc<AtomicU64>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.stats.dec(FaultStat::ActiveFaults);
        self.count.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, Default)]
pub struct State {
    active: Option<Active>,
    /// `x-envoy-downstream-service-cluster`.
    downstream: Option<Box<str>>,
}

fn percentage(
    value: Option<&envoy_types::pb::envoy::r#type::v3::FractionalPercent>,
    at: &At<'_>,
) -> Result<Fraction, Wrong> {
    value.map_or(Ok(Fraction { numerator: 0, denominator: 100 }), |share| values::fraction(share, at))
}

fn delay(config: &delay_pb::FaultDelay, at: &At<'_>) -> Result<(Delay, Fraction), Wrong> {
    use delay_pb::fault_delay::FaultDelaySecifier as Kind;
    let kind = match &config.fault_delay_secifier {
        Some(Kind::FixedDelay(value)) => {
            let here = at.field("FaultDelay", "fixed_delay");
            if value.seconds < 0 || (value.seconds == 0 && value.nanos <= 0) {
                return Err(here.violates("value must be greater than 0s"));
            }
            Delay::Fixed(values::duration(value, &here)?)
        }
        Some(Kind::HeaderDelay(_)) => Delay::Header,
        None => return Err(at.lacks("fault_delay_secifier")),
    };
    Ok((kind, percentage(config.percentage.as_ref(), &at.field("FaultDelay", "percentage"))?))
}

fn abort(config: &pb::FaultAbort, at: &At<'_>) -> Result<(Abort, Fraction), Wrong> {
    use pb::fault_abort::ErrorType as Kind;
    let kind = match &config.error_type {
        Some(Kind::HttpStatus(status)) => match u16::try_from(*status) {
            Ok(status @ STATUS_MIN..=STATUS_MAX) => Abort::Status(status),
            _ => {
                let here = at.field("FaultAbort", "http_status");
                return Err(here.violates("value must be inside range [200, 600)"));
            }
        },
        Some(Kind::HeaderAbort(_)) => Abort::Header,
        Some(Kind::GrpcStatus(status)) => Abort::Grpc(*status),
        None => return Err(at.lacks("error_type")),
    };
    Ok((kind, percentage(config.percentage.as_ref(), &at.field("FaultAbort", "percentage"))?))
}

fn settings(config: &Any, at: &At<'_>) -> Result<Settings, Wrong> {
    const MESSAGE: &str = "HTTPFault";
    let config: pb::HttpFault = values::unpack(config, at)?;
    let mut headers = Vec::new();
    for (i, rule) in config.headers.iter().enumerate() {
        headers.push(header_matcher(rule, &at.item(MESSAGE, "headers", i))?);
    }
    let key = |own: &str, default: &str| Box::from(if own.is_empty() { default } else { own });
    Ok(Settings {
        delay: config.delay.as_ref().map(|d| delay(d, &at.field(MESSAGE, "delay"))).transpose()?,
        abort: config.abort.as_ref().map(|a| abort(a, &at.field(MESSAGE, "abort"))).transpose()?,
        //= envoy: FaultAbort.response_body
        abort_body: match config.abort.as_ref().map(|a| a.response_body.as_bytes()) {
            None | Some([]) => BODY.into(),
            Some(own) => own.into(),
        },
        upstream_cluster: config.upstream_cluster.as_str().into(),
        headers: headers.into(),
        downstream_nodes: config.downstream_nodes.iter().map(|n| n.as_bytes().into()).collect(),
        max_active: config.max_active_faults.as_ref().map(|m| u64::from(m.value)),
        keys: Keys {
            delay_percent: key(&config.delay_percent_runtime, "fault.http.delay.fixed_delay_percent"),
            delay_duration: key(&config.delay_duration_runtime, "fault.http.delay.fixed_duration_ms"),
            abort_percent: key(&config.abort_percent_runtime, "fault.http.abort.abort_percent"),
            abort_status: key(&config.abort_http_status_runtime, "fault.http.abort.http_status"),
            abort_grpc_status: key(&config.abort_grpc_status_runtime, "fault.http.abort.grpc_status"),
            max_active: key(&config.max_active_faults_runtime, "fault.http.max_active_faults"),
        },
        count_downstream: !config.disable_downstream_cluster_stats,
    })
}

impl Filter for Fault {
    const TYPE: &'static str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
    const ROUTE_TYPE: &'static str = Self::TYPE;
    type Route = Box<Settings>;
    type Local = Local;
    type Stream = State;

    fn compile(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Self, Wrong> {
        Ok(Fault { settings: settings(config, at)?, active: Arc::default() })
    }

    fn compile_route(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Box<Settings>, Wrong> {
        settings(config, at).map(Box::new)
    }

    fn local(&self, place: &Place<'_>) -> Local {
        let labels = [("envoy_http_conn_manager_prefix", place.manager)];
        let name = ScopeName::new(&format!("http.{}.fault.", place.manager), "http.fault", &labels);
        Local {
            stats: place.registry.scope(name).block(place.shard),
            downstream: RefCell::default(),
            registry: Arc::clone(place.registry),
            shard: place.shard,
            manager: place.manager.into(),
        }
    }

    fn request_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        let settings = one.route.map_or(&one.filter.settings, |own| own);
        if cx.answer.is_none() {
            if !settings.is_meant(cx) {
                return Verdict::Continue;
            }
            let downstream = cx.request.fields.get(HeaderId::XEnvoyDownstreamServiceCluster);
            one.state.downstream = downstream
                .and_then(|name| std::str::from_utf8(name).ok())
                .filter(|name| !name.is_empty())
                .map(Box::from);
            if let Some(time) = settings.delay(one.state.downstream.as_deref(), cx)
                && activate(one, settings, cx)
            {
                count(one, settings, FaultStat::DelaysInjected, DownstreamStat::DelaysInjected);
                cx.info.flags.add(Flags::DELAY_INJECTED);
                return Verdict::Call(Call::Sleep(time));
            }
        }
        //= envoy: a delay is at work until it is over, an abort until its stream is
        one.state.active = None;
        match settings.abort(one.state.downstream.as_deref(), cx) {
            Some(answer) if activate(one, settings, cx) => {
                count(one, settings, FaultStat::AbortsInjected, DownstreamStat::AbortsInjected);
                let (status, grpc) = match answer {
                    Answer::Status(status) => (status, None),
                    Answer::Grpc(grpc) => (200, Some(grpc)),
                };
                let mut reply = Reply::text(status, &settings.abort_body, "fault_filter_abort");
                reply.grpc_status = grpc;
                reply.flags = Flags::FAULT_INJECTED;
                Verdict::Reply(Box::new(reply))
            }
            _ => Verdict::Continue,
        }
    }
}

/// Takes a place among the faults at work, one for each stream. `false`: there is none left.
//= envoy: max_active_faults is a fuzzy limit
fn activate(one: &mut Running<'_, Fault>, settings: &Settings, cx: &Cx<'_>) -> bool {
    if one.state.active.is_some() {
        return true;
    }
    let most = cx.runtime.integer(&settings.keys.max_active).or(settings.max_active);
    if most.is_some_and(|most| one.filter.active.load(Relaxed) >= most) {
        one.local.stats.inc(FaultStat::FaultsOverflow);
        return false;
    }
    one.local.stats.inc(FaultStat::ActiveFaults);
    one.filter.active.fetch_add(1, Relaxed);
    let (stats, count) = (Arc::clone(&one.local.stats), Arc::clone(&one.filter.active));
    one.state.active = Some(Active { stats, count });
    true
}

fn count(one: &Running<'_, Fault>, settings: &Settings, stat: FaultStat, downstream: DownstreamStat) {
    one.local.stats.inc(stat);
    if let Some(name) = one.state.downstream.as_deref().filter(|_| settings.count_downstream) {
        one.local.downstream(name).inc(downstream);
    }
}

impl Local {
    /// The numbers of one downstream cluster. Names come from clients: beyond the bound they share `overflow`.
    fn downstream(&self, name: &str) -> Arc<Block<DownstreamStat>> {
        let mut known = self.downstream.borrow_mut();
        let find = |known: &[(Box<str>, _)], name: &str| known.binary_search_by(|(n, _)| (**n).cmp(name));
        let full = known.len() >= limits::FAULT_DOWNSTREAM_CLUSTERS;
        let name = if full && find(&known, name).is_err() { "overflow" } else { name };
        match find(&known, name) {
            Ok(at) => Arc::clone(&known[at].1),
            Err(at) => {
                let prefix = format!("http.{}.fault.{name}.", self.manager);
                let labels = [
                    ("envoy_fault_downstream_cluster", name),
                    ("envoy_http_conn_manager_prefix", &*self.manager),
                ];
                let scope = ScopeName::new(&prefix, "http.fault", &labels).sparse();
                let block = self.registry.scope(scope).block(self.shard);
                known.insert(at, (name.into(), Arc::clone(&block)));
                block
            }
        }
    }
}

/// A header that is a whole number.
fn number(head: &RequestHead, name: &[u8]) -> Option<u64> {
    std::str::from_utf8(head.fields.get_named(name)?).ok()?.trim_ascii().parse().ok()
}

/// The share that a request asks for, at most the configured one.
fn asked_share(head: &RequestHead, name: &[u8], most: Fraction) -> Fraction {
    let numerator = number(head, name).map_or(most.numerator, |n| n.min(most.numerator));
    Fraction { numerator, ..most }
}

impl Settings {
    /// Whether this request is one of those that faults are meant for.
    fn is_meant(&self, cx: &Cx<'_>) -> bool {
        let cluster = || cx.target.cluster.is_some_and(|c| *c.config().name == *self.upstream_cluster);
        let node = || {
            let node = cx.request.fields.get(HeaderId::XEnvoyDownstreamServiceNode);
            node.is_some_and(|node| self.downstream_nodes.iter().any(|n| **n == *node))
        };
        (self.upstream_cluster.is_empty() || cluster())
            && (self.downstream_nodes.is_empty() || node())
            && self.headers.iter().all(|m| m.fits(cx.request, false))
    }

    /// The delay of this request, if it gets one.
    fn delay(&self, downstream: Option<&str>, cx: &mut Cx<'_>) -> Option<Duration> {
        let (delay, share) = self.delay?;
        let share = match delay {
            Delay::Fixed(_) => share,
            Delay::Header => asked_share(cx.request, b"x-envoy-fault-delay-request-percentage", share),
        };
        if !takes(cx, downstream, &self.keys.delay_percent, "delay.fixed_delay_percent", share) {
            return None;
        }
        let millis = match delay {
            Delay::Fixed(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            Delay::Header => number(cx.request, b"x-envoy-fault-delay-request")?,
        };
        let millis = tuned(cx, downstream, &self.keys.delay_duration, "delay.fixed_duration_ms", millis);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// What this request is answered with, if it is.
    fn abort(&self, downstream: Option<&str>, cx: &mut Cx<'_>) -> Option<Answer> {
        let (abort, share) = self.abort?;
        let share = match abort {
            Abort::Status(_) | Abort::Grpc(_) => share,
            Abort::Header => asked_share(cx.request, b"x-envoy-fault-abort-request-percentage", share),
        };
        if !takes(cx, downstream, &self.keys.abort_percent, "abort.abort_percent", share) {
            return None;
        }
        let possible = |status: &u64| (u64::from(STATUS_MIN)..=u64::from(STATUS_MAX)).contains(status);
        let (status, grpc) = match abort {
            Abort::Status(status) => (Some(u64::from(status)), None),
            Abort::Grpc(status) => (None, Some(u64::from(status))),
            Abort::Header => (
                number(cx.request, b"x-envoy-fault-abort-request").filter(possible),
                number(cx.request, b"x-envoy-fault-abort-grpc-request"),
            ),
        };
        if let Some(status) = status {
            let status = tuned(cx, downstream, &self.keys.abort_status, "abort.http_status", status);
            return Some(status).filter(possible).and_then(|s| u16::try_from(s).ok()).map(Answer::Status);
        }
        grpc.map(|status| Answer::Grpc(cx.runtime.integer(&self.keys.abort_grpc_status).unwrap_or(status)))
    }
}

fn key_of(downstream: &str, rest: &str) -> String {
    format!("fault.http.{downstream}.{rest}")
}

/// Whether this request is among the share. The downstream cluster's own key stands before the general one.
fn takes(cx: &mut Cx<'_>, downstream: Option<&str>, key: &str, rest: &str, share: Fraction) -> bool {
    let share = match downstream {
        Some(name) => cx.runtime.fraction(&key_of(name, rest), share),
        None => cx.runtime.fraction(key, share),
    };
    share.takes((cx.random)())
}

/// A number as the runtime tunes it, first for all, then for the downstream cluster.
fn tuned(cx: &Cx<'_>, downstream: Option<&str>, key: &str, rest: &str, value: u64) -> u64 {
    let value = cx.runtime.integer(key).unwrap_or(value);
    downstream.and_then(|name| cx.runtime.integer(&key_of(name, rest))).unwrap_or(value)
}
