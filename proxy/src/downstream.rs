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

use selvedge_runtime::{BlockMut, Chunk, Instant, NetError, Sleep, Socket, SocketAddress};

use crate::http::h1::head::{self, DecodedRequest, HeadError, HeadScan};
use crate::shard::{Cx, ListenerTwin};
use crate::stats::names::{Http, HttpHist, Listener, ListenerHist, Worker};
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
    ended: Cell<Option<Ended>>,
    /// When the first bytes of a head were there that came in pieces.
    pub(crate) head_begun: Cell<Option<Instant>>,
    pub(crate) requests: Cell<u32>,
    /// A stream is running: decides which counters move when the connection ends.
    pub(crate) busy: Cell<bool>,
    by_peer: Cell<bool>,
    /// The client has sent something: the protocol of the connection is settled.
    spoke: Cell<bool>,
    /// The end of a connection that was asked to go: it serves until then.
    drain_end: Cell<Option<Instant>>,
}

/// How the peer's side of the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Fin,
    Broken(NetError),
}

/// What came instead of a request.
enum Next {
    Request(Box<DecodedRequest>),
    Bad(HeadError),
    /// The peer is gone; bytes of a request had come or not.
    Gone,
    HeadTimeout,
    /// It was asked to go, and its time to do so is over.
    Drained,
}

/// Serves a connection to its end.
pub(crate) async fn serve(conn: Conn) {
    loop {
        match conn.next().await {
            Next::Request(request) => match Box::pin(stream::run(&conn, *request)).await {
                Fate::KeepAlive => {}
                Fate::Close => break,
                Fate::CloseDelayed => {
                    conn.linger().await;
                    break;
                }
                Fate::Reset => {
                    conn.socket.reset_on_close();
                    break;
                }
            },
            Next::Bad(error) => {
                Box::pin(stream::refuse(&conn, error)).await;
                conn.linger().await;
                break;
            }
            Next::HeadTimeout => {
                Box::pin(stream::head_timeout(&conn)).await;
                conn.linger().await;
                break;
            }
            Next::Drained => {
                conn.linger().await;
                break;
            }
            Next::Gone => break,
        }
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
            ended: Cell::new(None),
            head_begun: Cell::new(None),
            requests: Cell::new(0),
            busy: Cell::new(false),
            by_peer: Cell::new(false),
            spoke: Cell::new(false),
            drain_end: Cell::new(None),
        }
    }

    /// Whether the client is asked to go: responses say `connection: close`, and the connection lives on for a while,
    /// so that a request on its way is still answered.
    //= envoy: drain_timeout
    pub(crate) fn drains(&self) -> bool {
        if self.is_draining() {
            return true;
        }
        let oldest = self.twin.hcm.max_connection_duration.map(|max| self.begun + max);
        if oldest.is_some_and(|oldest| self.cx.rt.now() >= oldest) {
            self.twin.http.inc(Http::DownstreamCxMaxDurationReached);
        } else if self.twin.drains(&self.cx) {
            self.twin.http.inc(Http::DownstreamCxDrainClose);
        } else {
            return false;
        }
        self.drain();
        true
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain_end.get().is_some()
    }

    fn drain(&self) {
        self.drain_end.set(Some(self.cx.rt.now() + self.twin.hcm.drain_timeout));
    }

    /// The next bytes of the peer, those left over first. `None`: it ended, see [`Conn::ended`].
    pub(crate) fn poll_bytes(&self) -> Poll<Option<Chunk>> {
        if let Some(chunk) = self.input.take() {
            return Poll::Ready(Some(chunk));
        }
        if self.ended.get().is_some() {
            return Poll::Ready(None);
        }
        let ended = match self.socket.poll_recv() {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                self.twin.http.add(Http::DownstreamCxRxBytesTotal, chunk.len() as u64);
                return Poll::Ready(Some(chunk));
            }
            Poll::Ready(Ok(None)) => Ended::Fin,
            Poll::Ready(Err(error)) => Ended::Broken(error),
        };
        self.ended.set(Some(ended));
        self.by_peer.set(true);
        Poll::Ready(None)
    }

    /// Ready when the peer is gone. Bytes that come meanwhile are kept: one chunk, then nothing more is read.
    pub(crate) fn poll_gone(&self) -> Poll<()> {
        if let Some(kept) = self.input.take() {
            self.input.set(Some(kept));
            return Poll::Pending;
        }
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

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.get()
    }

    /// Waits until something comes, or until `deadline`. `Err`: the deadline passed.
    async fn bytes_until(&self, deadline: Instant) -> Result<Option<Chunk>, ()> {
        self.sleep.borrow_mut().reset(deadline);
        poll_fn(|_| {
            if let Poll::Ready(bytes) = self.poll_bytes() {
                return Poll::Ready(Ok(bytes));
            }
            self.sleep.borrow_mut().poll_due().map(|()| Err(()))
        })
        .await
    }

    /// The next request's head.
    async fn next(&self) -> Next {
        let hcm = &self.twin.hcm;
        let after = |from: Instant, d: Option<Duration>| d.map_or(Instant::FAR, |d| from + d);
        let mut chunk = loop {
            let now = self.cx.rt.now();
            let idle = after(now, hcm.idle_timeout);
            let (age, drained) = match self.drain_end.get() {
                Some(end) if end <= now => return Next::Drained,
                Some(end) => (Instant::FAR, end),
                None => (after(self.begun, hcm.max_connection_duration), Instant::FAR),
            };
            match self.bytes_until(idle.min(age).min(drained)).await {
                Err(()) if drained <= idle => return Next::Drained,
                Err(()) => {
                    let stat = if age < idle {
                        Http::DownstreamCxMaxDurationReached
                    } else {
                        Http::DownstreamCxIdleTimeout
                    };
                    self.twin.http.inc(stat);
                    //= envoy: a connection that never sent anything is closed at once
                    if !self.spoke.get() {
                        return Next::Gone;
                    }
                    if !self.is_draining() {
                        self.drain();
                    }
                }
                Ok(None) => return Next::Gone,
                Ok(Some(mut chunk)) => {
                    if !self.spoke.replace(true) {
                        self.twin.http.inc(Http::DownstreamCxHttp1Total);
                        self.twin.http.inc(Http::DownstreamCxHttp1Active);
                    }
                    chunk.advance(head::leading_empty_lines(&chunk));
                    if !chunk.is_empty() {
                        break chunk;
                    }
                }
            }
        };
        let mut scan = HeadScan::default();
        let limits = &self.twin.limits;
        let end = match head::find_head_end(&mut scan, &chunk, limits) {
            Err(error) => return Next::Bad(error),
            Ok(Some(end)) => end,
            Ok(None) => {
                let begun = self.cx.rt.now();
                self.head_begun.set(Some(begun));
                let deadline =
                    after(begun, hcm.request_headers_timeout).min(after(begun, hcm.stream_idle_timeout));
                let mut block = BlockMut::with_capacity(chunk.len() * 2, self.cx.rt.budget());
                block.extend_from_slice(&chunk);
                drop(chunk);
                match self.gather(&mut block, &mut scan, deadline).await {
                    Ok(end) => {
                        chunk = block.freeze();
                        end
                    }
                    Err(next) => return next,
                }
            }
        };
        let block = chunk.split_to(end);
        self.unread(chunk);
        match head::decode_request(block, limits) {
            Ok(request) => Next::Request(Box::new(request)),
            Err(error) => Next::Bad(error),
        }
    }

    /// Adds to a partial head until it is whole; the answer is its length.
    async fn gather(
        &self,
        block: &mut BlockMut,
        scan: &mut HeadScan,
        deadline: Instant,
    ) -> Result<usize, Next> {
        loop {
            match self.bytes_until(deadline).await {
                Err(()) => return Err(Next::HeadTimeout),
                Ok(None) => return Err(Next::Gone),
                Ok(Some(more)) => block.extend_from_slice(&more),
            }
            match head::find_head_end(scan, block, &self.twin.limits) {
                Err(error) => return Err(Next::Bad(error)),
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
            }
        }
    }

    /// Lets the client read the response before the connection ends: until it closes, or the time is over.
    //= envoy: delayed_close_timeout
    async fn linger(&self) {
        let timeout = self.twin.hcm.delayed_close_timeout;
        if timeout.is_zero() || self.ended.get().is_some() {
            return;
        }
        let deadline = self.cx.rt.now() + timeout;
        loop {
            match self.bytes_until(deadline).await {
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
        let (twin, by_peer, busy) = (&self.twin, self.by_peer.get(), self.busy.get());
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
