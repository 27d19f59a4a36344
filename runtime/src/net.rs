//! Listeners and sockets as values and awaits, over whatever driver runs.
//!
//! `Kernel` is the shard's table of sockets; `Socket` and `Listener` are handles into it. Dropping a `Socket`
//! cancels what is in flight, waits for the kernel's last word in the background, and closes.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::Counters;
use crate::Inner;
use crate::addr::SocketAddress;
use crate::buf::{Chunk, Chunks};
use crate::driver::Driver;
use crate::limits;
use crate::listen::{self, ConnectOptions};
use crate::op::{Completion, ConnectState, Fd, NetError, RecvClass, RecvState, SockId, Socks};
use crate::task::{TaskId, Tasks};
use crate::time::Instant;

pub(crate) use crate::listen::RawAddress;

#[derive(Debug)]
struct Listen {
    fd: Option<OwnedFd>,
    armed: bool,
    cancelling: bool,
    /// The owner wants connections.
    wanted: bool,
    queue: VecDeque<Result<OwnedFd, NetError>>,
    task: TaskId,
}

/// All sockets of one shard and the driver under them.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) driver: Driver,
    pub(crate) socks: Socks,
    listens: Vec<Listen>,
    /// Sockets whose receive ended for want of a buffer.
    starved: Vec<SockId>,
    /// Descriptors ran out: accepting starts again when one closes, or then.
    accept_again: Option<Instant>,
    completions: Vec<Completion>,
    sends: Vec<SockId>,
}

impl Kernel {
    pub(crate) fn new(driver: Driver) -> Kernel {
        Kernel {
            driver,
            socks: Socks::default(),
            listens: Vec::new(),
            starved: Vec::new(),
            accept_again: None,
            completions: Vec::new(),
            sends: Vec::new(),
        }
    }

    /// When a turn must end although nothing happens, besides timers.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        if !self.starved.is_empty() {
            // Buffers come back when tasks run; look again soon.
            return Some(Duration::from_millis(1));
        }
        self.accept_again.map(|at| at - now)
    }

    pub(crate) fn turn(&mut self, wait: Option<Duration>, spin: Duration, now: Instant, cx: &Notes<'_>) {
        self.feed_starved(cx);
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_more();
        }
        self.try_sends();
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.turn(wait, spin, &mut completions);
        for completion in completions.drain(..) {
            self.complete(completion, now, cx);
        }
        self.completions = completions;
    }

    /// Tries what the driver has collected since the last turn.
    fn try_sends(&mut self) {
        self.driver.take_sends(&mut self.sends);
        for id in self.sends.drain(..) {
            if let Some(sock) = self.socks.find(id)
                && let (Some(fd), Some(chunks)) = (&sock.fd, &sock.sending)
            {
                self.driver.try_send(id, fd.as_raw_fd(), chunks);
            }
        }
    }

    fn complete(&mut self, completion: Completion, now: Instant, cx: &Notes<'_>) {
        cx.counters.add(&cx.counters.completions, 1);
        match completion {
            Completion::Recv { id, result, more } => self.received(id, result, more, cx),
            Completion::Sent { id, result } => self.sent(id, result, cx),
            Completion::Connected { id, result } => {
                let sock = self.socks.at(id);
                sock.connect = ConnectState::Done(result);
                cx.tasks.wake(sock.send_task);
                self.close_if_orphan(id);
            }
            Completion::Accepted { listener, result, more } => self.accepted(listener, result, more, now, cx),
            Completion::Woken => cx.woken.set(true),
        }
    }

    fn received(&mut self, id: SockId, result: Result<Option<Chunk>, NetError>, more: bool, cx: &Notes<'_>) {
        let sock = self.socks.at(id);
        if !more {
            sock.recv = RecvState::Paused;
        }
        match result {
            Ok(Some(chunk)) => {
                cx.counters.add(&cx.counters.recvs, 1);
                sock.queue.push(chunk);
                if sock.recv == RecvState::Armed && sock.queue.capacity() >= limits::RECV_CREDIT {
                    sock.recv = RecvState::Cancelling;
                    self.driver.cancel_recv(id, sock.armed_class);
                }
            }
            Ok(None) => sock.end = Some(Ok(())),
            Err(NetError::Canceled) => {}
            Err(NetError::NoBuffers) => {
                let counter = match sock.armed_class {
                    RecvClass::Small => &cx.counters.small_dry,
                    RecvClass::Large => &cx.counters.large_dry,
                };
                cx.counters.add(counter, 1);
                let class = sock.armed_class;
                if !sock.starved && !sock.orphan {
                    sock.starved = true;
                    self.starved.push(id);
                }
                let _bounded = self.driver.grow(class);
            }
            Err(error) => sock.end = Some(Err(error)),
        }
        let sock = self.socks.at(id);
        cx.tasks.wake(sock.recv_task);
        self.close_if_orphan(id);
    }

    fn sent(&mut self, id: SockId, result: Result<usize, NetError>, cx: &Notes<'_>) {
        let sock = self.socks.at(id);
        let chunks = sock.sending.as_mut().expect("a send completes once");
        match result {
            Ok(n) if n < chunks.bytes() && !sock.orphan => {
                chunks.advance(n);
                if let Some(fd) = &sock.fd {
                    self.driver.send(id, fd.as_raw_fd(), chunks);
                }
                return;
            }
            Ok(_) => {
                sock.sending = None;
                sock.sent = Some(Ok(()));
            }
            Err(error) => {
                sock.sending = None;
                sock.sent = Some(Err(error));
            }
        }
        cx.tasks.wake(sock.send_task);
        self.close_if_orphan(id);
    }

    /// Arms again what waited for a buffer, when there may be one.
    fn feed_starved(&mut self, cx: &Notes<'_>) {
        for id in std::mem::take(&mut self.starved) {
            if let Some(sock) = self.socks.find(id) {
                sock.starved = false;
                self.arm(id, cx.counters);
            }
        }
    }

    fn arm(&mut self, id: SockId, counters: &Counters) {
        let sock = self.socks.at(id);
        if sock.recv != RecvState::Paused || sock.end.is_some() || sock.starved || sock.orphan {
            return;
        }
        if sock.queue.capacity() >= limits::RECV_CREDIT {
            return;
        }
        let Some(fd) = &sock.fd else { return };
        sock.recv = RecvState::Armed;
        sock.armed_class = sock.class;
        counters.add(&counters.recv_arms, 1);
        self.driver.arm_recv(id, fd.as_raw_fd(), sock.class);
    }

    /// Adopts a connected or connecting descriptor.
    fn open(&mut self, fd: OwnedFd) -> Result<SockId, NetError> {
        let id = self.socks.take();
        if let Err(error) = self.driver.open(id, fd.as_raw_fd()) {
            self.socks.give(id);
            return Err(error);
        }
        self.socks.at(id).fd = Some(fd);
        Ok(id)
    }

    /// The owner is gone: cancels what is in flight; the kernel's last word closes.
    fn abandon(&mut self, id: SockId) {
        let sock = self.socks.at(id);
        sock.orphan = true;
        sock.queue = Chunks::new();
        let (recv, class, sending) = (sock.recv, sock.armed_class, sock.sending.is_some());
        let connecting = sock.connect == ConnectState::Running;
        if recv == RecvState::Armed {
            sock.recv = RecvState::Cancelling;
            self.driver.cancel_recv(id, class);
        }
        if sending {
            self.driver.cancel_send(id);
        }
        if connecting {
            self.driver.cancel_connect(id);
        }
        self.close_if_orphan(id);
    }

    fn close_if_orphan(&mut self, id: SockId) {
        let sock = self.socks.at(id);
        if !sock.orphan || sock.in_flight() {
            return;
        }
        let (fd, reset) = (sock.fd.take(), sock.reset_on_close);
        self.driver.closed(id);
        self.socks.give(id);
        if let Some(fd) = fd {
            if reset {
                listen::linger_reset(fd.as_raw_fd());
            }
            drop(fd);
        }
        if self.accept_again.is_some() {
            self.accept_more();
        }
    }

    fn accepted(
        &mut self,
        listener: u32,
        result: Result<OwnedFd, NetError>,
        more: bool,
        now: Instant,
        cx: &Notes<'_>,
    ) {
        let listen = &mut self.listens[listener as usize];
        if !more {
            (listen.armed, listen.cancelling) = (false, false);
        }
        match result {
            Err(NetError::Canceled) => {}
            // The client was gone before we came to it.
            Err(NetError::Os(libc::ECONNABORTED) | NetError::Reset) => {}
            Err(error @ (NetError::NoDescriptors | NetError::NoBuffers)) => {
                cx.counters.add(&cx.counters.accept_pauses, 1);
                listen.queue.push_back(Err(error));
                self.accept_again = Some(now + Duration::from_millis(limits::ACCEPT_PAUSE_MS));
            }
            other => listen.queue.push_back(other),
        }
        let listen = &mut self.listens[listener as usize];
        cx.tasks.wake(listen.task);
        if !more && self.accept_again.is_none() {
            self.arm_accept(listener);
        }
    }

    fn arm_accept(&mut self, listener: u32) {
        let listen = &mut self.listens[listener as usize];
        let Some(fd) = &listen.fd else { return };
        if listen.wanted && !listen.armed {
            listen.armed = true;
            if let Err(error) = self.driver.accept(listener, fd.as_raw_fd()) {
                listen.armed = false;
                listen.queue.push_back(Err(error));
            }
        }
    }

    fn accept_more(&mut self) {
        self.accept_again = None;
        for listener in 0..self.listens.len() {
            self.arm_accept(u32::try_from(listener).expect("few listeners"));
        }
    }

    fn stop_accept(&mut self, listener: u32) {
        let listen = &mut self.listens[listener as usize];
        listen.wanted = false;
        if listen.armed && !listen.cancelling {
            listen.cancelling = true;
            self.driver.cancel_accept(listener);
        }
    }

    /// At the end: no accept may outlive the shard.
    pub(crate) fn stop_all(&mut self) {
        for listener in 0..self.listens.len() {
            self.stop_accept(u32::try_from(listener).expect("few listeners"));
        }
    }

    pub(crate) fn accepting(&self) -> bool {
        self.listens.iter().any(|l| l.armed)
    }
}

/// What a completion may touch besides the sockets.
pub(crate) struct Notes<'a> {
    pub(crate) tasks: &'a Tasks,
    pub(crate) counters: &'a Counters,
    pub(crate) woken: &'a std::cell::Cell<bool>,
}

/// A connected stream socket of this shard.
pub struct Socket {
    inner: Rc<Inner>,
    id: SockId,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.id.index)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.inner.kernel.borrow_mut().abandon(self.id);
    }
}

impl Socket {
    /// Adopts a descriptor of unknown settings.
    pub(crate) fn adopt(inner: &Rc<Inner>, fd: OwnedFd) -> Result<Socket, NetError> {
        listen::set_nodelay(fd.as_raw_fd());
        let nonblocking = inner.kernel.borrow().driver.wants_nonblocking();
        listen::set_nonblocking(fd.as_raw_fd(), nonblocking);
        Socket::adopt_accepted(inner, fd)
    }

    /// Adopts what the driver accepted: it has the right flags, and no-delay comes from the listener.
    fn adopt_accepted(inner: &Rc<Inner>, fd: OwnedFd) -> Result<Socket, NetError> {
        let id = inner.kernel.borrow_mut().open(fd)?;
        Ok(Socket { inner: Rc::clone(inner), id })
    }

    /// The next received bytes; `Ok(None)`: the peer has finished sending. Arms the receive when it is not.
    pub fn poll_recv(&self) -> Poll<Result<Option<Chunk>, NetError>> {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        if let Some(chunk) = sock.queue.pop() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        match sock.end {
            Some(Ok(())) => return Poll::Ready(Ok(None)),
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => {}
        }
        sock.recv_task = self.inner.tasks.current();
        sock.queue.shrink();
        if sock.recv == RecvState::Paused {
            kernel.arm(self.id, &self.inner.counters);
        }
        Poll::Pending
    }

    pub async fn recv(&self) -> Result<Option<Chunk>, NetError> {
        poll_fn(|_| self.poll_recv()).await
    }

    /// Keeps the receive armed and wakes the current task when anything comes: for idle pooled connections.
    pub fn watch(&self) {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        sock.recv_task = self.inner.tasks.current();
        if sock.recv == RecvState::Paused {
            kernel.arm(self.id, &self.inner.counters);
        }
    }

    /// Wakes `task` instead, when anything comes: a pool's reaper watches what others gave back.
    pub fn watch_for(&self, task: TaskId) {
        self.watch();
        self.inner.kernel.borrow_mut().socks.at(self.id).recv_task = task;
    }

    /// Whether bytes, the end or an error have come and were not taken.
    pub fn has_event(&self) -> bool {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        !sock.queue.is_empty() || sock.end.is_some()
    }

    /// The group that the next receive takes its buffers from; an armed one is switched.
    pub fn set_recv_class(&self, class: RecvClass) {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        sock.class = class;
        if sock.recv == RecvState::Armed && sock.armed_class != class {
            sock.recv = RecvState::Cancelling;
            let armed = sock.armed_class;
            kernel.driver.cancel_recv(self.id, armed);
        }
    }

    /// Stops receiving; what has arrived stays queued, the rest stays with the kernel until the next `poll_recv`.
    pub fn pause_recv(&self) {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        if sock.recv == RecvState::Armed {
            sock.recv = RecvState::Cancelling;
            let armed = sock.armed_class;
            kernel.driver.cancel_recv(self.id, armed);
        }
    }

    /// Sends all of it, gathered. One send at a time: [`Socket::poll_sent`] first.
    pub fn start_send(&self, chunks: Chunks) {
        let mut kernel = self.inner.kernel.borrow_mut();
        let Kernel { driver, socks, .. } = &mut *kernel;
        let sock = socks.at(self.id);
        assert!(sock.sending.is_none(), "one send of a socket at a time");
        if chunks.is_empty() {
            sock.sent = Some(Ok(()));
            return;
        }
        sock.sent = None;
        let fd: Fd = sock.fd.as_ref().expect("an open socket").as_raw_fd();
        let chunks = sock.sending.insert(chunks);
        self.inner.counters.add(&self.inner.counters.sends, 1);
        driver.send(self.id, fd, chunks);
    }

    /// Ready when the kernel has taken every byte of the last send, or failed to.
    pub fn poll_sent(&self) -> Poll<Result<(), NetError>> {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        if sock.sending.is_some() {
            sock.send_task = self.inner.tasks.current();
            return Poll::Pending;
        }
        Poll::Ready(sock.sent.unwrap_or(Ok(())))
    }

    pub fn send_in_flight(&self) -> bool {
        self.inner.kernel.borrow_mut().socks.at(self.id).sending.is_some()
    }

    pub async fn send(&self, chunks: Chunks) -> Result<(), NetError> {
        poll_fn(|_| self.poll_sent()).await?;
        self.start_send(chunks);
        poll_fn(|_| self.poll_sent()).await
    }

    fn with_fd<R>(&self, f: impl FnOnce(Fd) -> R) -> R {
        let mut kernel = self.inner.kernel.borrow_mut();
        f(kernel.socks.at(self.id).fd.as_ref().expect("an open socket").as_raw_fd())
    }

    /// Tells the peer that nothing more comes.
    pub fn shutdown_write(&self) {
        self.with_fd(|fd| {
            // WHY: half-close has no safe wrapper on a bare descriptor.
            // SAFETY: no pointers. A socket that is not connected any more answers an error that says nothing new.
            let _gone = unsafe { libc::shutdown(fd, libc::SHUT_WR) };
        });
    }

    /// The close will be a reset.
    pub fn reset_on_close(&self) {
        self.inner.kernel.borrow_mut().socks.at(self.id).reset_on_close = true;
    }

    pub fn local_addr(&self) -> Option<SocketAddress> {
        self.with_fd(listen::local_addr)
    }

    pub fn peer_addr(&self) -> Option<SocketAddress> {
        self.with_fd(listen::peer_addr)
    }
}

/// A connection attempt; dropping it gives it up.
#[derive(Debug)]
pub struct Connect {
    socket: Option<Result<Socket, NetError>>,
}

impl Connect {
    pub(crate) fn start(inner: &Rc<Inner>, to: &SocketAddress, options: &ConnectOptions) -> Connect {
        let opened = listen::stream_socket(to, options).and_then(|fd| Socket::adopt(inner, fd));
        Connect { socket: Some(opened.and_then(|socket| socket.start_connect(to))) }
    }

    pub fn poll(&mut self) -> Poll<Result<Socket, NetError>> {
        let Some(Ok(socket)) = &self.socket else {
            return Poll::Ready(self.socket.take().expect("polled until it was ready"));
        };
        let mut kernel = socket.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(socket.id);
        match sock.connect {
            ConnectState::Done(result) => {
                drop(kernel);
                let socket = self.socket.take().expect("just looked at");
                Poll::Ready(result.and(socket))
            }
            ConnectState::Idle | ConnectState::Running => {
                sock.send_task = socket.inner.tasks.current();
                Poll::Pending
            }
        }
    }
}

impl Future for Connect {
    type Output = Result<Socket, NetError>;
    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll()
    }
}

impl Socket {
    fn start_connect(self, to: &SocketAddress) -> Result<Socket, NetError> {
        let mut kernel = self.inner.kernel.borrow_mut();
        let Kernel { driver, socks, .. } = &mut *kernel;
        let sock = socks.at(self.id);
        let fd = sock.fd.as_ref().expect("just opened").as_raw_fd();
        sock.connect = ConnectState::Running;
        if let Err(error) = driver.connect(self.id, fd, to) {
            sock.connect = ConnectState::Idle;
            drop(kernel);
            return Err(error);
        }
        drop(kernel);
        Ok(self)
    }
}

/// A listening socket of this shard. The descriptor closes when it is dropped and its last accept is over.
pub struct Listener {
    inner: Rc<Inner>,
    number: u32,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.number)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut kernel = self.inner.kernel.borrow_mut();
        kernel.stop_accept(self.number);
        // The number is not used again, and no arm follows: the driver's accept holds its own reference.
        kernel.listens[self.number as usize].fd = None;
    }
}

impl Listener {
    pub(crate) fn adopt(inner: &Rc<Inner>, fd: OwnedFd) -> Result<Listener, NetError> {
        let mut kernel = inner.kernel.borrow_mut();
        listen::set_nonblocking(fd.as_raw_fd(), kernel.driver.wants_nonblocking());
        let number = u32::try_from(kernel.listens.len()).expect("few listeners");
        kernel.listens.push(Listen {
            fd: Some(fd),
            armed: false,
            cancelling: false,
            wanted: false,
            queue: VecDeque::new(),
            task: TaskId::NONE,
        });
        drop(kernel);
        Ok(Listener { inner: Rc::clone(inner), number })
    }

    /// The next connection. An error says that accepting paused (descriptors or memory ran out); it goes on by itself.
    pub fn poll_accept(&self) -> Poll<Result<Socket, NetError>> {
        let mut kernel = self.inner.kernel.borrow_mut();
        let listen = &mut kernel.listens[self.number as usize];
        listen.wanted = true;
        match listen.queue.pop_front() {
            Some(Ok(fd)) => {
                drop(kernel);
                Poll::Ready(Socket::adopt_accepted(&self.inner, fd))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                listen.task = self.inner.tasks.current();
                if kernel.accept_again.is_none() {
                    kernel.arm_accept(self.number);
                }
                Poll::Pending
            }
        }
    }

    pub async fn accept(&self) -> Result<Socket, NetError> {
        poll_fn(|_| self.poll_accept()).await
    }

    /// Stops accepting; connections that the kernel has queued wait, or go to another shard's socket.
    pub fn pause(&self) {
        self.inner.kernel.borrow_mut().stop_accept(self.number);
    }

    pub fn local_addr(&self) -> Option<SocketAddress> {
        let kernel = self.inner.kernel.borrow();
        kernel.listens[self.number as usize].fd.as_ref().and_then(|fd| listen::local_addr(fd.as_raw_fd()))
    }
}
