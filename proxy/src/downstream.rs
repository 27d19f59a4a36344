//! One accepted connection: reads heads, hands each request to the straight line, and ends the connection.
//!
//! Invariant: between two requests no bytes of the first are left: what was read beyond its end stays in
//! `input` and is where the next head begins. An idle connection holds no boxed future and no buffer.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use selvedge_runtime::{BlockMut, Chunk, Instant, NetError, Sleep, Socket, SocketAddress};

use crate::http::h1::head::{self, DecodedRequest, HeadError, HeadScan};
use crate::shard::{Cx, ListenerTwin};
use crate::stats::names::{HttpStats, ListenerStats};
use crate::stream::{self, Fate};

/// A connection from a client, and what its requests share.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) cx: Rc<Cx>,
    pub(crate) listener: Rc<ListenerTwin>,
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddress,
    pub(crate) id: u64,
    pub(crate) begun: Instant,
    /// Bytes that arrived and belong to nobody yet.
    input: Cell<Option<Chunk>>,
    /// The peer will send nothing more, or the socket is broken.
    ended: Cell<Option<Ended>>,
    pub(crate) requests: Cell<u32>,
    pub(crate) bytes_in: Cell<u64>,
}

/// How the peer's side of the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Fin,
    Broken(NetError),
}

/// Who ended the connection; decides which counters move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    ByPeer,
    ByUs,
}

impl Conn {
    /// The next bytes of the peer, those left over first. `None`: it ended, see [`Conn::ended`].
    pub(crate) fn poll_bytes(&self) -> Poll<Option<Chunk>> {
        if let Some(chunk) = self.input.take() {
            return Poll::Ready(Some(chunk));
        }
        if self.ended.get().is_some() {
            return Poll::Ready(None);
        }
        match self.socket.poll_recv() {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                self.count_in(chunk.len());
                Poll::Ready(Some(chunk))
            }
            Poll::Ready(Ok(None)) => {
                self.ended.set(Some(Ended::Fin));
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => {
                self.ended.set(Some(Ended::Broken(error)));
                Poll::Ready(None)
            }
        }
    }

    /// Ready when the peer is gone. Bytes that come meanwhile are kept (one chunk; then nothing more is read).
    pub(crate) fn poll_gone(&self) -> Poll<()> {
        let kept = self.input.take();
        if kept.is_some() {
            self.input.set(kept);
            return Poll::Pending;
        }
        match self.poll_bytes() {
            Poll::Ready(None) => Poll::Ready(()),
            Poll::Ready(Some(chunk)) => {
                self.input.set(Some(chunk));
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

    fn count_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
        self.listener.http.add(HttpStats::DownstreamCxRxBytesTotal, bytes as u64);
    }
}
