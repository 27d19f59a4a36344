//! `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`: asks another service whether a request may pass.
//!
//! The HTTP service alone is implemented: it gets the request's method and path (and its body, if wished), and
//! answers 200, or with the reply that the client gets. What gRPC services would get besides is not sent.
//!
//! ```yaml
//! name: envoy.filters.http.ext_authz
//! typed_config:
//!   "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
//!   http_service: {server_uri: {uri: http://authz, cluster: authz, timeout: 0.25s}, path_prefix: /check}
//! ```

mod config;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use selvedge_runtime::Chunk;

use super::{Body, Call, Cx, Filter, Place, Running, Verdict, Wants};
use crate::access_log::format::LogCx;
use crate::config::rejection::{At, Fault as Wrong};
use crate::config::route::Lookup;
use crate::http::h1::encode::decimal;
use crate::http::message::{Framing, HeaderId, RequestHead};
use crate::observe::flags::Flags;
use crate::side_call::{Answer, Question, SideResponse};
use crate::stats::block::Block;
use crate::stats::names::table;
use crate::stats::scope::{Registry, ScopeName};
use crate::stream::Reply;
use crate::upstream::cluster::ClusterTwin;

use config::{Path, Service};
pub use config::{ExtAuthz, OnRoute};

table! {
    /// The filter: `http.<stat_prefix>.ext_authz.`
    Stat / StatHist {
        counters [
        Denied = "denied",
        Disabled = "disabled",
        Error = "error",
        FailureModeAllowed = "failure_mode_allowed",
        FilterStateNameCollision = "filter_state_name_collision",
        IgnoredDynamicMetadata = "ignored_dynamic_metadata",
        Invalid = "invalid",
        Ok = "ok",
        OmittedResponseHeaders = "omitted_response_headers",
        RequestHeaderLimitsReached = "request_header_limits_reached",
        ResponseHeaderLimitsReached = "response_header_limits_reached",
        ShadowDenied = "shadow_denied",
        ShadowError = "shadow_error",
        ]
        gauges [
        ]
        histograms [
        ]
    }
}

/// The shard's part: blocks of the connection manager, and of the clusters that requests were meant for.
#[derive(Debug)]
pub struct Local {
    stats: Arc<Block<Stat>>,
    /// By the numbers of the clusters.
    clusters: RefCell<BTreeMap<usize, Arc<Block<Stat>>>>,
    registry: Arc<Registry>,
    shard: usize,
}

/// What the service said for the response.
#[derive(Debug, Default)]
pub struct State {
    client: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Filter for ExtAuthz {
    const TYPE: &'static str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    const ROUTE_TYPE: &'static str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
    type Route = OnRoute;
    type Local = Local;
    type Stream = State;

    fn compile(config: &Any, lookup: Lookup<'_>, at: &At<'_>) -> Result<Self, Wrong> {
        config::filter(config, lookup, at)
    }

    fn compile_route(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<OnRoute, Wrong> {
        config::on_route(config, at)
    }

    fn local(&self, place: &Place<'_>) -> Local {
        let prefix = format!("http.{}.{}", place.manager, self.stat_part());
        let manager = ("envoy_http_conn_manager_prefix", place.manager);
        let labels = [("envoy_ext_authz_prefix", &*self.stat_prefix), manager];
        let labels = if self.stat_prefix.is_empty() { &labels[1..] } else { &labels[..] };
        Local {
            stats: place.registry.scope(ScopeName::new(&prefix, "http.ext_authz", labels)).block(place.shard),
            clusters: RefCell::default(),
            registry: Arc::clone(place.registry),
            shard: place.shard,
        }
    }

    fn wants(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Wants {
        let upgrade = cx.request.fields.contains(HeaderId::Upgrade);
        let body = match one.body() {
            Some(_) if cx.ended || upgrade || !one.asks(cx) => Body::No,
            Some(body) if body.partial => Body::UpTo(body.bytes_max),
            Some(body) => Body::Full(body.bytes_max),
            None => Body::No,
        };
        Wants { body, trailers: false }
    }

    fn request_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        match cx.answer.take() {
            Some(Answer::Response(response)) if response.head.status < 500 => one.obey(*response, cx),
            Some(_) => one.failed(cx),
            None if !one.asks(cx) => Verdict::Continue,
            None if one.filter.enabled.takes(cx) => Verdict::Call(Call::Ask(Box::new(one.question(cx)))),
            None => {
                one.local.stats.inc(Stat::Disabled);
                if one.filter.deny_at_disable.is_set(cx) { one.refuse(cx) } else { Verdict::Continue }
            }
        }
    }

    fn response_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        for (name, value) in std::mem::take(&mut one.state.client) {
            cx.fields().append_named(&name, &value);
        }
        Verdict::Continue
    }
}

impl Running<'_, ExtAuthz> {
    /// Whether the service is asked at all. //= envoy: a request without a route is not asked for
    fn asks(&self, cx: &Cx<'_>) -> bool {
        cx.target.found && !self.route.is_some_and(|r| r.disabled)
    }

    fn body(&self) -> Option<&config::WithBody> {
        match self.route {
            Some(route) if route.without_body => None,
            Some(OnRoute { body: Some(body), .. }) => Some(body),
            _ => self.filter.body.as_ref(),
        }
    }

    /// Whom to ask.
    fn service(&self) -> &Service {
        self.route.and_then(|r| r.service.as_deref()).unwrap_or(&self.filter.service)
    }

    /// The request as the service sees it.
    fn question(&self, cx: &mut Cx<'_>) -> Question {
        let (filter, service) = (self.filter, self.service());
        let path = match &service.path {
            Path::Prefix(prefix) => [prefix.as_bytes(), cx.request.path()].concat(),
            Path::Fixed(path) => path.as_bytes().to_vec(),
        };
        let authority = cx.request.authority().unwrap_or_default();
        let mut head = RequestHead::new(cx.request.method(), authority, &path);
        //= envoy: what another filter has collected is sent even where this one collects nothing
        let (body, partial) = match self.route.and_then(|r| r.body.as_ref()).or(filter.body.as_ref()) {
            Some(with) => part_of(cx, with.bytes_max),
            None => (Chunk::from_static(b""), None),
        };
        head.fields.append(HeaderId::ContentLength, decimal(body.len() as u64, &mut [0; 20]));
        for (id, name, value) in cx.request.fields.iter() {
            if id == HeaderId::ContentLength || !filter.is_sent(id, name) {
                continue;
            }
            let name = name.to_ascii_lowercase();
            if filter.raw_headers {
                head.fields.append_named(&name, value);
                continue;
            }
            //= envoy: encode_raw_headers: false: what is no text becomes such
            let value = sanitised(value);
            match head.fields.get_named(&name).map(<[u8]>::to_vec) {
                None => head.fields.append_named(&name, &value),
                //= envoy: several fields of one name are one, joined with commas
                Some(first) => head.fields.set_named(&name, &[&first, &*value].join(&b","[..])),
            }
        }
        if let Some(partial) = partial {
            let text: &[u8] = if partial { b"true" } else { b"false" };
            head.fields.append_named(b"x-envoy-auth-partial-body", text);
        }
        for (name, format) in &service.headers_to_add {
            let mut value = Vec::new();
            let info = &*cx.info;
            let log = LogCx {
                info,
                request: &*cx.request,
                response: None,
                trailers: None,
                protocol: Some(cx.request.version.text()),
                local_reply_body: b"",
            };
            format.write(&log, &mut value);
            //= envoy: they stand last, whatever they replace
            head.fields.remove_named(name);
            head.fields.append_named(name, &value);
        }
        Question { cluster: Arc::clone(&service.cluster), head, body: body.into(), timeout: service.timeout }
    }

    /// 200 lets pass, anything else is the client's reply.
    fn obey(&mut self, answer: SideResponse, cx: &mut Cx<'_>) -> Verdict {
        let filter = self.filter;
        let fields = &answer.head.fields;
        if answer.head.status != 200 {
            self.count(Stat::Denied, cx);
            if let (true, Some(cluster)) = (filter.charge_cluster, cx.target.cluster) {
                cluster.stats.code(answer.head.status, true);
            }
            let mut reply = Reply::text(answer.head.status, b"", "ext_authz_denied");
            reply.flags = Flags::UNAUTHORIZED_EXTERNAL_SERVICE;
            reply.body = answer.body;
            //= envoy: max_denied_response_body_bytes
            reply.body.truncate(filter.denied_body_max);
            let shown = fields.iter().filter(|(id, name, _)| self.service().is_shown_to_client(*id, name));
            reply.headers = shown.map(|(_, n, v)| (n.to_ascii_lowercase(), v.to_vec())).collect();
            return Verdict::Reply(Box::new(reply));
        }
        self.count(Stat::Ok, cx);
        let service = self.service();
        let mut changed = false;
        for (_, name, value) in fields.iter().filter(|(_, name, _)| service.upstream.fits(name)) {
            if name.eq_ignore_ascii_case(b"host") {
                cx.request.set_authority(value);
            } else {
                cx.request.fields.remove_named(name);
                cx.request.fields.append_named(&name.to_ascii_lowercase(), value);
            }
            changed = true;
        }
        for (_, name, value) in fields.iter().filter(|(_, name, _)| service.upstream_append.fits(name)) {
            cx.request.fields.append_named(&name.to_ascii_lowercase(), value);
        }
        for list in fields.all_named(b"x-envoy-auth-headers-to-remove") {
            for name in list.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                let removable = !name.is_empty() && !name.starts_with(b":") && !name.eq_ignore_ascii_case(b"host");
                if removable {
                    cx.request.fields.remove_named(name);
                    changed = true;
                }
            }
        }
        let shown = fields.iter().filter(|(_, name, _)| service.client_on_success.fits(name));
        self.state.client = shown.map(|(_, n, v)| (n.to_ascii_lowercase(), v.to_vec())).collect();
        //= envoy: clear_route_cache, where the answer has changed the head
        if filter.clear_route_cache && changed {
            cx.reroute();
        }
        Verdict::Continue
    }

    /// No answer, or that of a service in trouble.
    fn failed(&self, cx: &mut Cx<'_>) -> Verdict {
        self.count(Stat::Error, cx);
        if !self.filter.failure_mode_allow {
            return self.refuse(cx);
        }
        self.count(Stat::FailureModeAllowed, cx);
        if self.filter.failure_mode_allow_header_add {
            cx.request.fields.append_named(b"x-envoy-auth-failure-mode-allowed", b"true");
        }
        Verdict::Continue
    }

    fn refuse(&self, _: &mut Cx<'_>) -> Verdict {
        let mut reply = Reply::text(self.filter.status_on_error, b"", "ext_authz_error");
        reply.flags = Flags::UNAUTHORIZED_EXTERNAL_SERVICE;
        Verdict::Reply(Box::new(reply))
    }

    fn count(&self, stat: Stat, cx: &Cx<'_>) {
        self.local.stats.inc(stat);
        if let Some(cluster) = cx.target.cluster {
            self.local.cluster(cluster, self.filter).inc(stat);
        }
    }
}

impl Local {
    fn cluster(&self, cluster: &ClusterTwin, filter: &ExtAuthz) -> Arc<Block<Stat>> {
        let mut known = self.clusters.borrow_mut();
        let block = known.entry(cluster.shared.number).or_insert_with(|| {
            let name = &*cluster.config().stat_name;
            let prefix = format!("cluster.{name}.{}", filter.stat_part());
            let labels = [("envoy_cluster_name", name), ("envoy_ext_authz_prefix", &*filter.stat_prefix)];
            let labels = if filter.stat_prefix.is_empty() { &labels[..1] } else { &labels[..] };
            let scope = ScopeName::new(&prefix, "cluster.ext_authz", labels).sparse();
            self.registry.scope(scope).block(self.shard)
        });
        Arc::clone(block)
    }
}

/// At most `max` bytes of what was collected, and whether there was more; `None` where there was nothing.
fn part_of(cx: &Cx<'_>, max: usize) -> (Chunk, Option<bool>) {
    let mut bytes = Vec::with_capacity(max.min(cx.body.bytes()));
    for chunk in cx.body.iter() {
        let room = max - bytes.len();
        bytes.extend_from_slice(&chunk[..room.min(chunk.len())]);
    }
    //= envoy: an empty one in chunks is a body
    let has_body = !cx.body.is_empty() || *cx.framing == Framing::Chunked;
    let partial = has_body.then(|| bytes.len() < cx.body.bytes());
    (Chunk::copy_from(&bytes), partial)
}

/// A value with `!` for each byte that is no text.
fn sanitised(value: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(value).is_ok() {
        return Cow::Borrowed(value);
    }
    let mut text = Vec::with_capacity(value.len());
    for part in value.utf8_chunks() {
        text.extend_from_slice(part.valid().as_bytes());
        text.extend(part.invalid().iter().map(|_| b'!'));
    }
    Cow::Owned(text)
}
