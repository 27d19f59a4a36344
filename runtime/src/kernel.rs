//! The shard's table of sockets and listeners over whatever driver runs: turns completions into their state.
//!
//! Invariant: a socket whose owner is gone closes after the kernel's last word about it, never before. Knows
//! nothing of awaiting: `net.rs` has the handles.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::Counters;
use crate::buf::{Chunk, Chunks};
use crate::driver::Driver;
use crate::limits;
use crate::listen;
use crate::op::{Completion, ConnectState, NetError, RecvClass, RecvState, SockId, Socks};
use crate::task::{TaskId, Tasks};
use crate::time::Instant;

#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) armed: bool,
    pub(crate) cancelling: bool,
    /// The owner wants connections.
    pub(crate) wanted: bool,
    pub(crate) queue: VecDeque<Result<OwnedFd, NetError>>,
    pub(crate) task: TaskId,
}

/// All sockets of one shard and the driver under them.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) driver: Driver,
    pub(crate) socks: Socks,
    pub(crate) listens: Vec<Listen>,
    /// Sockets whose receive ended for want of a buffer.
    starved: Vec<SockId>,
    /// Descriptors ran out: accepting starts again when one closes, or then.
    pub(crate) accept_again: Option<Instant>,
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

    pub(crate) fn arm(&mut self, id: SockId, counters: &Counters) {
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
    pub(crate) fn open(&mut self, fd: OwnedFd) -> Result<SockId, NetError> {
        let id = self.socks.take();
        if let Err(error) = self.driver.open(id, fd.as_raw_fd()) {
            self.socks.give(id);
            return Err(error);
        }
        self.socks.at(id).fd = Some(fd);
        Ok(id)
    }

    /// The owner is gone: cancels what is in flight; the kernel's last word closes.
    pub(crate) fn abandon(&mut self, id: SockId) {
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

    pub(crate) fn arm_accept(&mut self, listener: u32) {
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

    pub(crate) fn stop_accept(&mut self, listener: u32) {
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
