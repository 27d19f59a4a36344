//! One accepted connection: reads heads, hands each request to the straight line, and ends the connection.
//!
//! Invariant: between two requests no bytes of the first are left: what was read beyond its end stays in
//! `input` and is where the next head begins. An idle connection holds no boxed future and no buffer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use selvedge_runtime::{BlockMut, Chunk, Instant, Sleep, Socket, SocketAddress};

use crate::config::overload::Floor;
use crate::http::h1::head::{self, EmptyLines, HeadError, HeadScan};
use crate::http::h1::request::{self, DecodedRequest};
use crate::limits;
use crate::overload::Effect;
use crate::shard::{Cx, ListenerTwin};
use crate::stats::names::{Http, Http1, HttpHist, Listener, ListenerHist, Worker};
use crate::stream::{self, Fate};

/// A connection from a client, and what its requests share.
pub(crate) struct Conn {
    pub(crate) cx: Rc<Cx>,
    pub(crate) twin: Rc<ListenerTwin>,
    pub(crate) socket: Socket,
    pub(crate) peer: Option<SocketAddress>,
    pub(crate) local: Option<SocketAddress>,
    pub(crate) id: u64,
    pub(crate) begun: Instant,
    pub(crate) sleep: RefCell<Sleep>,
    /// Bytes that arrived and belong to nobody yet.
    input: Cell<Option<Chunk>>,
    /// The peer has finished, or broke the connection.
    ended: Cell<bool>,
    pub(crate) requests: Cell<u32>,
    /// A stream is running: decides which counters move when the connection ends.
    pub(crate) busy: Cell<bool>,
    /// When the head that is being read began, if it did not come in one piece.
    pub(crate) head_begun: Cell<Option<Instant>>,
    /// The client has sent something: the protocol of the connection is settled.
    spoke: Cell<bool>,
    /// The end of a connection that was asked to go: it serves until then.
    drain_end: Cell<Option<Instant>>,
    /// A request ended in a panic, and its client has heard nothing yet.
    pub(crate) owes_answer: Cell<bool>,
}

/// What came instead of a request.
enum Next {
    Request(Box<DecodedRequest>),
    /// It cannot be read. Here and below: bytes of what came.
    Bad(HeadError, usize),
    /// The peer is gone, in the middle of a head or between requests.
    GoneInHead(usize),
    Gone,
    /// A head that began then did not come in time.
    Late(Instant, usize),
    /// There is no room for its head.
    Shed(usize),
    /// Nothing ever came.
    Silent,
    /// It was asked to go, and its time to do so is over.
    Drained,
}

/// Serves a connection to its end.
pub(crate) async fn serve(conn: Conn) {
    loop {
        match conn.next().await {
            Next::Request(request) => match conn.run(*request).await {
                Fate::KeepAlive => continue,
                Fate::Close => return,
                Fate::CloseDelayed => {}
            },
            Next::Bad(error, wire) => Box::pin(stream::refuse(&conn, error, wire)).await,
            Next::Late(begun, wire) => Box::pin(stream::head_timeout(&conn, begun, wire)).await,
            Next::Shed(wire) => Box::pin(stream::shed(&conn, wire)).await,
            Next::GoneInHead(wire) => return stream::abandoned(&conn, wire),
            Next::Drained => {}
            Next::Gone | Next::Silent => return,
        }
        return conn.linger().await;
    }
}

impl Conn {
    /// The connection has its places among those of its listener and of the process, and gives them back at its end.
    pub(crate) fn new(cx: Rc<Cx>, twin: Rc<ListenerTwin>, socket: Socket) -> Conn {
        let begun = cx.rt.now();
        let id = cx.server.next_connection.fetch_add(1, Relaxed);
        twin.stats.inc(Listener::DownstreamCxTotal);
        twin.stats.inc(Listener::DownstreamCxActive);
        twin.worker.inc(Worker::DownstreamCxTotal);
        twin.worker.inc(Worker::DownstreamCxActive);
        twin.http.inc(Http::DownstreamCxTotal);
        twin.http.inc(Http::DownstreamCxActive);
        let sleep = RefCell::new(cx.rt.sleep_until(Instant::FAR));
        Conn {
            peer: socket.peer_addr(),
            local: socket.local_addr(),
            cx,
            twin,
            socket,
            id,
            begun,
            sleep,
            input: Cell::new(None),
            ended: Cell::new(false),
            requests: Cell::new(0),
            busy: Cell::new(false),
            head_begun: Cell::new(None),
            spoke: Cell::new(false),
            drain_end: Cell::new(None),
            owes_answer: Cell::new(false),
        }
    }

    /// Runs a request to its end. A panic in it ends here, and the connection with it.
    async fn run(&self, request: DecodedRequest) -> Fate {
        let mut run = Box::pin(stream::run(self, request));
        let ended = poll_fn(|context| match self.cx.rt.contain(|| run.as_mut().poll(context)) {
            Some(polled) => polled.map(Some),
            None => Poll::Ready(None),
        });
        match ended.await {
            Some(fate) => fate,
            None => self.answer_panic().await,
        }
    }

    /// What was begun must not look whole; where nothing was, the client learns that it is not to blame.
    async fn answer_panic(&self) -> Fate {
        if !self.owes_answer.get() {
            self.socket.reset_on_close();
            return Fate::Close;
        }
        self.twin.http.add(Http::DownstreamCxTxBytesTotal, PANIC_REPLY.len() as u64);
        match self.socket.send(Chunk::from_static(PANIC_REPLY).into()).await {
            Ok(()) => Fate::CloseDelayed,
            Err(_gone) => Fate::Close,
        }
    }

    /// Whether the client is asked to go: responses say `connection: close`, and the connection lives on for a while,
    /// so that a request on its way is still answered.
    //= envoy: drain_timeout
    pub(crate) fn drains(&self) -> bool {
        if self.is_draining() {
            return true;
        }
        if self.cx.rt.now() >= self.oldest() {
            self.twin.http.inc(Http::DownstreamCxMaxDurationReached);
        } else if self.overload_closes() || self.twin.drains(&self.cx) {
            self.twin.http.inc(Http::DownstreamCxDrainClose);
        } else {
            return false;
        }
        self.drain();
        true
    }

    /// Whether the overload manager asks this client to go. //= envoy: disable_http_keepalive
    fn overload_closes(&self) -> bool {
        let closes = self.twin.share(&self.cx, Effect::DisableKeepalive).takes(|| self.cx.rt.random());
        if closes {
            self.twin.http.inc(Http::DownstreamCxOverloadDisableKeepalive);
        }
        closes
    }

    /// When a connection has lived for as long as it may.
    fn oldest(&self) -> Instant {
        self.after(self.begun, self.twin.hcm.max_connection_duration, |max| {
            self.sooner(Effect::ConnectionMax, self.twin.timers.connection_max, max)
        })
    }

    /// When an idle connection is done with, that began to wait at `since`.
    fn idle_end(&self, since: Instant) -> Instant {
        let end = self.after(since, self.twin.hcm.idle_timeout, |idle| {
            self.sooner(Effect::ConnectionIdle, self.twin.timers.connection_idle, idle)
        });
        let closes = self.twin.share(&self.cx, Effect::CloseIdle).is_all();
        if closes { end.min(since + limits::CLOSE_IDLE_AFTER) } else { end }
    }

    /// The end of a time, which pressure makes shorter.
    fn after(
        &self,
        begun: Instant,
        time: Option<Duration>,
        sooner: impl Fn(Duration) -> Duration,
    ) -> Instant {
        match time {
            None => Instant::FAR,
            Some(time) if !self.twin.elastic => begun + time,
            Some(time) => begun + (time - sooner(time)),
        }
    }

    /// When a stream is idle for too long that was so since `since`, before any route.
    pub(crate) fn stream_idle_end(&self, since: Instant) -> Instant {
        self.after(since, self.twin.hcm.stream_idle_timeout, |idle| {
            self.sooner(Effect::StreamIdle, self.twin.timers.stream_idle, idle)
        })
    }

    /// How much sooner than configured a timer fires under pressure.
    pub(crate) fn sooner(&self, effect: Effect, floor: Option<Floor>, max: Duration) -> Duration {
        if floor.is_none() { Duration::ZERO } else { self.cx.server.overload.sooner(effect, floor, max) }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain_end.get().is_some()
    }

    fn drain(&self) {
        self.drain_end.set(Some(self.cx.rt.now() + self.twin.hcm.drain_timeout));
    }

    /// The next bytes of the peer, those left over first. `None`: it has finished, or is gone.
    pub(crate) fn poll_bytes(&self) -> Poll<Option<Chunk>> {
        if let Some(chunk) = self.input.take() {
            return Poll::Ready(Some(chunk));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        match self.socket.poll_recv() {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                self.twin.http.add(Http::DownstreamCxRxBytesTotal, chunk.len() as u64);
                Poll::Ready(Some(chunk))
            }
            Poll::Ready(Ok(None) | Err(_)) => {
                self.ended.set(true);
                Poll::Ready(None)
            }
        }
    }

    /// Ready when the peer is gone. Bytes that come meanwhile are kept: one chunk, then nothing more is read.
    pub(crate) fn poll_gone(&self) -> Poll<()> {
        match self.poll_bytes() {
            Poll::Ready(None) => Poll::Ready(()),
            Poll::Ready(Some(chunk)) => {
                self.input.set(Some(chunk.compact(self.cx.rt.budget())));
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Gives bytes back that belong to the next message.
    pub(crate) fn unread(&self, rest: Chunk) {
        if !rest.is_empty() {
            self.input.set(Some(rest));
        }
    }

    /// Waits until something comes, or until `deadline`, which pressure may move. `Err`: the deadline passed.
    async fn bytes_until(&self, deadline: impl Fn() -> Instant) -> Result<Option<Chunk>, ()> {
        poll_fn(|_| {
            if let Poll::Ready(bytes) = self.poll_bytes() {
                return Poll::Ready(Ok(bytes));
            }
            let mut sleep = self.sleep.borrow_mut();
            sleep.reset(deadline());
            sleep.poll_due().map(|()| Err(()))
        })
        .await
    }

    /// The next request's head.
    async fn next(&self) -> Next {
        let limits = &self.twin.limits;
        let mut chunk = match self.first_bytes().await {
            Ok(chunk) => chunk,
            Err(next) => return next,
        };
        let mut scan = HeadScan::default();
        let end = match head::find_head_end(&mut scan, &chunk, limits) {
            Err(error) => return Next::Bad(error, chunk.len()),
            Ok(Some(end)) => end,
            Ok(None) => match self.gather(&mut chunk, &mut scan).await {
                Ok(end) => end,
                Err(next) => return next,
            },
        };
        self.cx.rt.pass("request head");
        let come = chunk.len();
        let block = chunk.split_to(end);
        self.unread(chunk);
        let block = self.cx.rt.budget().keep(block);
        match request::decode_request(block, limits) {
            Ok(request) => {
                if request.dropped > 0 {
                    self.twin.http1.add(Http1::DroppedHeadersWithUnderscores, request.dropped.into());
                }
                Next::Request(Box::new(request))
            }
            //= envoy: what came with a head that breaks its grammar counts as part of it
            Err(error) => Next::Bad(error, if error.is_grammar() { come } else { end }),
        }
    }

    /// Waits for a head to begin. A connection whose time is over drains first: what comes then is still served.
    async fn first_bytes(&self) -> Result<Chunk, Next> {
        let http = &self.twin.http;
        let since = self.cx.rt.now();
        let end = || self.idle_end(since).min(self.oldest());
        let fixed = end();
        let deadline =
            || self.drain_end.get().unwrap_or_else(|| if self.twin.elastic { end() } else { fixed });
        let mut lines = EmptyLines::default();
        loop {
            match self.bytes_until(deadline).await {
                Ok(None) => return Err(Next::Gone),
                Ok(Some(mut chunk)) => {
                    if !self.spoke.replace(true) {
                        http.inc(Http::DownstreamCxHttp1Total);
                        http.inc(Http::DownstreamCxHttp1Active);
                    }
                    let skipped = lines.skip(&chunk).map_err(|error| Next::Bad(error, chunk.len()))?;
                    chunk.advance(skipped);
                    if !chunk.is_empty() {
                        return Ok(chunk);
                    }
                }
                Err(()) if self.is_draining() => return Err(Next::Drained),
                Err(()) => {
                    let aged = self.oldest() < self.idle_end(since);
                    http.inc(if aged {
                        Http::DownstreamCxMaxDurationReached
                    } else {
                        Http::DownstreamCxIdleTimeout
                    });
                    //= envoy: a connection that never sent anything is closed at once
                    self.drain();
                    if !self.spoke.get() {
                        return Err(Next::Silent);
                    }
                }
            }
        }
    }

    /// Adds to a partial head until it is whole; the answer is its length. The buffer that it came in goes back.
    async fn gather(&self, chunk: &mut Chunk, scan: &mut HeadScan) -> Result<usize, Next> {
        let hcm = &self.twin.hcm;
        let begun = self.cx.rt.now();
        let bounds = [hcm.request_headers_timeout, hcm.request_timeout, hcm.max_stream_duration];
        let end = bounds.iter().flatten().min().map_or(Instant::FAR, |d| begun + *d);
        let deadline = || end.min(self.stream_idle_end(begun));
        self.head_begun.set(Some(begun));
        let budget = self.cx.rt.budget();
        let mut block = BlockMut::with_capacity(chunk.len() * 2, budget);
        block.extend_from_slice(&std::mem::replace(chunk, Chunk::from_static(b"")));
        let end = loop {
            if let Err(error) = request::check_start(scan, &block, &self.twin.limits) {
                return Err(Next::Bad(error, block.len()));
            }
            match self.bytes_until(deadline).await {
                Err(()) => return Err(Next::Late(begun, block.len())),
                Ok(None) => return Err(Next::GoneInHead(block.len())),
                //= envoy: none; heads that never end must not take all there is
                Ok(Some(more)) if !budget.fits(2 * (block.len() + more.len())) => {
                    return Err(Next::Shed(block.len()));
                }
                Ok(Some(more)) => block.extend_from_slice(&more),
            }
            match head::find_head_end(scan, &block, &self.twin.limits) {
                Err(error) => return Err(Next::Bad(error, block.len())),
                Ok(Some(end)) => break end,
                Ok(None) => {}
            }
        };
        *chunk = block.freeze();
        Ok(end)
    }

    /// Lets the client read the response before the connection ends: until it closes, or the time is over.
    //= envoy: delayed_close_timeout
    async fn linger(&self) {
        let timeout = self.twin.hcm.delayed_close_timeout;
        if timeout.is_zero() || self.ended.get() {
            return;
        }
        let deadline = self.cx.rt.now() + timeout;
        loop {
            match self.bytes_until(|| deadline).await {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(()) => {
                    self.twin.http.inc(Http::DownstreamCxDelayedCloseTimeout);
                    return;
                }
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let lived = self.cx.rt.now().millis_since(self.begun);
        let (twin, by_peer, busy) = (&self.twin, self.ended.get(), self.busy.get());
        if !self.is_draining() && self.cx.rt.now() >= self.oldest() {
            twin.http.inc(Http::DownstreamCxMaxDurationReached);
        }
        self.cx.server.connections.fetch_sub(1, Relaxed);
        twin.open.fetch_sub(1, Relaxed);
        twin.stats.inc(Listener::DownstreamCxDestroy);
        twin.stats.dec(Listener::DownstreamCxActive);
        twin.worker.dec(Worker::DownstreamCxActive);
        twin.stats.record(ListenerHist::DownstreamCxLengthMs, lived);
        twin.http.dec(Http::DownstreamCxActive);
        if self.spoke.get() {
            twin.http.dec(Http::DownstreamCxHttp1Active);
        }
        twin.http.inc(Http::DownstreamCxDestroy);
        twin.http.inc(if by_peer { Http::DownstreamCxDestroyRemote } else { Http::DownstreamCxDestroyLocal });
        if busy {
            twin.http.inc(Http::DownstreamCxDestroyActiveRq);
            let side = if by_peer {
                Http::DownstreamCxDestroyRemoteActiveRq
            } else {
                Http::DownstreamCxDestroyLocalActiveRq
            };
            twin.http.inc(side);
        }
        twin.http.record(HttpHist::DownstreamCxLengthMs, lived);
    }
}

/// Says nothing of the request: what is known of it was in the hands of the code that failed.
pub(crate) const PANIC_REPLY: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
