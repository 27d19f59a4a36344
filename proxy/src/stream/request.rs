//! The request's side of a stream: what is admitted, where it goes, how its head leaves.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use selvedge_runtime::{Chunk, Chunks, NetError, SocketAddress, Strain};

use super::account::charge_code;
use super::{Cut, Reply, Stream, Up};
use crate::access_log::format::LogCx;
use crate::http::edge::{Carrier, request_in};
use crate::http::h1::body::BodyDecoder;
use crate::http::h1::encode::{decimal, encode_request};
use crate::http::h1::head::HeadGather;
use crate::http::header_id::{IdSet, JOINED_IN_REQUEST};
use crate::http::hop_by_hop;
use crate::http::message::{Framing, HeaderId as H, Version};
use crate::http::path::{self, PathFault};
use crate::observe::flags::Flags;
use crate::observe::info::UpstreamInfo;
use crate::overload::Effect;
use crate::route::pick::{self, Miss, PickInput, Picked};
use crate::route::rewrite::{self, Chosen};
use crate::route::table::{Action, Forward, HostRewrite, Mutations, PathRewrite, Target, WeightedEntry};
use crate::stats::names::{Cluster as ClusterStat, Http};
use crate::upstream::cluster::{ClusterTwin, Host};
use crate::upstream::endpoint::EndpointStat;
use crate::upstream::pool::{PoolError, UpstreamConn};

impl<'c> Stream<'c> {
    /// Whether this request is refused for want of resources. //= envoy: stop_accepting_requests
    pub(super) fn is_shed(&self) -> bool {
        let (cx, twin) = (&self.conn.cx, &self.conn.twin);
        let short = cx.rt.budget().strain() == Strain::Short;
        let shed = short || twin.share(cx, Effect::StopRequests).takes(|| cx.rt.random());
        if shed {
            twin.http.inc(Http::DownstreamRqOverloadClose);
            let sheds = &cx.rt.counters().sheds;
            sheds.set(sheds.get() + u64::from(short));
        }
        shed
    }

    /// What the connection manager does to every request before anything looks at it.
    pub(super) fn admit(&mut self) -> Result<(), Reply> {
        let conn = self.conn;
        let twin = &conn.twin;
        self.request.fields.join_repeated(JOINED_IN_REQUEST);
        if self.request.authority().is_none() {
            if self.request.version == Version::H10 && !twin.hcm.http1.default_host.is_empty() {
                self.request.set_authority(&twin.hcm.http1.default_host);
            } else {
                self.fate = super::Fate::CloseDelayed;
                return Err(Reply::text(400, b"", "missing_host_header"));
            }
        }
        self.check_request()?;
        if self.upgrade {
            // The body of an upgrade is what follows the head, for ever.
            self.body = BodyDecoder::new(Framing::UntilClose);
            self.request_framing = Framing::UntilClose;
        }
        hop_by_hop::strip_request(&mut self.request.fields, self.upgrade);
        let random = [conn.cx.rt.random(), conn.cx.rt.random()];
        let peer = conn.peer.as_ref().and_then(SocketAddress::ip);
        let carrier = Carrier { peer, host_address: &conn.cx.process.host_address, random };
        self.origin = request_in(&mut self.request, &twin.hcm.edge, &carrier);
        if let Some(ip) = self.origin.remote
            && Some(ip) != peer
        {
            self.info.remote = Some(std::net::SocketAddr::new(ip, 0).into());
        }
        Ok(())
    }

    /// What no request may be, wherever it goes.
    //= envoy: observed on 1.40.0
    fn check_request(&mut self) -> Result<(), Reply> {
        let http = &self.conn.twin.http;
        if self.request.is_method(b"CONNECT") {
            return Ok(());
        }
        let details = match path::fault(self.request.path()) {
            Some(PathFault::NotAbsolute) => {
                http.inc(Http::DownstreamRqNonRelativePath);
                return Err(Reply::text(404, b"", "absolute_path_rejected"));
            }
            Some(PathFault::Fragment) => {
                http.inc(Http::DownstreamRqFailedPathNormalization);
                "path_normalization_failed"
            }
            None if self.request.is_method(b"QUERY")
                && self.request.fields.get(H::ContentType).is_none_or(<[u8]>::is_empty) =>
            {
                "query_missing_content_type"
            }
            None => return Ok(()),
        };
        self.fate = super::Fate::CloseDelayed;
        Err(Reply::text(400, b"", details))
    }

    /// Whether this request may switch protocols: as the route says, else as the listener does.
    fn upgrade_allowed(&self, picked: Option<Picked<'_>>) -> bool {
        let Some(protocol) = self.request.fields.get(H::Upgrade) else { return false };
        let own = match picked.map(|p| &p.route.action) {
            Some(Action::Forward(forward)) => &forward.upgrades[..],
            _ => &[],
        };
        let mut lists = own.iter().chain(&self.conn.twin.hcm.upgrades);
        lists.find(|u| u.protocol.eq_ignore_ascii_case(protocol)).is_some_and(|u| u.enabled)
    }

    /// Refuses an upgrade that nothing allows.
    pub(super) fn admit_upgrade(&mut self, picked: Option<Picked<'_>>) -> Result<(), Reply> {
        let http = &self.conn.twin.http;
        if self.upgrade_allowed(picked) {
            self.info.upgraded = true;
            http.inc(Http::DownstreamCxUpgradesTotal);
            http.inc(Http::DownstreamCxUpgradesActive);
            return Ok(());
        }
        http.inc(Http::DownstreamRqWsOnNonWsRoute);
        if let Some(Action::Forward(forward)) = picked.map(|p| &p.route.action)
            && let Target::Cluster { name, .. } = &forward.target
        {
            self.info.cluster = Some(Arc::clone(name));
        }
        self.fate = super::Fate::CloseDelayed;
        Err(Reply::text(403, b"", "upgrade_failed"))
    }

    /// The route of this request.
    pub(super) fn pick_route(&mut self) -> Result<Picked<'c>, Miss> {
        if self.request.is_method(b"CONNECT") {
            return Err(Miss::Route);
        }
        self.conn.cx.rt.pass("route");
        let input = PickInput { random: self.random, https: false, internal: self.origin.internal };
        let picked = pick::pick(self.epoch.routes(self.conn.twin.at), &self.request, input)?;
        self.info.route_name = Some(Arc::clone(&picked.route.name));
        Ok(picked)
    }

    /// The reply where there is no route.
    pub(super) fn missed(&mut self, miss: Miss) -> Reply {
        if miss == Miss::TlsRequired {
            let mut reply = Reply::text(301, b"", "tls_required");
            let mut location = Vec::new();
            rewrite::tls_location(&self.request, &mut location);
            reply.location = Some(location);
            return reply;
        }
        let http = &self.conn.twin.http;
        http.inc(Http::RqTotal);
        http.inc(Http::NoRoute);
        self.info.flags.add(Flags::NO_ROUTE_FOUND);
        Reply::text(404, b"", "route_not_found")
    }

    /// The cluster and the endpoint, or the reply where there is none.
    pub(super) fn choose(
        &mut self,
        forward: &'c Forward,
        picked: Picked<'c>,
    ) -> Result<(Rc<ClusterTwin>, Rc<Host>), Reply> {
        let conn = self.conn;
        //= envoy: usingNewTimeouts
        self.route_timeout = forward.timeout.filter(|_| forward.max_stream_duration.is_none());
        self.asked_timeouts();
        if self.request_done
            && let Some(timeout) = self.route_timeout
        {
            self.route_deadline = conn.cx.rt.now() + timeout;
        }
        let (chosen, entry) = forward.choose(&self.request, self.random);
        let found = self.find_cluster(chosen);
        self.info.cluster = found.map(|cluster| Arc::clone(&cluster.config().observability_name));
        let Some(cluster) = found.map(Rc::clone) else {
            conn.twin.http.inc(Http::NoCluster);
            self.info.flags.add(Flags::NO_CLUSTER_FOUND);
            return Err(Reply::text(forward.cluster_not_found_status, b"", "cluster_not_found"));
        };
        let Some(host) = cluster.pick() else {
            cluster.stats.inc(ClusterStat::UpstreamCxNoneHealthy);
            charge_code(&self.info, self.origin.internal, &cluster, 503);
            self.info.flags.add(Flags::NO_HEALTHY_UPSTREAM);
            return Err(Reply::text(503, b"no healthy upstream", "no_healthy_upstream"));
        };
        self.entry = entry;
        self.edit_request(forward, picked, entry, &host);
        let address = host.shared.address.clone();
        self.info.upstream = Some(UpstreamInfo { address, connected: false, local: None, connection_id: 0 });
        Ok((cluster, host))
    }

    /// The route's limits of the stream, from here on. //= envoy: ActiveStream::decodeHeaders: filters' time counts
    pub(super) fn limit_by_route(&mut self) {
        let Some(Action::Forward(forward)) = self.picked.map(|p| &p.route.action) else { return };
        if let Some(most) = forward.max_stream_duration {
            let begun = self.info.stamps.head;
            self.duration_deadline =
                most.filter(|t| !t.is_zero()).map_or(selvedge_runtime::Instant::FAR, |t| begun + t);
        }
        if let Some(timeout) = forward.idle_timeout {
            let now = self.conn.cx.rt.now();
            self.idle_timeout = timeout.filter(|t| !t.is_zero());
            self.idle_deadline = self.idle_timeout.map_or(selvedge_runtime::Instant::FAR, |t| now + t);
        }
    }

    /// Time limits that an internal caller asks for. //= envoy: FilterUtility::finalTimeout
    fn asked_timeouts(&mut self) {
        let fields = &mut self.request.fields;
        let millis = |value: &[u8]| {
            let millis = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
            Some(std::time::Duration::from_millis(millis))
        };
        if fields.contains_any(ASKED_TIMEOUTS) {
            if let Some(timeout) = fields.get(H::XEnvoyUpstreamRqTimeoutMs).and_then(millis) {
                self.route_timeout = Some(timeout);
            }
            self.try_timeout = fields.get(H::XEnvoyUpstreamRqPerTryTimeoutMs).and_then(millis);
            if fields.contains(H::XEnvoyUpstreamRqTimeoutAltResponse) {
                self.timeout_status = 204;
            }
            fields.remove_ids(ASKED_TIMEOUTS);
        }
        self.route_timeout = self.route_timeout.filter(|t| !t.is_zero());
        let whole = self.route_timeout;
        self.try_timeout = self.try_timeout.filter(|t| !t.is_zero() && whole.is_none_or(|whole| *t < whole));
    }

    /// The cluster that a route names.
    pub(super) fn find_cluster(&self, chosen: Chosen<'_>) -> Option<&'c Rc<ClusterTwin>> {
        match chosen {
            Chosen::Known(id) => self.epoch.clusters.get(id),
            Chosen::Unknown(_) | Chosen::Named(None) => None,
            Chosen::Named(Some(name)) => self.epoch.find(name),
        }
    }

    /// What the route does to the head.
    //= envoy: RouteEntryImplBase::finalizeRequestHeaders
    fn edit_request(
        &mut self,
        forward: &Forward,
        picked: Picked<'c>,
        entry: Option<&WeightedEntry>,
        host: &Host,
    ) {
        if !self.conn.twin.hcm.router.suppress_envoy_headers
            && let Some(timeout) = self.try_timeout.or(self.route_timeout)
        {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            self.request.fields.set(H::XEnvoyExpectedRqTimeoutMs, decimal(millis, &mut [0; 20]));
        }
        if let Some(entry) = entry {
            self.add_and_remove(&entry.mutations);
            //= envoy: the entry's host replaces the client's, and nothing tells so
            if let Some(host) = &entry.host_rewrite {
                self.request.set_authority(host);
            }
        }
        for level in picked.levels() {
            self.add_and_remove(level);
        }
        self.rewrite_host(forward, &host.shared.hostname);
        self.rewrite_path(forward, picked);
    }

    fn add_and_remove(&mut self, level: &Mutations) {
        if level.request.is_empty() {
            return;
        }
        let (info, protocol) = (&self.info, Some(self.request.version.text()));
        level.request.apply(
            &mut self.request,
            JOINED_IN_REQUEST,
            |head| &mut head.fields,
            |format, request, out| {
                let cx =
                    LogCx { info, request, response: None, trailers: None, protocol, local_reply_body: b"" };
                format.write(&cx, out);
            },
        );
    }

    fn rewrite_host(&mut self, forward: &Forward, hostname: &str) {
        let mut space = Vec::new();
        let name = match forward.host {
            HostRewrite::Keep => return,
            HostRewrite::Auto => Some(hostname.as_bytes()).filter(|n| !n.is_empty()),
            _ => forward.rewrite_host(&self.request, &mut space),
        };
        let Some(name) = name.map(<[u8]>::to_vec) else { return };
        if let Some(old) = self.request.authority().map(<[u8]>::to_vec) {
            let fields = &mut self.request.fields;
            fields.set(H::XEnvoyOriginalHost, &old);
            if forward.append_x_forwarded_host {
                fields.join_or_append(b"x-forwarded-host", &old, JOINED_IN_REQUEST, b",");
            }
        }
        self.request.set_authority(&name);
    }

    fn rewrite_path(&mut self, forward: &Forward, picked: Picked<'c>) {
        if matches!(forward.path, PathRewrite::Keep) {
            return;
        }
        let mut path = Vec::with_capacity(self.request.path().len() + 32);
        if forward.rewrite_path(&picked.route.matcher.path, self.request.path(), &mut path) {
            self.set_path(&path);
        }
    }

    /// Gives the request a new path, and tells the old one.
    pub(super) fn set_path(&mut self, path: &[u8]) {
        if !self.conn.twin.hcm.router.suppress_envoy_headers {
            let old = self.request.path().to_vec();
            self.request.fields.set(H::XEnvoyOriginalPath, &old);
        }
        self.request.set_path(path);
    }

    /// A connection is there: the head goes out, with what of the body has come.
    pub(super) fn send_head(&mut self, conn: UpstreamConn, cluster: Rc<ClusterTwin>) -> Result<(), Cut> {
        let rt = &self.conn.cx.rt;
        self.info.stamps.connected = Some(rt.now());
        self.info.attempts = 1;
        if let Some(info) = &mut self.info.upstream {
            info.connected = true;
            info.local.clone_from(&conn.local);
            info.connection_id = conn.id;
        }
        if self.request_framing == Framing::None
            && !BODILESS.contains(&self.request.method())
            && !self.request.fields.contains(H::ContentLength)
        {
            self.request.fields.append(H::ContentLength, b"0");
        }
        let mut block = rt.block(self.request.fields.byte_size() + self.request.path().len() + 256);
        rt.pass("request encoding");
        encode_request(&self.request, self.request_framing, self.upgrade, &mut block);
        let mut out = Chunks::from(block.freeze());
        let early = std::mem::take(&mut self.to_up);
        let mut late = Chunks::new();
        if self.upgrade {
            late = early;
        } else {
            out.append(early);
        }
        self.to_up = out;
        self.up = Some(Up {
            conn,
            cluster,
            busy: false,
            gather: HeadGather::default(),
            body: None,
            keep_alive: false,
        });
        // Body bytes that came with the head leave with it, in one send.
        if !self.request_done
            && !self.upgrade
            && let std::task::Poll::Ready(Some(chunk)) = self.conn.poll_bytes()
        {
            self.on_down_bytes(chunk)?;
        }
        self.flush_up();
        // What follows an upgrade waits until the upstream agrees.
        self.to_up.append(late);
        if self.request_done {
            self.begin_try();
        }
        Ok(())
    }

    /// No connection could be had: Envoy's answer, flags and details.
    //= envoy: observed on 1.40.0
    pub(super) fn pool_failed(&mut self, cluster: &Rc<ClusterTwin>, host: &Rc<Host>, error: PoolError) {
        let (reason, flag) = match error {
            PoolError::PendingOverflow | PoolError::RequestOverflow => ("overflow", Flags::UPSTREAM_OVERFLOW),
            PoolError::ConnectFailed(_) => ("remote connection failure", Flags::UPSTREAM_CONNECTION_FAILURE),
            PoolError::ConnectTimeout => ("connection timeout", Flags::UPSTREAM_CONNECTION_FAILURE),
            PoolError::Failed => ("local connection failure", Flags::UPSTREAM_CONNECTION_FAILURE),
        };
        if error == PoolError::PendingOverflow {
            self.info.upstream = None;
        } else {
            host.inc(EndpointStat::RqError);
        }
        self.info.attempts = 1;
        if let PoolError::ConnectFailed(cause) = error {
            let to = &host.shared.address;
            let told = match fails_at_once(to, cause) {
                true => format!("immediate connect error: {cause}|remote address:{to}"),
                false => format!("delayed connect error: {cause}"),
            };
            self.info.failure = Some(Cow::Owned(told.replace(' ', "_")));
        }
        charge_code(&self.info, self.origin.internal, cluster, 503);
        self.info.flags.add(flag);
        let overloaded = flag == Flags::UPSTREAM_OVERFLOW;
        self.reset_before_response(503, reason, overloaded);
    }

    /// `Expect: 100-continue` is answered at once, unless the upstream is to answer it. //= rfc9110#10.1.1
    pub(super) fn send_continue(&mut self) {
        if !self.expects_continue || self.conn.twin.hcm.proxy_100_continue {
            return;
        }
        self.request.fields.remove(H::Expect);
        self.conn.twin.http.inc(Http::DownstreamRq1xx);
        self.conn.twin.http.inc(Http::DownstreamRqCompleted);
        //= envoy: logged where nothing else follows
        self.info.status = Some(100);
        self.to_down.push(match self.request.version {
            Version::H11 => Chunk::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"),
            //= envoy: 1.0 is told as well
            Version::H10 => Chunk::from_static(b"HTTP/1.0 100 Continue\r\n\r\n"),
        });
        self.flush_down();
    }
}

/// Whether the kernel refuses such a connection before it has asked the peer: the log tells the two apart.
fn fails_at_once(to: &SocketAddress, error: NetError) -> bool {
    let asked =
        matches!(error, NetError::Refused | NetError::TimedOut | NetError::Reset | NetError::Unreachable);
    !asked || matches!(to, SocketAddress::Unix(_))
}

/// Methods whose requests need not say that they have no body. //= envoy: requestShouldHaveNoBody
const BODILESS: [&[u8]; 5] = [b"GET", b"HEAD", b"DELETE", b"TRACE", b"CONNECT"];

const ASKED_TIMEOUTS: IdSet = IdSet::of(&[
    H::XEnvoyUpstreamRqTimeoutMs,
    H::XEnvoyUpstreamRqPerTryTimeoutMs,
    H::XEnvoyUpstreamRqTimeoutAltResponse,
]);
