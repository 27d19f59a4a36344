//! Which driver runs, and the one place that asks.
//!
//! Every call to the kernel that a shard makes for its sockets goes through here, so that another driver (a seeded
//! network in one process) is another arm and nothing else.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::addr::SocketAddress;
use crate::buf::{Chunks, Group};
use crate::epoll::Epoll;
use crate::listen::{self, ConnectOptions};
use crate::op::{Completion, Fd, NetError, RecvClass, SockId};
#[cfg(feature = "sim")]
use crate::sim::Sim;
use crate::spin::Spin;
use crate::uring::Uring;

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    #[default]
    Auto,
    Uring,
    Epoll,
}

impl std::str::FromStr for DriverChoice {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(DriverChoice::Auto),
            "uring" => Ok(DriverChoice::Uring),
            "epoll" => Ok(DriverChoice::Epoll),
            other => Err(format!("driver '{other}' is none of auto, uring, epoll")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    Uring,
    Epoll,
    #[cfg(feature = "sim")]
    Sim,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverKind::Uring => "io_uring",
            DriverKind::Epoll => "epoll",
            #[cfg(feature = "sim")]
            DriverKind::Sim => "sim",
        })
    }
}

/// Which driver runs and why: for the log and the stats.
#[derive(Debug, Clone)]
pub struct DriverReport {
    pub kind: DriverKind,
    pub reason: String,
}

/// Why a shard's runtime could not be made.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

#[derive(Debug)]
pub(crate) enum Driver {
    Uring(Uring),
    Epoll(Epoll),
    #[cfg(feature = "sim")]
    Sim(Sim),
}

impl Driver {
    pub(crate) fn probe(
        choice: DriverChoice,
        groups: (&Rc<Group>, &Rc<Group>),
        wake: &OwnedFd,
        spin: bool,
    ) -> Result<(Driver, DriverReport), StartError> {
        let (small, large) = groups;
        let copy = || wake.try_clone().map_err(|e| StartError(format!("cannot copy a descriptor: {e}")));
        let refusal = if choice == DriverChoice::Epoll {
            "asked for".to_owned()
        } else {
            match Uring::new(Rc::clone(small), Rc::clone(large), copy()?, spin) {
                Ok(ring) => {
                    let reason =
                        if choice == DriverChoice::Uring { "asked for" } else { "the kernel offers it" };
                    let report = DriverReport { kind: DriverKind::Uring, reason: reason.to_owned() };
                    return Ok((Driver::Uring(ring), report));
                }
                Err(why) if choice == DriverChoice::Uring => {
                    return Err(StartError(format!("driver uring was asked for and cannot run: {why}")));
                }
                Err(why) => format!("io_uring cannot run here: {why}"),
            }
        };
        let epoll = Epoll::new(Rc::clone(small), Rc::clone(large), copy()?)
            .map_err(|why| StartError(format!("driver epoll cannot run: {why}")))?;
        Ok((Driver::Epoll(epoll), DriverReport { kind: DriverKind::Epoll, reason: refusal }))
    }

    /// When a simulated kernel has something to say; a real one is asked by waiting.
    #[cfg(feature = "sim")]
    pub(crate) fn next(&self) -> Option<crate::time::Instant> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => None,
            Driver::Sim(d) => d.next(),
        }
    }

    /// Connections that a simulated kernel handed over, and that were not given back unseen.
    #[cfg(feature = "sim")]
    pub(crate) fn accepted(&self) -> u64 {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => 0,
            Driver::Sim(d) => d.accepted,
        }
    }

    /// Makes a descriptor of unknown settings one of this driver's: the two want sockets of opposite kinds.
    pub(crate) fn prepare(&self, fd: Fd) {
        match self {
            Driver::Uring(_) => listen::set_nonblocking(fd, false),
            Driver::Epoll(_) => listen::set_nonblocking(fd, true),
            #[cfg(feature = "sim")]
            Driver::Sim(_) => {}
        }
    }

    /// A socket that is about to connect.
    pub(crate) fn stream_socket(
        &self,
        to: &SocketAddress,
        options: &ConnectOptions,
    ) -> Result<OwnedFd, NetError> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => listen::stream_socket(to, options),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => Ok(d.stream_socket()),
        }
    }

    pub(crate) fn local_addr(&self, fd: Fd) -> Option<SocketAddress> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => listen::local_addr(fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.local_addr(fd),
        }
    }

    pub(crate) fn peer_addr(&self, fd: Fd) -> Option<SocketAddress> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => listen::peer_addr(fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.peer_addr(fd),
        }
    }

    /// Tells the peer that nothing more comes.
    pub(crate) fn shutdown_write(&self, fd: Fd) {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => listen::shutdown_write(fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.shutdown_write(fd),
        }
    }

    /// Closes a socket about which the kernel has said its last word; by a reset if asked.
    pub(crate) fn close(&mut self, id: SockId, fd: OwnedFd, reset: bool) {
        if reset {
            listen::linger_reset(fd.as_raw_fd());
        }
        match self {
            Driver::Uring(d) => d.close(fd),
            Driver::Epoll(d) => d.close(id, fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.close(id, fd, reset),
        }
    }

    /// Closes a connection that nobody took from its listener.
    pub(crate) fn discard(&mut self, fd: OwnedFd) {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => drop(fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.discard(fd),
        }
    }

    /// Takes everything back from the kernel that it would do by itself. The driver is neither used nor dropped after it.
    pub(crate) fn scuttle(&mut self) {
        match self {
            Driver::Uring(d) => d.scuttle(),
            Driver::Epoll(_) => {}
            #[cfg(feature = "sim")]
            Driver::Sim(_) => {}
        }
    }

    pub(crate) fn open(&mut self, id: SockId, fd: Fd) -> Result<(), NetError> {
        match self {
            Driver::Uring(_) => Ok(()),
            Driver::Epoll(d) => d.open(id, fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => {
                d.open(id, fd);
                Ok(())
            }
        }
    }

    /// `once`: little is wanted, where the driver would otherwise go on by itself.
    pub(crate) fn arm_recv(&mut self, id: SockId, fd: Fd, class: RecvClass, once: bool) {
        match self {
            Driver::Uring(d) => d.arm_recv(id, fd, class, once),
            Driver::Epoll(d) => d.arm_recv(id, class),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.arm_recv(id, class),
        }
    }

    pub(crate) fn cancel_recv(&mut self, id: SockId, class: RecvClass) {
        match self {
            Driver::Uring(d) => d.cancel_recv(id, class),
            Driver::Epoll(d) => d.cancel_recv(id),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.cancel_recv(id),
        }
    }

    pub(crate) fn send(&mut self, id: SockId, fd: Fd, chunks: &Chunks) {
        match self {
            Driver::Uring(d) => d.send(id, fd, chunks),
            Driver::Epoll(d) => d.send(id),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.send(id),
        }
    }

    pub(crate) fn cancel_send(&mut self, id: SockId) {
        match self {
            Driver::Uring(d) => d.cancel_send(id),
            Driver::Epoll(d) => d.cancel_send(id),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.cancel_send(id),
        }
    }

    pub(crate) fn connect(&mut self, id: SockId, fd: Fd, to: &SocketAddress) -> Result<(), NetError> {
        match self {
            Driver::Uring(d) => d.connect(id, fd, to),
            Driver::Epoll(d) => d.connect(id, fd, to),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => {
                d.connect(id, to);
                Ok(())
            }
        }
    }

    pub(crate) fn cancel_connect(&mut self, id: SockId) {
        match self {
            Driver::Uring(d) => d.cancel_connect(id),
            Driver::Epoll(d) => d.cancel_connect(id),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.cancel_connect(id),
        }
    }

    /// `shared`: other shards may accept from the same socket.
    pub(crate) fn accept(&mut self, listener: u32, fd: Fd, shared: bool) -> Result<(), NetError> {
        match self {
            Driver::Uring(d) => {
                d.accept(listener, fd, shared);
                Ok(())
            }
            Driver::Epoll(d) => d.accept(listener, fd),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => {
                d.accept(listener, fd);
                Ok(())
            }
        }
    }

    pub(crate) fn cancel_accept(&mut self, listener: u32) {
        match self {
            Driver::Uring(d) => d.cancel_accept(listener),
            Driver::Epoll(d) => d.cancel_accept(listener),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.cancel_accept(listener),
        }
    }

    /// The last accept of a listener is over or being cancelled, and its descriptor is about to close.
    pub(crate) fn closed_listener(&mut self, listener: u32, fd: Fd) {
        match self {
            Driver::Uring(_) => {
                let _closes_without_a_word = fd;
            }
            Driver::Epoll(d) => d.closed_listener(listener),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.closed_listener(listener, fd),
        }
    }

    /// The buffers that receives of a class land in.
    pub(crate) fn group(&self, class: RecvClass) -> &Rc<Group> {
        match self {
            Driver::Uring(d) => d.group(class),
            Driver::Epoll(d) => d.group(class),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.group(class),
        }
    }

    pub(crate) fn turn(&mut self, wait: Option<Duration>, spin: &mut Spin, out: &mut Vec<Completion>) {
        match self {
            Driver::Uring(d) => d.turn(wait, spin, out),
            Driver::Epoll(d) => d.turn(wait, spin, out),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.turn(wait, out),
        }
    }

    /// Sends that the driver has collected and wants tried now.
    pub(crate) fn take_sends(&mut self, into: &mut Vec<SockId>) {
        match self {
            Driver::Uring(_) => {}
            Driver::Epoll(d) => d.take_sends(into),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.take_sends(into),
        }
    }

    pub(crate) fn try_send(&mut self, id: SockId, fd: Fd, chunks: &Chunks) {
        match self {
            Driver::Uring(d) => d.send(id, fd, chunks),
            Driver::Epoll(d) => d.try_send(id, fd, chunks),
            #[cfg(feature = "sim")]
            Driver::Sim(d) => d.try_send(id, chunks),
        }
    }
}
