//! `envoy.extensions.filters.http.health_check.v3.HealthCheck`: answers the health checks of those who call this proxy.
//!
//! A request that fits all matchers is a health check: answered here, or with `pass_through_mode` by its upstream
//! unless `/healthcheck/fail` holds. Counters of responses leave health checks out. The answer comes when the request is
//! whole, or so much of it that its end is not awaited. Cached answers and minimums of healthy endpoints are refused
//! by the table of fields.
//!
//! ```yaml
//! name: envoy.filters.http.health_check
//! typed_config:
//!   "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
//!   pass_through_mode: false
//!   headers: [{name: ":path", string_match: {exact: /healthz}}]
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use envoy_types::pb::envoy::extensions::filters::http::health_check::v3 as pb;
use envoy_types::pb::google::protobuf::Any;

use super::{Body, Cx, Filter, Place, Running, Verdict, Wants};
use crate::config::matchers::header_matcher;
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values;
use crate::http::message::HeaderId;
use crate::limits;
use crate::observe::flags::Flags;
use crate::route::matchers::HeaderMatcher;
use crate::shard::ServerShared;
use crate::stats::block::Block;
use crate::stats::names::table;
use crate::stats::scope::ScopeName;
use crate::stream::Reply;

table! {
    /// The filter: `http.<stat_prefix>.health_check.`
    HealthCheckStat / HealthCheckHist {
        counters [
        CachedResponse = "cached_response",
        Degraded = "degraded",
        Failed = "failed",
        FailedClusterEmpty = "failed_cluster_empty",
        FailedClusterNotFound = "failed_cluster_not_found",
        FailedClusterUnhealthy = "failed_cluster_unhealthy",
        Ok = "ok",
        RequestTotal = "request_total",
        ]
        gauges [
        ]
        histograms [
        ]
    }
}

/// The filter.
#[derive(Debug)]
pub struct HealthCheck {
    pass_through: bool,
    /// All have to fit; where there are none, every request is a health check.
    headers: Box<[HeaderMatcher]>,
}

/// The shard's part.
#[derive(Debug)]
pub struct Local {
    stats: Arc<Block<HealthCheckStat>>,
    server: Arc<ServerShared>,
    /// This node's cluster, which its checkers want to see.
    cluster: Box<[u8]>,
}

/// What a request is to the filter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Other,
    /// A health check that its upstream answers.
    Passed,
    /// A health check that is answered here.
    Answered,
}

const MESSAGE: &str = "HealthCheck";

impl Filter for HealthCheck {
    const TYPE: &'static str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";
    type Route = ();
    type Local = Local;
    type Stream = Kind;

    fn compile(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Self, Fault> {
        let config: pb::HealthCheck = values::unpack(config, at)?;
        let Some(pass_through) = &config.pass_through_mode else {
            return Err(at.field(MESSAGE, "pass_through_mode").violates("value is required"));
        };
        let headers = config.headers.iter().enumerate();
        let headers = headers.map(|(i, one)| header_matcher(one, &at.item(MESSAGE, "headers", i)));
        Ok(HealthCheck { pass_through: pass_through.value, headers: headers.collect::<Result<_, _>>()? })
    }

    fn local(&self, place: &Place<'_>) -> Local {
        let labels = [("envoy_http_conn_manager_prefix", place.manager)];
        let prefix = format!("http.{}.health_check.", place.manager);
        Local {
            stats: place.registry.scope(ScopeName::new(&prefix, "http_health_check", &labels)).block(place.shard),
            server: Arc::clone(place.server),
            cluster: place.node.cluster.as_bytes().into(),
        }
    }

    fn wants(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Wants {
        if !one.filter.headers.iter().all(|m| m.fits(cx.request, false)) {
            return Wants::default();
        }
        cx.info.health_check = true;
        if one.filter.pass_through && !one.local.is_failing() {
            one.state = Kind::Passed;
            return Wants::default();
        }
        one.state = Kind::Answered;
        Wants { body: Body::UpTo(limits::FILTER_HOLD_BYTES), trailers: false }
    }

    fn request_head(one: &mut Running<'_, Self>, _: &mut Cx<'_>) -> Verdict {
        if one.state != Kind::Answered {
            return Verdict::Continue;
        }
        let failing = one.local.is_failing();
        let stats = &one.local.stats;
        stats.inc(HealthCheckStat::RequestTotal);
        stats.inc(if failing { HealthCheckStat::Failed } else { HealthCheckStat::Ok });
        let mut reply = match failing {
            true => Reply::text(503, b"", "health_check_failed"),
            false => Reply::text(200, b"", "health_check_ok"),
        };
        if failing {
            reply.flags = Flags::FAILED_LOCAL_HEALTH_CHECK;
        }
        Verdict::Reply(Box::new(reply))
    }

    fn response_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        if one.state != Kind::Other {
            cx.fields().set(HeaderId::XEnvoyUpstreamHealthcheckedCluster, &one.local.cluster);
        }
        //= envoy: every response tells who checks this proxy that it shall not be asked any more
        if one.local.is_failing() {
            cx.fields().set(HeaderId::XEnvoyImmediateHealthCheckFail, b"true");
        }
        Verdict::Continue
    }
}

impl Local {
    /// Whether `/healthcheck/fail` holds.
    fn is_failing(&self) -> bool {
        self.server.failing_health.load(Relaxed)
    }
}
