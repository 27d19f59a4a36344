//! Listeners and sockets as values and awaits: handles into the shard's `Kernel`.
//!
//! Dropping a `Socket` cancels what is in flight, waits for the kernel's last word in the background, and closes.

use std::fmt;
use std::future::poll_fn;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;

use crate::Inner;
use crate::addr::SocketAddress;
use crate::buf::{Chunk, Chunks, Strain};
use crate::driver::Driver;
use crate::kernel::Kernel;
use crate::listen::{self, ConnectOptions};
use crate::op::{ConnectState, Fd, NetError, RecvClass, RecvState, SockId};
use crate::task::TaskId;

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
        inner.kernel.borrow().driver.prepare(fd.as_raw_fd());
        Socket::adopt_accepted(inner, fd)
    }

    /// Adopts what the driver accepted: it has the right flags, and no-delay comes from the listener.
    fn adopt_accepted(inner: &Rc<Inner>, fd: OwnedFd) -> Result<Socket, NetError> {
        let id = inner.kernel.borrow_mut().open(fd)?;
        Ok(Socket { inner: Rc::clone(inner), id })
    }

    /// The next received bytes; `Ok(None)`: the peer has finished sending. Arms the receive when it is not.
    pub fn poll_recv(&self) -> Poll<Result<Option<Chunk>, NetError>> {
        self.inner.operate();
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
        sock.watcher = None;
        sock.queue.shrink();
        kernel.want_recv(self.id, &self.inner.counters, &self.inner.budget);
        Poll::Pending
    }

    pub async fn recv(&self) -> Result<Option<Chunk>, NetError> {
        poll_fn(|_| self.poll_recv()).await
    }

    /// Keeps the receive armed and wakes the current task when anything comes.
    pub fn watch(&self) {
        self.watched_by(self.inner.tasks.current(), None);
    }

    /// Keeps the receive armed, and when anything comes wakes `task` and notes `number` for
    /// [`Rt::take_noted`](crate::Rt::take_noted): a pool's reaper watches what others gave back. It ends when
    /// somebody waits to receive.
    pub fn watch_for(&self, task: TaskId, number: u32) {
        self.watched_by(task, Some(number));
    }

    fn watched_by(&self, task: TaskId, number: Option<u32>) {
        let mut kernel = self.inner.kernel.borrow_mut();
        let sock = kernel.socks.at(self.id);
        (sock.recv_task, sock.watcher) = (task, number);
        kernel.want_recv(self.id, &self.inner.counters, &self.inner.budget);
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
        if sock.recv == RecvState::Armed
            && sock.armed_class != class
            && self.inner.budget.strain() == Strain::None
        {
            kernel.stop_recv(self.id, true);
        }
    }

    /// Stops receiving; what has arrived stays queued, the rest stays with the kernel until the next `poll_recv`.
    pub fn pause_recv(&self) {
        self.inner.kernel.borrow_mut().stop_recv(self.id, false);
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

    fn with_fd<R>(&self, f: impl FnOnce(&Driver, Fd) -> R) -> R {
        let mut kernel = self.inner.kernel.borrow_mut();
        let fd = kernel.socks.at(self.id).fd.as_ref().expect("an open socket").as_raw_fd();
        f(&kernel.driver, fd)
    }

    /// Tells the peer that nothing more comes.
    pub fn shutdown_write(&self) {
        self.with_fd(Driver::shutdown_write);
    }

    /// The close will be a reset.
    pub fn reset_on_close(&self) {
        self.inner.kernel.borrow_mut().socks.at(self.id).reset_on_close = true;
    }

    pub fn local_addr(&self) -> Option<SocketAddress> {
        self.with_fd(Driver::local_addr)
    }

    pub fn peer_addr(&self) -> Option<SocketAddress> {
        self.with_fd(Driver::peer_addr)
    }
}

/// A connection attempt; dropping it gives it up.
#[derive(Debug)]
pub struct Connect {
    socket: Option<Result<Socket, NetError>>,
}

impl Connect {
    pub(crate) fn start(inner: &Rc<Inner>, to: &SocketAddress, options: &ConnectOptions) -> Connect {
        let made = inner.kernel.borrow().driver.stream_socket(to, options);
        let opened = made.and_then(|fd| Socket::adopt(inner, fd));
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
        self.inner.kernel.borrow_mut().close_listener(self.number);
    }
}

impl Listener {
    pub(crate) fn adopt(inner: &Rc<Inner>, fd: OwnedFd) -> Result<Listener, NetError> {
        let mut kernel = inner.kernel.borrow_mut();
        kernel.driver.prepare(fd.as_raw_fd());
        let number = kernel.listen(fd);
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

    /// Takes no more connections until the next `poll_accept`: they wait with the kernel.
    pub fn pause(&self) {
        self.inner.kernel.borrow_mut().stop_accept(self.number);
    }

    pub async fn accept(&self) -> Result<Socket, NetError> {
        poll_fn(|_| self.poll_accept()).await
    }

    pub fn local_addr(&self) -> Option<SocketAddress> {
        let kernel = self.inner.kernel.borrow();
        kernel.listens[self.number as usize]
            .fd
            .as_ref()
            .and_then(|fd| kernel.driver.local_addr(fd.as_raw_fd()))
    }
}
