//! The shard's table of sockets and listeners over whatever driver runs: turns completions into their state.
//!
//! Invariant: a socket whose owner is gone closes after the kernel's last word about it, never before. Knows
//! nothing of awaiting: `net.rs` has the handles.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::Counters;
use crate::buf::{Budget, Chunk, Chunks, Strain};
use crate::driver::Driver;
use crate::limits;
use crate::listen;
use crate::mutation::{Mutation, Planted};
use crate::op::{Completion, ConnectState, NetError, RecvClass, RecvState, SockId, Socks};
use crate::spin::Spin;
use crate::task::{TaskId, Tasks};
use crate::time::Instant;

#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) fd: Option<OwnedFd>,
    /// Other shards may accept from the same socket.
    shared: bool,
    pub(crate) armed: bool,
    pub(crate) cancelling: bool,
    /// The owner wants connections.
    pub(crate) wanted: bool,
    pub(crate) queue: VecDeque<Result<OwnedFd, NetError>>,
    pub(crate) task: TaskId,
}

/// Capacity of unread buffers from which a receive pauses.
fn credit(budget: &Budget) -> usize {
    if budget.strain() == Strain::None { limits::RECV_CREDIT } else { 1 }
}

const CLASSES: [RecvClass; 2] = [RecvClass::Small, RecvClass::Large];

/// All sockets of one shard and the driver under them.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) driver: Driver,
    pub(crate) socks: Socks,
    pub(crate) listens: Vec<Listen>,
    /// Sockets whose receive ended for want of a buffer, by class; they look again then.
    starved: [Vec<SockId>; CLASSES.len()],
    starved_until: Instant,
    /// A group ran dry in this turn and cannot grow.
    dry: bool,
    /// Descriptors ran out: accepting starts again when one closes, or then.
    pub(crate) accept_again: Option<Instant>,
    completions: Vec<Completion>,
    sends: Vec<SockId>,
    spin: Spin,
    /// Watched sockets to which something has come.
    noted: Vec<u32>,
    planted: Planted,
}

impl Kernel {
    pub(crate) fn new(driver: Driver, spin: Spin, planted: Planted) -> Kernel {
        Kernel {
            driver,
            socks: Socks::default(),
            listens: Vec::new(),
            starved: Default::default(),
            starved_until: Instant::FAR,
            dry: false,
            accept_again: None,
            completions: Vec::new(),
            sends: Vec::new(),
            spin,
            noted: Vec::new(),
            planted,
        }
    }

    pub(crate) fn take_noted(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.noted);
    }

    /// When a turn must end although nothing happens, besides timers.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        let starved = CLASSES.into_iter().filter(|&class| !self.starved[class as usize].is_empty());
        let fed = starved.map(|class| {
            if self.driver.group(class).free_count() > 0 { Duration::ZERO } else { self.starved_until - now }
        });
        fed.chain(self.accept_again.map(|at| at - now)).min()
    }

    pub(crate) fn turn(&mut self, wait: Option<Duration>, now: Instant, cx: &Notes<'_>) {
        self.planted.pass("turn");
        for class in CLASSES {
            if !self.starved[class as usize].is_empty()
                && (self.driver.group(class).free_count() > 0 || self.starved_until <= now)
            {
                self.feed_starved(class, cx);
            }
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_more();
        }
        self.try_sends();
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.turn(wait, &mut self.spin, &mut completions);
        for completion in completions.drain(..) {
            self.complete(completion, now, cx);
        }
        self.completions = completions;
        if std::mem::take(&mut self.dry) {
            self.copy_unread(cx.budget);
        }
        cx.budget.observe(self.driver.group(RecvClass::Small), self.driver.group(RecvClass::Large));
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
            Completion::Recv { id, result, more } => self.received(id, result, more, now, cx),
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

    fn received(
        &mut self,
        id: SockId,
        result: Result<Option<Chunk>, NetError>,
        more: bool,
        now: Instant,
        cx: &Notes<'_>,
    ) {
        let sock = self.socks.at(id);
        let cancelled = sock.recv == RecvState::Cancelling;
        if !more {
            sock.recv = RecvState::Paused;
        }
        let stopped = matches!(result, Err(NetError::Canceled | NetError::NoBuffers));
        match result {
            Ok(Some(chunk)) => {
                cx.counters.add(&cx.counters.recvs, 1);
                if self.planted.is(Mutation::LeakedBuffer) && cx.counters.recvs.get().is_multiple_of(64) {
                    Box::leak(Box::new(chunk.clone()));
                }
                sock.queue.push(chunk);
                if sock.recv == RecvState::Armed && sock.queue.capacity() >= credit(cx.budget) {
                    self.stop_recv(id, false);
                }
            }
            Ok(None) => sock.end = Some(Ok(())),
            Err(NetError::Canceled) => {}
            Err(NetError::NoBuffers) => self.ran_dry(id, cancelled, now, cx.counters),
            Err(error) => sock.end = Some(Err(error)),
        }
        let sock = self.socks.at(id);
        if !more && std::mem::take(&mut sock.rearm) && !self.planted.is(Mutation::LostWake) {
            self.arm(id, cx.counters, cx.budget);
        }
        let sock = self.socks.at(id);
        if !stopped {
            if let Some(number) = sock.watcher {
                self.noted.push(number);
            }
            cx.tasks.wake(sock.recv_task);
        }
        self.close_if_orphan(id);
    }

    /// A receive found no buffer: it waits for one, and the group grows towards what is asked of it.
    fn ran_dry(&mut self, id: SockId, cancelled: bool, now: Instant, counters: &Counters) {
        let sock = self.socks.at(id);
        let class = sock.armed_class;
        counters.add(if class == RecvClass::Small { &counters.small_dry } else { &counters.large_dry }, 1);
        if !cancelled && !sock.starved {
            sock.starved = true;
            self.starved[class as usize].push(id);
            self.starved_until = now + Duration::from_millis(limits::STARVED_PAUSE_MS);
        }
        let group = self.driver.group(class);
        if group.free_count() < self.starved[class as usize].len() && !group.grow() {
            self.dry |= group.free_count() == 0;
            if class == RecvClass::Large && group.is_spent() {
                self.use_small(id);
            }
        }
    }

    /// No large buffer will be free soon: a small one is better than none.
    fn use_small(&mut self, id: SockId) {
        let sock = self.socks.at(id);
        if sock.recv == RecvState::Paused && std::mem::take(&mut sock.starved) {
            sock.rearm = true;
            self.starved[RecvClass::Large as usize].retain(|waits| *waits != id);
        }
    }

    /// Wants the receive armed: now, or when its cancel is through.
    pub(crate) fn want_recv(&mut self, id: SockId, counters: &Counters, budget: &Budget) {
        let sock = self.socks.at(id);
        match sock.recv {
            RecvState::Paused => self.arm(id, counters, budget),
            RecvState::Cancelling => sock.rearm = true,
            RecvState::Armed => {}
        }
    }

    /// Stops the receive; `rearm`: only to go on with another class of buffers.
    pub(crate) fn stop_recv(&mut self, id: SockId, rearm: bool) {
        let sock = self.socks.at(id);
        sock.rearm = rearm && sock.recv != RecvState::Paused;
        if std::mem::take(&mut sock.starved) {
            self.starved[sock.armed_class as usize].retain(|waits| *waits != id);
        }
        if sock.recv == RecvState::Armed {
            sock.recv = RecvState::Cancelling;
            self.driver.cancel_recv(id, sock.armed_class);
        }
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

    /// Nothing grows any more: what waits unread and fills less than half of its buffer gives the buffer back.
    fn copy_unread(&mut self, budget: &Budget) {
        for sock in self.socks.iter_mut() {
            sock.queue.compact(budget);
        }
    }

    /// Arms again what waited for a buffer.
    fn feed_starved(&mut self, class: RecvClass, cx: &Notes<'_>) {
        for id in std::mem::take(&mut self.starved[class as usize]) {
            if let Some(sock) = self.socks.find(id) {
                sock.starved = false;
                self.arm(id, cx.counters, cx.budget);
            }
        }
    }

    fn arm(&mut self, id: SockId, counters: &Counters, budget: &Budget) {
        let large_spent = self.driver.group(RecvClass::Large).is_spent();
        let sock = self.socks.at(id);
        if sock.recv != RecvState::Paused || sock.end.is_some() || sock.starved || sock.orphan {
            return;
        }
        if sock.queue.capacity() >= credit(budget) {
            return;
        }
        let Some(fd) = &sock.fd else { return };
        sock.recv = RecvState::Armed;
        sock.armed_class = if large_spent { RecvClass::Small } else { sock.class };
        counters.add(&counters.recv_arms, 1);
        let once = budget.strain() > Strain::None;
        self.driver.arm_recv(id, fd.as_raw_fd(), sock.armed_class, once);
    }

    /// A number for a listening descriptor; that of one that is gone for good is used again.
    pub(crate) fn listen(&mut self, fd: OwnedFd) -> u32 {
        let listen = Listen {
            shared: !listen::has_reuse_port(fd.as_raw_fd()),
            fd: Some(fd),
            armed: false,
            cancelling: false,
            wanted: false,
            queue: VecDeque::new(),
            task: TaskId::NONE,
        };
        let free = self.listens.iter().position(|l| l.fd.is_none() && !l.armed);
        let number = free.unwrap_or(self.listens.len());
        match self.listens.get_mut(number) {
            Some(gone) => *gone = listen,
            None => self.listens.push(listen),
        }
        u32::try_from(number).expect("few listeners")
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
        (sock.orphan, sock.watcher) = (true, None);
        sock.queue = Chunks::new();
        let (sending, connecting) = (sock.sending.is_some(), sock.connect == ConnectState::Running);
        self.stop_recv(id, false);
        if self.planted.is(Mutation::LateCompletion) {
            self.socks.at(id).recv = RecvState::Paused;
        }
        if sending {
            self.driver.cancel_send(id);
        }
        if connecting {
            self.driver.cancel_connect(id);
        }
        self.close_if_orphan(id);
    }

    pub(crate) fn has_grown(&self) -> bool {
        CLASSES.into_iter().any(|class| self.driver.group(class).has_grown())
    }

    /// Free buffers give their memory back.
    pub(crate) fn give_back(&self) {
        CLASSES.into_iter().for_each(|class| self.driver.group(class).give_back());
    }

    fn close_if_orphan(&mut self, id: SockId) {
        let sock = self.socks.at(id);
        if !sock.orphan || sock.in_flight() {
            return;
        }
        let (fd, reset) = (sock.fd.take(), sock.reset_on_close);
        if let Some(fd) = fd {
            self.driver.close(id, fd, reset);
        }
        self.socks.give(id);
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
            // Its owner is gone: what came too late is closed.
            Ok(fd) if listen.fd.is_none() => self.driver.discard(fd),
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
            if let Err(error) = self.driver.accept(listener, fd.as_raw_fd(), listen.shared) {
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

    /// The owner is gone: what it has not taken is closed, and the kernel queues no more.
    pub(crate) fn close_listener(&mut self, listener: u32) {
        self.stop_accept(listener);
        if let Some(fd) = &self.listens[listener as usize].fd {
            self.driver.closed_listener(listener, fd.as_raw_fd());
        }
        let listen = &mut self.listens[listener as usize];
        // An accept that is still in flight holds its own reference.
        listen.fd = None;
        for nobody in listen.queue.drain(..).flatten() {
            self.driver.discard(nobody);
        }
    }

    /// At the end: no accept may outlive the shard.
    pub(crate) fn stop_all(&mut self) {
        for listener in 0..self.listens.len() {
            self.stop_accept(u32::try_from(listener).expect("few listeners"));
        }
    }

    /// Closes every socket at once, whatever the kernel still does with it. Nothing here is used or dropped after that.
    pub(crate) fn scuttle(&mut self) {
        self.driver.scuttle();
        for listen in &mut self.listens {
            listen.fd = None;
            listen.queue.clear();
        }
        for sock in self.socks.iter_mut() {
            if let Some(fd) = sock.fd.take() {
                // An operation that is still in flight holds the socket: the peer must not wait for it.
                listen::shutdown_both(fd.as_raw_fd());
            }
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
    pub(crate) budget: &'a Budget,
    pub(crate) woken: &'a std::cell::Cell<bool>,
}
