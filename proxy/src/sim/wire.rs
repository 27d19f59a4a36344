//! HTTP/1.1 as the peers read it: a plain, strict reader of its own, which shares nothing with the proxy's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use selvedge_runtime::{Chunk, Listener, NetError, Rt, Socket};

use super::draw::Framing;
use super::ledger::PATIENCE;

/// Why reading ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The peer ended or reset the connection.
    Gone,
    /// Nothing came for longer than anything may take.
    Stuck,
    /// What came is no HTTP/1.1.
    Bad(String),
}

/// Accepts for ever, and has each connection served.
pub async fn accept<F: Future<Output = ()> + 'static>(rt: Rt, listener: Listener, serve: impl Fn(Wire) -> F) {
    loop {
        if let Ok(socket) = listener.accept().await {
            rt.spawn(serve(Wire::new(&rt, Rc::new(socket))));
        }
    }
}

/// A connection that is read by lines and pieces.
#[derive(Debug)]
pub struct Wire {
    pub rt: Rt,
    pub socket: Rc<Socket>,
    unread: RefCell<Unread>,
    pub slow: bool,
    /// Bytes that came so far, and after how many this side leaves.
    pub came: std::cell::Cell<u64>,
    pub leaves_after: Option<u64>,
    /// An upstream that has said more than it was asked.
    pub ahead: std::cell::Cell<bool>,
}

/// Bytes that came and were not looked at.
#[derive(Debug, Default)]
struct Unread {
    bytes: Vec<u8>,
    /// Of them, those that were.
    read: usize,
}

impl Unread {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    fn advance(&mut self, n: usize) {
        self.read += n;
        if self.read == self.bytes.len() {
            self.bytes.clear();
            self.read = 0;
        }
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    pub framing: Framing,
    /// Bytes of one write.
    pub size: usize,
    /// After each of them.
    pub pause: Duration,
}

#[derive(Debug, Clone, Default)]
pub struct Head {
    pub first: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn id(&self) -> Option<usize> {
        self.get("x-id").and_then(|v| v.parse().ok())
    }

    /// How its body is framed: `Some(Ok(n))` by length, `Some(Err)` in chunks, `None` by neither.
    pub fn framing(&self) -> Result<Option<Result<usize, ()>>, Stop> {
        let lengths: Vec<_> = self.fields.iter().filter(|(n, _)| n == "content-length").collect();
        let codings: Vec<_> = self.fields.iter().filter(|(n, _)| n == "transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(None),
            ([(_, value)], []) => {
                let length = value.parse().map_err(|_| Stop::Bad(format!("content-length {value}")))?;
                Ok(Some(Ok(length)))
            }
            ([], [(_, value)]) if value == "chunked" => Ok(Some(Err(()))),
            _ => Err(Stop::Bad(format!("framed twice: {:?}", self.fields))),
        }
    }
}

impl Wire {
    pub fn new(rt: &Rt, socket: Rc<Socket>) -> Wire {
        Wire {
            rt: rt.clone(),
            socket,
            unread: RefCell::default(),
            slow: false,
            came: std::cell::Cell::new(0),
            leaves_after: None,
            ahead: std::cell::Cell::new(false),
        }
    }

    /// More bytes, or why not. The end of the stream is `Ok(false)`.
    async fn more(&self) -> Result<bool, Stop> {
        if self.slow {
            self.socket.pause_recv();
            self.rt.sleep(Duration::from_millis(20)).await;
        }
        let mut patience = self.rt.sleep(PATIENCE);
        let came = poll_fn(|_| match self.socket.poll_recv() {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => patience.poll_due().map(|()| None),
        })
        .await;
        match came {
            None => Err(Stop::Stuck),
            Some(Err(_)) => Err(Stop::Gone),
            Some(Ok(None)) => Ok(false),
            Some(Ok(Some(chunk))) => {
                self.came.set(self.came.get() + chunk.len() as u64);
                self.unread.borrow_mut().bytes.extend_from_slice(&chunk);
                if self.leaves_after.is_some_and(|after| self.came.get() > after) {
                    return Err(Stop::Gone);
                }
                Ok(true)
            }
        }
    }

    /// Waits until something is there; false: the stream ended.
    pub async fn peek(&self) -> Result<bool, Stop> {
        loop {
            if !self.unread.borrow().rest().is_empty() {
                return Ok(true);
            }
            if !self.more().await? {
                return Ok(false);
            }
        }
    }

    async fn line(&self) -> Result<String, Stop> {
        loop {
            let found = {
                let mut unread = self.unread.borrow_mut();
                let end = unread.rest().windows(2).position(|two| two == b"\r\n");
                end.map(|at| {
                    let line = unread.rest()[..at].to_vec();
                    unread.advance(at + 2);
                    line
                })
            };
            if let Some(line) = found {
                let bare = line.iter().any(|b| *b < b' ' && *b != b'\t');
                let text = String::from_utf8(line).map_err(|_| Stop::Bad("a line that is no text".into()))?;
                return if bare { Err(Stop::Bad(format!("a control byte in {text:?}"))) } else { Ok(text) };
            }
            if self.unread.borrow().rest().len() > 64 * 1024 {
                return Err(Stop::Bad("a line without end".into()));
            }
            if !self.more().await? {
                return Err(Stop::Gone);
            }
        }
    }

    /// A head: its first line, and its fields with names in lower case.
    pub async fn head(&self) -> Result<Head, Stop> {
        let mut head = Head { first: self.line().await?, fields: Vec::new() };
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(head);
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| Stop::Bad(format!("{line:?} is no field")))?;
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(Stop::Bad(format!("{name:?} is no name")));
            }
            head.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// At most `most` bytes that are there are told: how many. 0: the stream ended.
    async fn some(&self, most: usize, told: impl Fn(&[u8])) -> Result<usize, Stop> {
        if !self.peek().await? {
            return Ok(0);
        }
        let mut unread = self.unread.borrow_mut();
        let n = most.min(unread.rest().len());
        told(&unread.rest()[..n]);
        unread.advance(n);
        Ok(n)
    }

    /// Exactly `len` bytes, piece by piece; they are told with their place.
    pub async fn exactly(&self, len: usize, from: usize, told: &dyn Fn(usize, &[u8])) -> Result<(), Stop> {
        let mut left = len;
        while left > 0 {
            let n = self.some(left, |piece| told(from + (len - left), piece)).await?;
            if n == 0 {
                return Err(Stop::Gone);
            }
            left -= n;
        }
        Ok(())
    }

    /// A chunked body with its trailers; the answer is its length.
    pub async fn chunked(&self, told: &dyn Fn(usize, &[u8])) -> Result<usize, Stop> {
        let mut at = 0;
        loop {
            let line = self.line().await?;
            let size =
                usize::from_str_radix(&line, 16).map_err(|_| Stop::Bad(format!("chunk size {line:?}")))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(at);
            }
            self.exactly(size, at, told).await?;
            at += size;
            if !self.line().await?.is_empty() {
                return Err(Stop::Bad("a chunk that is longer than it said".into()));
            }
        }
    }

    /// Everything up to the end of the stream.
    pub async fn to_end(&self, told: &dyn Fn(usize, &[u8])) -> Result<usize, Stop> {
        let mut at = 0;
        loop {
            let n = self.some(usize::MAX, |piece| told(at, piece)).await?;
            if n == 0 {
                return Ok(at);
            }
            at += n;
        }
    }

    /// Writes `len` bytes of a body, which `bytes` writes, piece by piece; `last` is told before the last one.
    /// What ends a chunked body is the caller's to write.
    pub async fn write_body(
        &self,
        pieces: &Pieces,
        len: usize,
        bytes: impl Fn(usize, usize, &mut Vec<u8>),
        last: impl Fn(),
    ) -> Result<(), NetError> {
        let mut at = 0;
        while at < len {
            let n = pieces.size.min(len - at);
            let mut piece = Vec::with_capacity(n + 16);
            if pieces.framing == Framing::Chunked {
                piece.extend_from_slice(format!("{n:x}\r\n").as_bytes());
            }
            bytes(at, n, &mut piece);
            if pieces.framing == Framing::Chunked {
                piece.extend_from_slice(b"\r\n");
            }
            at += n;
            if at == len {
                last();
            }
            self.write(&piece).await?;
            if !pieces.pause.is_zero() {
                self.rt.sleep(pieces.pause).await;
            }
        }
        Ok(())
    }

    pub async fn write(&self, bytes: &[u8]) -> Result<(), NetError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.socket.send(Chunk::copy_from(bytes).into()).await
    }
}
