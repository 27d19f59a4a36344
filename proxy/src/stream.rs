//! THE STRAIGHT LINE: one request from head to last byte.
//!
//! ```text
//! admit -> route -> filters -> (reply | redirect | forward: pick -> connection -> send) -> response -> filters -> finish
//! ```
//! Both directions are driven by one loop: it waits for the next event and handles it without waiting.
//! Every exit accounts once, in `finish`; a stream that is dropped where it waits accounts there too.
//! It reads no configuration but its listener's twin and the epoch that it began with, and picks no endpoint itself.

mod account;
mod filters;
mod reply;
mod request;
mod response;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use selvedge_runtime::{Chunk, Chunks, Instant, NetError, RecvClass, Strain};

use crate::downstream::Conn;
use crate::filters::Dir;
use crate::http::edge::Origin;
use crate::http::h1::body::{BodyDecoder, BodyError, BodyEvent};
use crate::http::h1::head::{HeadError, HeadGather};
use crate::http::h1::request::DecodedRequest;
use crate::http::message::{Framing, RequestHead, ResponseHead};
use crate::observe::flags::Flags;
use crate::observe::info::StreamInfo;
use crate::overload::Effect;
use crate::route::pick::Picked;
use crate::route::table::{Action, Forward, WeightedEntry};
use crate::shard::EpochTwin;
use crate::side_call::Answer;
use crate::stats::names::{Cluster as ClusterStat, Http, Http1};
use crate::upstream::breaker::Limit;
use crate::upstream::cluster::{ClusterTwin, Host};
use crate::upstream::endpoint::EndpointStat;
use crate::upstream::pool::{self, PoolError, UpstreamConn};

pub use reply::Reply;

use filters::Filters;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    KeepAlive,
    Close,
    /// Close once the client had time to read.
    CloseDelayed,
}

/// Why a stream ended before its response did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The client went away.
    Downstream,
    /// The response broke off after its head had gone out.
    Upstream(&'static str),
    /// A filter ended the stream.
    Filter(&'static str),
    /// A bug of ours did.
    Panic,
}

/// One exchange.
struct Stream<'c> {
    conn: &'c Conn,
    /// What it began with, to its end.
    epoch: &'c EpochTwin,
    info: StreamInfo,
    origin: Origin,
    request: RequestHead,
    response: Option<ResponseHead>,
    /// The client's body, as it comes.
    body: BodyDecoder,
    request_framing: Framing,
    keep_alive: bool,
    upgrade: bool,
    expects_continue: bool,
    request_done: bool,
    /// Both sides are configured to.
    passes_trailers: bool,
    /// Something has happened since the head was read.
    waited: bool,
    /// Interim responses that have come.
    interims: u32,
    /// On its way upstream, beyond what the kernel is sending.
    to_up: Chunks,
    up: Option<Up>,
    /// On its way to the client.
    to_down: Chunks,
    down_busy: bool,
    down_framing: Framing,
    response_done: bool,
    response_trailers: Option<crate::http::message::Trailers>,
    /// Bytes pass both ways without a look.
    tunnel: bool,
    route_timeout: Option<Duration>,
    route_deadline: Instant,
    try_timeout: Option<Duration>,
    try_deadline: Instant,
    idle_timeout: Option<Duration>,
    idle_deadline: Instant,
    /// Of the whole request, and of the whole stream.
    request_deadline: Instant,
    duration_deadline: Instant,
    /// One number for all choices of the route.
    random: u64,
    picked: Option<Picked<'c>>,
    /// Of a weighted route: where the request went.
    entry: Option<&'c WeightedEntry>,
    /// Status of the reply when the upstream takes too long.
    timeout_status: u16,
    /// `None`: no filter stands before the router.
    filters: Option<Box<Filters<'c>>>,
    /// A filter broke off a reply of ours.
    broken: Option<Cut>,
    fate: Fate,
    finished: bool,
}

/// The upstream side of a stream, once it has a connection.
struct Up {
    conn: UpstreamConn,
    cluster: Rc<ClusterTwin>,
    busy: bool,
    gather: HeadGather,
    body: Option<BodyDecoder>,
    keep_alive: bool,
}

/// What a request holds of its cluster while it is there: a place under the breaker, and the gauges.
pub(crate) struct Held {
    cluster: Rc<ClusterTwin>,
    host: Rc<Host>,
    priority: usize,
}

impl Held {
    pub(crate) fn new(cluster: &Rc<ClusterTwin>, host: &Rc<Host>, priority: usize) -> Held {
        cluster.stats.inc(ClusterStat::UpstreamRqTotal);
        cluster.stats.inc(ClusterStat::UpstreamRqActive);
        cluster.enter(priority, Limit::Requests);
        host.active.set(host.active.get() + 1);
        host.inc(EndpointStat::RqTotal);
        host.inc(EndpointStat::RqActive);
        Held { cluster: Rc::clone(cluster), host: Rc::clone(host), priority }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.cluster.stats.dec(ClusterStat::UpstreamRqActive);
        self.cluster.leave(self.priority, Limit::Requests);
        self.host.active.set(self.host.active.get() - 1);
        self.host.dec(EndpointStat::RqActive);
    }
}

enum Event {
    /// From upstream: bytes, its end, or an error.
    Up(Result<Option<Chunk>, NetError>),
    UpSent(Result<(), NetError>),
    /// From the client.
    Down(Chunk),
    DownSent(Result<(), NetError>),
    Gone,
    Deadline,
    /// For a filter of that way.
    Answer(Dir, Answer),
}

/// Runs one request.
pub(crate) async fn run(conn: &Conn, request: DecodedRequest) -> Fate {
    conn.busy.set(true);
    conn.requests.set(conn.requests.get() + 1);
    let epoch = conn.cx.epoch();
    let mut stream = Stream::new(conn, &epoch, request);
    let cut = stream.serve().await;
    let fate = stream.finish(cut);
    conn.busy.set(cut == Some(Cut::Downstream));
    if matches!(cut, Some(Cut::Upstream(_))) {
        stream.flush_rest().await;
    }
    fate
}

/// Answers a head that could not be read, and came in so many bytes.
pub(crate) async fn refuse(conn: &Conn, error: HeadError, wire: usize) {
    let (status, body, details) = error.answer();
    conn.twin.http.inc(Http::DownstreamCxProtocolError);
    if error == HeadError::Underscore {
        conn.twin.http1.inc(Http1::RequestsRejectedWithUnderscoresInHeaders);
    }
    let mut reply = Reply::text(status, body.as_bytes(), details);
    reply.flags = Flags::DOWNSTREAM_PROTOCOL_ERROR;
    Stream::unread(conn, &conn.cx.epoch(), wire).answer(reply).await;
}

/// Refuses a head that there is no room for; so many bytes of it have come.
pub(crate) async fn shed(conn: &Conn, wire: usize) {
    conn.twin.http.inc(Http::DownstreamRqOverloadClose);
    let sheds = &conn.cx.rt.counters().sheds;
    sheds.set(sheds.get() + 1);
    let epoch = conn.cx.epoch();
    Stream::unread(conn, &epoch, wire).answer(Reply::text(503, b"envoy overloaded", "overload")).await;
}

/// Answers a head that began then and did not come in time.
pub(crate) async fn head_timeout(conn: &Conn, begun: Instant, wire: usize) {
    let hcm = &conn.twin.hcm;
    let epoch = conn.cx.epoch();
    let mut stream = Stream::unread(conn, &epoch, wire);
    if hcm.request_headers_timeout.is_some_and(|max| begun + max <= conn.cx.rt.now()) {
        conn.twin.http.inc(Http::DownstreamRqHeaderTimeout);
        stream.reply(Reply::text(408, b"request header timeout", "request_header_timeout"));
    } else {
        stream.idle_timeout = None;
        stream.idle_deadline = conn.stream_idle_end(begun);
        stream.timed_out(None);
    }
    let cut = stream.pump().await;
    stream.finish(cut);
}

/// Accounts a request whose client went away in the middle of its head.
pub(crate) fn abandoned(conn: &Conn, wire: usize) {
    Stream::unread(conn, &conn.cx.epoch(), wire).finish(Some(Cut::Downstream));
    conn.busy.set(true);
}

impl<'c> Stream<'c> {
    fn new(conn: &'c Conn, epoch: &'c EpochTwin, request: DecodedRequest) -> Stream<'c> {
        let rt = &conn.cx.rt;
        let head_at = rt.now_fine();
        let begun = conn.head_begun.take().unwrap_or(head_at);
        let mut info = StreamInfo::new(begun, rt.wall_at(begun));
        info.stamps.head = head_at;
        info.stamps.accepted = Some(conn.begun);
        info.connection_id = conn.id;
        info.downstream_wire_received = request.head.wire_bytes() as u64;
        info.local.clone_from(&conn.local);
        info.direct_remote.clone_from(&conn.peer);
        info.remote.clone_from(&conn.peer);
        let hcm = &conn.twin.hcm;
        let after = |from: Instant, d: Option<Duration>| d.map_or(Instant::FAR, |d| from + d);
        let mut body = BodyDecoder::new(request.framing);
        if hcm.http1.enable_trailers {
            body.bound_trailers(conn.twin.limits.bytes_max, conn.twin.limits.fields_max);
        }
        conn.twin.http.inc(Http::DownstreamRqTotal);
        conn.twin.http.inc(Http::DownstreamRqHttp1Total);
        conn.twin.http.inc(Http::DownstreamRqActive);
        Stream {
            conn,
            epoch,
            info,
            origin: Origin { remote: None, internal: false, edge: false },
            request: request.head,
            response: None,
            body,
            request_framing: request.framing,
            keep_alive: request.keep_alive,
            upgrade: request.upgrade,
            expects_continue: request.expect_continue,
            request_done: false,
            passes_trailers: false,
            waited: false,
            interims: 0,
            to_up: Chunks::new(),
            up: None,
            to_down: Chunks::new(),
            down_busy: false,
            down_framing: Framing::None,
            response_done: false,
            response_trailers: None,
            tunnel: false,
            route_timeout: None,
            route_deadline: Instant::FAR,
            try_timeout: None,
            try_deadline: Instant::FAR,
            idle_timeout: hcm.stream_idle_timeout,
            idle_deadline: after(rt.now(), hcm.stream_idle_timeout),
            request_deadline: after(begun, hcm.request_timeout),
            duration_deadline: after(begun, hcm.max_stream_duration),
            random: 0,
            picked: None,
            entry: None,
            timeout_status: 504,
            filters: None,
            broken: None,
            fate: Fate::KeepAlive,
            finished: false,
        }
    }

    /// Stands for a request whose head could not be read.
    fn unread(conn: &'c Conn, epoch: &'c EpochTwin, wire: usize) -> Stream<'c> {
        let head = RequestHead::unread();
        let none = DecodedRequest {
            head,
            framing: Framing::None,
            keep_alive: false,
            expect_continue: false,
            upgrade: false,
            dropped: 0,
        };
        let mut stream = Stream::new(conn, epoch, none);
        stream.fate = Fate::CloseDelayed;
        stream.info.downstream_wire_received = wire as u64;
        stream
    }

    /// Sends a reply of our own, and accounts.
    async fn answer(&mut self, reply: Reply) {
        self.reply(reply);
        let cut = self.pump().await;
        self.finish(cut);
    }

    /// From the head to the last byte. `Some`: it broke off.
    async fn serve(&mut self) -> Option<Cut> {
        self.note_whole();
        //= envoy: before anything looks at it, and past every filter
        if self.is_shed() {
            self.reply(Reply::text(503, b"envoy overloaded", "overload"));
            return self.pump().await;
        }
        self.send_continue();
        if let Err(reply) = self.admit() {
            self.reply(reply);
            return self.pump().await;
        }
        self.random = self.conn.cx.rt.random();
        let mut picked = self.pick_route();
        self.info.stamps.routed = Some(self.conn.cx.rt.now());
        if self.upgrade
            && let Err(reply) = self.admit_upgrade(picked.ok())
        {
            self.reply(reply);
            return self.pump().await;
        }
        self.picked = picked.ok();
        self.limit_by_route();
        if !self.conn.twin.filters.is_empty() {
            if let Err(ended) = self.pass_filters().await {
                return ended;
            }
            // A filter may have chosen anew.
            picked = self.picked.map_or(picked, Ok);
        }
        match picked {
            Err(miss) => {
                let reply = self.missed(miss);
                self.reply(reply);
            }
            Ok(picked) => {
                let http = &self.conn.twin.http;
                http.inc(Http::RqTotal);
                match &picked.route.action {
                    Action::Direct(direct) => {
                        http.inc(Http::RqDirectResponse);
                        self.reply(Reply::direct(direct, &self.request));
                    }
                    Action::Redirect(redirect) => {
                        http.inc(Http::RqDirectResponse);
                        self.redirect(redirect, picked);
                    }
                    Action::Forward(forward) => return self.forward(forward, picked).await,
                }
            }
        }
        self.pump().await
    }

    /// Sends the request to an endpoint of its cluster and the response back.
    async fn forward(&mut self, forward: &'c Forward, picked: Picked<'c>) -> Option<Cut> {
        let (cluster, host) = match self.choose(forward, picked) {
            Ok(chosen) => chosen,
            Err(reply) => {
                self.reply(reply);
                return self.pump().await;
            }
        };
        let downstream = self.conn.twin.hcm.http1.enable_trailers;
        self.passes_trailers = downstream && cluster.config().h1.enable_trailers;
        let priority = forward.priority as usize;
        let taken = match pool::try_take(&host, priority) {
            Some(conn) => Ok(conn),
            None => match self.wait_for_connection(&cluster, &host, priority).await {
                Ok(taken) => taken,
                Err(cut) => return cut,
            },
        };
        let conn = match taken.and_then(pool::admit) {
            Ok(conn) => conn,
            Err(error) => {
                self.pool_failed(&cluster, &host, error);
                return self.pump().await;
            }
        };
        let held = Held::new(&cluster, &host, priority);
        let cut = match self.send_head(conn, cluster) {
            Ok(()) => self.pump().await,
            Err(cut) => Some(cut),
        };
        drop(held);
        cut
    }

    /// Waits for a connection, for the client's patience, and for the deadlines. `Err`: the stream has ended, and how.
    async fn wait_for_connection(
        &mut self,
        cluster: &Rc<ClusterTwin>,
        host: &Rc<Host>,
        priority: usize,
    ) -> Result<Result<UpstreamConn, PoolError>, Option<Cut>> {
        let conn = self.conn;
        {
            let mut take = pin!(pool::take(&conn.cx.rt, cluster, host, priority));
            while !self.answered() {
                let event = poll_fn(|context| match take.as_mut().poll(context) {
                    Poll::Ready(taken) => Poll::Ready(Ok(taken)),
                    Poll::Pending => self.poll_client(context).map(Err),
                });
                match event.await {
                    Ok(taken) => {
                        self.waited = true;
                        return Ok(taken);
                    }
                    Err(Event::Deadline) => match self.slept() {
                        Some(dir) => self.on_answer(dir, Answer::Slept).map_err(Some)?,
                        None => self.timed_out(Some(cluster)).map_or(Ok(()), |cut| Err(Some(cut)))?,
                    },
                    // What comes meanwhile leaves with the head.
                    Err(event) => self.handle(event).map_err(Some)?,
                }
            }
        }
        Err(self.pump().await)
    }

    fn deadline(&self) -> Instant {
        let request = if self.request_done { Instant::FAR } else { self.request_deadline };
        let pause = self.filters.as_ref().map_or(Instant::FAR, |f| f.deadline());
        let upstream = self.route_deadline.min(self.try_deadline).min(pause);
        upstream.min(self.idle_end()).min(request).min(self.duration_deadline)
    }

    /// When the stream has been idle for too long; pressure may move it.
    fn idle_end(&self) -> Instant {
        let floor = self.conn.twin.timers.stream_idle;
        match self.idle_timeout {
            Some(idle) if floor.is_some() => {
                self.idle_deadline - self.conn.sooner(Effect::StreamIdle, floor, idle)
            }
            _ => self.idle_deadline,
        }
    }

    /// Drives both directions until the exchange is over. `Some`: it broke off.
    async fn pump(&mut self) -> Option<Cut> {
        self.flush_down();
        while !self.is_over() {
            if let Some(cut) = self.broken.take() {
                return Some(cut);
            }
            let event = poll_fn(|context| self.poll_event(context)).await;
            if let Err(cut) = self.handle(event) {
                return Some(cut);
            }
        }
        None
    }

    fn is_over(&self) -> bool {
        self.response_done && self.to_down.is_empty() && !self.down_busy
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let conn = self.conn;
        let wants_response = self.wants_response();
        if let Some(up) = &mut self.up {
            if wants_response && let Poll::Ready(result) = up.conn.socket.poll_recv() {
                return Poll::Ready(Event::Up(result));
            }
            // Where buffers are in demand, the client is read again when the upstream has taken what it was sent.
            let waits = !self.to_up.is_empty() || conn.cx.rt.budget().strain() != Strain::None;
            if up.busy
                && waits
                && let Poll::Ready(result) = up.conn.socket.poll_sent()
            {
                return Poll::Ready(Event::UpSent(result));
            }
        }
        if self.down_busy
            && let Poll::Ready(result) = conn.socket.poll_sent()
        {
            return Poll::Ready(Event::DownSent(result));
        }
        self.poll_client(context)
    }

    /// What the client does, what filters learn, or the time.
    fn poll_client(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let conn = self.conn;
        if let Some(filters) = &mut self.filters
            && let Poll::Ready((dir, answer)) = filters.poll_answer(context)
        {
            return Poll::Ready(Event::Answer(dir, answer));
        }
        if self.wants_request() {
            if let Poll::Ready(bytes) = conn.poll_bytes() {
                return Poll::Ready(bytes.map_or(Event::Gone, Event::Down));
            }
        } else if !self.is_backed_up() && conn.poll_gone().is_ready() {
            return Poll::Ready(Event::Gone);
        }
        let mut sleep = conn.sleep.borrow_mut();
        sleep.reset(self.deadline());
        sleep.poll_due().map(|()| Event::Deadline)
    }

    fn handle(&mut self, event: Event) -> Result<(), Cut> {
        self.waited = true;
        if let Some(timeout) = self.idle_timeout
            && !matches!(event, Event::Deadline)
        {
            self.idle_deadline = self.conn.cx.rt.now() + timeout;
        }
        match event {
            Event::Up(Ok(Some(chunk))) => self.on_up_bytes(chunk),
            Event::Up(end) => self.on_up_end(end.err()),
            Event::UpSent(result) => {
                if let Some(up) = &mut self.up {
                    up.busy = false;
                }
                match result {
                    Ok(()) => self.flush_up(),
                    // The receive side tells why; what it still has to say comes first.
                    Err(_) => self.to_up = Chunks::new(),
                }
                Ok(())
            }
            Event::Down(chunk) => {
                let taken = self.on_down_bytes(chunk);
                self.flush_up();
                taken
            }
            Event::Answer(dir, answer) => {
                let driven = self.on_answer(dir, answer);
                self.flush_up();
                driven
            }
            Event::DownSent(result) => {
                self.down_busy = false;
                result.map_err(|_| Cut::Downstream)?;
                self.flush_down();
                Ok(())
            }
            Event::Gone => Err(Cut::Downstream),
            Event::Deadline => match self.slept() {
                Some(dir) => self.on_answer(dir, Answer::Slept),
                None => self.timed_out(None).map_or(Ok(()), Err),
            },
        }
    }

    /// Gives what waits to the kernel, if it is ready for more.
    fn flush_up(&mut self) {
        let Some(up) = &mut self.up else { return };
        //= envoy: nothing follows the head of an upgrade before the upstream agrees
        if self.upgrade && !self.tunnel && self.info.upstream_wire_sent > 0 {
            return;
        }
        if up.busy && up.conn.socket.poll_sent().is_ready() {
            up.busy = false;
        }
        if !up.busy && !self.to_up.is_empty() {
            let chunks = std::mem::take(&mut self.to_up);
            up.cluster.stats.add(ClusterStat::UpstreamCxTxBytesTotal, chunks.bytes() as u64);
            self.info.upstream_wire_sent += chunks.bytes() as u64;
            up.busy = true;
            up.conn.socket.start_send(chunks);
        }
        if self.request_passed() && self.to_up.is_empty() && self.info.stamps.upstream_sent.is_none() {
            self.info.stamps.upstream_sent = Some(self.conn.cx.rt.now());
        }
    }

    fn flush_down(&mut self) {
        if self.down_busy || self.to_down.is_empty() {
            return;
        }
        let chunks = std::mem::take(&mut self.to_down);
        self.conn.twin.http.add(Http::DownstreamCxTxBytesTotal, chunks.bytes() as u64);
        self.info.downstream_wire_sent += chunks.bytes() as u64;
        self.down_busy = true;
        self.conn.socket.start_send(chunks);
    }

    /// After a stream that broke off: what the client was promised before still leaves, if it takes it in time.
    async fn flush_rest(&mut self) {
        let conn = self.conn;
        let patience = conn.twin.hcm.delayed_close_timeout;
        loop {
            self.flush_down();
            if !self.down_busy {
                return;
            }
            conn.sleep.borrow_mut().reset(conn.cx.rt.now() + patience);
            let sent = poll_fn(|_| match conn.socket.poll_sent() {
                Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
                Poll::Pending => conn.sleep.borrow_mut().poll_due().map(|()| false),
            });
            if !sent.await {
                return;
            }
            self.down_busy = false;
        }
    }

    /// A time limit has passed: a reply where none has begun, else the stream breaks off. `waits_for`: the cluster
    /// whose connection is awaited.
    fn timed_out(&mut self, waits_for: Option<&Rc<ClusterTwin>>) -> Option<Cut> {
        let now = self.conn.cx.rt.now();
        let http = &self.conn.twin.http;
        let (mut status, mut body) = (if self.request_done { 504 } else { 408 }, "stream timeout");
        let details = if self.route_deadline <= now || self.try_deadline <= now {
            (status, body) = match self.timeout_status {
                504 => (504, "upstream request timeout"),
                other => (other, ""),
            };
            self.upstream_timed_out(waits_for, now)
        } else if !self.request_done && self.request_deadline <= now {
            http.inc(Http::DownstreamRqTimeout);
            body = "request timeout";
            "request_overall_timeout"
        } else if self.duration_deadline <= now {
            http.inc(Http::DownstreamRqMaxDurationReached);
            body = "downstream duration timeout";
            "max_duration_timeout"
        } else if self.idle_end() <= now {
            http.inc(Http::DownstreamRqIdleTimeout);
            self.info.flags.add(Flags::STREAM_IDLE_TIMEOUT);
            "stream_idle_timeout"
        } else {
            return None;
        };
        self.drop_upstream();
        if self.response.is_some() {
            return Some(Cut::Upstream(details));
        }
        self.disarm();
        let mut reply = Reply::text(status, body.as_bytes(), details);
        reply.flags = self.info.flags;
        self.reply(reply);
        self.flush_down();
        None
    }

    /// The upstream took too long, for one try or in all.
    fn upstream_timed_out(&mut self, waits_for: Option<&Rc<ClusterTwin>>, now: Instant) -> &'static str {
        self.info.flags.add(Flags::UPSTREAM_REQUEST_TIMEOUT);
        let (stat, details) = if self.route_deadline <= now {
            (ClusterStat::UpstreamRqTimeout, "response_timeout")
        } else {
            (ClusterStat::UpstreamRqPerTryTimeout, "upstream_per_try_timeout")
        };
        //= envoy: an interim response is a beginning
        let begun = self.response.is_some() || self.interims > 0;
        if let Some(cluster) = self.up.as_ref().map(|up| &up.cluster).or(waits_for) {
            cluster.stats.inc(stat);
            if !begun {
                account::charge_code(&self.info, self.origin.internal, cluster, self.timeout_status);
            }
        }
        if let Some(up) = &self.up {
            up.conn.host.inc(EndpointStat::RqTimeout);
            if !begun {
                up.conn.host.inc(EndpointStat::RqError);
            }
        }
        details
    }

    /// No limit but that of idleness applies any more, and that begins anew.
    fn disarm(&mut self) {
        let now = self.conn.cx.rt.now();
        self.idle_deadline = self.idle_timeout.map_or(Instant::FAR, |t| now + t);
        self.route_deadline = Instant::FAR;
        self.try_deadline = Instant::FAR;
        self.request_deadline = Instant::FAR;
        self.duration_deadline = Instant::FAR;
    }

    /// A request that has no body is whole.
    fn note_whole(&mut self) {
        let open = self.upgrade || self.request.is_method(b"CONNECT");
        if self.request_framing == Framing::None && !open {
            self.request_ended();
        }
        let class = if self.uploads() { RecvClass::Large } else { RecvClass::Small };
        self.conn.socket.set_recv_class(class);
    }

    /// Whether the request says that its body is long.
    fn uploads(&self) -> bool {
        matches!(self.request_framing, Framing::Length(n) if n >= crate::limits::LARGE_BODY_BYTES)
    }

    fn request_ended(&mut self) {
        if self.request_done {
            return;
        }
        self.request_done = true;
        let now = self.conn.cx.rt.now();
        self.info.stamps.request_last = Some(now);
        if let Some(timeout) = self.route_timeout {
            self.route_deadline = now + timeout;
        }
        if self.up.is_some() {
            self.begin_try();
        }
    }

    /// The request is whole and has a connection: one try begins. //= envoy: x-envoy-upstream-rq-per-try-timeout-ms
    fn begin_try(&mut self) {
        if let Some(timeout) = self.try_timeout
            && self.response.is_none()
        {
            self.try_deadline = self.conn.cx.rt.now() + timeout;
        }
    }

    /// Body bytes of the client, for the filters and for upstream.
    fn on_down_bytes(&mut self, mut chunk: Chunk) -> Result<(), Cut> {
        self.info.downstream_wire_received += chunk.len() as u64;
        if self.upgrade {
            self.info.bytes_received += chunk.len() as u64;
            self.to_up.push(chunk);
            return Ok(());
        }
        self.conn.cx.rt.pass("request body");
        loop {
            match self.body.decode(&mut chunk) {
                Ok(BodyEvent::NeedMore) => return Ok(()),
                Ok(BodyEvent::Data(data)) => {
                    self.info.bytes_received += data.len() as u64;
                    self.request_data(data)?;
                    if self.is_refused() {
                        return Ok(());
                    }
                    if self.body.remaining() == Some(0) && self.request_framing != Framing::Chunked {
                        self.give_back(chunk);
                        return self.request_over(None);
                    }
                }
                Ok(BodyEvent::End(trailers)) => {
                    self.give_back(chunk);
                    return self.request_over(trailers);
                }
                Err(error) => {
                    self.body_refused(error);
                    return Ok(());
                }
            }
        }
    }

    /// What came after the end of this request belongs to the next one.
    fn give_back(&mut self, rest: Chunk) {
        self.info.downstream_wire_received -= rest.len() as u64;
        self.conn.unread(rest);
    }

    /// The client's body breaks its framing.
    fn body_refused(&mut self, error: BodyError) {
        self.conn.twin.http.inc(Http::DownstreamCxProtocolError);
        self.info.flags.add(Flags::DOWNSTREAM_PROTOCOL_ERROR);
        self.drop_upstream();
        self.fate = Fate::CloseDelayed;
        let (status, body, details) = error.answer();
        if self.response.is_some() {
            self.response_done = true;
            self.to_down = Chunks::new();
            self.info.details = Some(Cow::Borrowed(details));
            return;
        }
        self.reply(Reply::text(status, body.as_bytes(), details));
        self.flush_down();
    }

    /// Ends the upstream side without keeping its connection.
    fn drop_upstream(&mut self) {
        self.up = None;
        self.to_up = Chunks::new();
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let cut = if std::thread::panicking() { Cut::Panic } else { Cut::Downstream };
            // A second panic while the first one unwinds would end the process.
            let conn = self.conn;
            conn.cx.rt.contain(|| self.finish(Some(cut)));
        }
    }
}
