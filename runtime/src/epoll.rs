//! The epoll driver: the same completions over edge-triggered readiness.
//!
//! Sends are collected and tried together when the turn begins, as the ring does, and what is readable is read
//! together when it is known, each in one system call: so the kernel's and the proxy's code each run in one go.
//! Invariant: a slot that is armed and readable stands in `ready`, so no edge is forgotten.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::addr::SocketAddress;
use crate::batch::Batch;
use crate::buf::{Chunks, Group};
use crate::limits;
use crate::listen::{self, RawAddress};
use crate::op::{Completion, Fd, Gather, NetError, RecvClass, SockId, last_os_error};
use crate::spin::Spin;

const LISTENER: u64 = 1 << 63;
const WAKE: u64 = 1 << 62;

const IN: u32 = libc::EPOLLIN.cast_unsigned();
const OUT: u32 = libc::EPOLLOUT.cast_unsigned();
/// The peer's FIN.
const FIN: u32 = libc::EPOLLRDHUP.cast_unsigned();
const FAILED: u32 = (libc::EPOLLERR | libc::EPOLLHUP).cast_unsigned();
const EDGE: u32 = libc::EPOLLET.cast_unsigned();

#[derive(Debug, Default, Clone)]
struct Slot {
    generation: u32,
    fd: Fd,
    open: bool,
    armed: Option<RecvClass>,
    readable: bool,
    /// The peer's FIN or an error was announced: a short read does not mean that nothing more comes.
    hung_up: bool,
    queued: bool,
    /// A send or connect waits for room.
    waits_send: bool,
    /// A collected send ends here when it finds no room: its owner is gone.
    gives_up_send: bool,
    waits_connect: bool,
}

#[derive(Debug, Default, Clone)]
struct Listening {
    fd: Fd,
    /// Readiness is asked for.
    known: bool,
    armed: bool,
    readable: bool,
}

/// A receive of the batch: whose, and the buffer that it reads into.
#[derive(Debug)]
struct Reading {
    index: u32,
    buffer: u16,
    class: RecvClass,
}

/// Readiness of one shard.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    wake: OwnedFd,
    small: Rc<Group>,
    large: Rc<Group>,
    slots: Vec<Slot>,
    /// Slots that are armed and readable.
    ready: Vec<u32>,
    /// Completions that are known already and wait for the next turn.
    pending: Vec<Completion>,
    /// Sends to try when the next turn begins; their bytes lie with the socket's slot.
    sends: Vec<SockId>,
    listeners: Vec<Listening>,
    batch: Batch,
    /// The sends of the batch.
    trying: Vec<SockId>,
    /// Parts of the batch's gathered sends: the first `gathered`; the others are spare.
    gathers: Vec<Gather>,
    gathered: usize,
    /// The receives of the batch.
    reading: Vec<Reading>,
    events: Vec<libc::epoll_event>,
    skipped: bool,
}

impl Epoll {
    pub(crate) fn new(small: Rc<Group>, large: Rc<Group>, wake: OwnedFd) -> Result<Epoll, String> {
        // WHY: readiness is the kernel's to tell.
        // SAFETY: no pointers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(format!("epoll_create1: {}", std::io::Error::last_os_error()));
        }
        // WHY: the descriptor is ours to close.
        // SAFETY: the kernel has just made it for us.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let wake_fd = wake.as_raw_fd();
        let this = Epoll {
            epoll,
            wake,
            small,
            large,
            slots: Vec::new(),
            ready: Vec::new(),
            pending: Vec::new(),
            sends: Vec::new(),
            listeners: Vec::new(),
            batch: Batch::new(),
            trying: Vec::new(),
            gathers: Vec::new(),
            gathered: 0,
            reading: Vec::new(),
            events: Vec::with_capacity(limits::EVENTS_PER_TURN),
            skipped: false,
        };
        this.add(wake_fd, IN, WAKE).map_err(|e| format!("epoll_ctl: {e}"))?;
        Ok(this)
    }

    fn add(&self, fd: Fd, events: u32, data: u64) -> Result<(), NetError> {
        let mut event = libc::epoll_event { events, u64: data };
        // WHY: interest is registered once, for the life of the descriptor.
        // SAFETY: the event lives across the call.
        let answer =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if answer == 0 { Ok(()) } else { Err(NetError::last()) }
    }

    pub(crate) fn open(&mut self, id: SockId, fd: Fd) -> Result<(), NetError> {
        let at = id.index as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, Slot::default());
        }
        self.slots[at] = Slot { generation: id.generation, fd, open: true, ..Slot::default() };
        self.add(fd, IN | OUT | FIN | EDGE, id.to_bits())
    }

    pub(crate) fn close(&mut self, id: SockId, fd: OwnedFd) {
        self.slots[id.index as usize].open = false;
        drop(fd);
    }

    pub(crate) fn arm_recv(&mut self, id: SockId, class: RecvClass) {
        let slot = &mut self.slots[id.index as usize];
        slot.armed = Some(class);
        if slot.readable && !slot.queued {
            slot.queued = true;
            self.ready.push(id.index);
        }
    }

    pub(crate) fn cancel_recv(&mut self, id: SockId) {
        // Not armed: the last completion is on its way already, and a second one would find a stranger's slot.
        if self.slots[id.index as usize].armed.take().is_some() {
            self.pending.push(Completion::Recv { id, result: Err(NetError::Canceled), more: false });
        }
    }

    pub(crate) fn send(&mut self, id: SockId) {
        self.sends.push(id);
    }

    /// The sends that were collected, into a list that the caller keeps.
    pub(crate) fn take_sends(&mut self, into: &mut Vec<SockId>) {
        into.append(&mut self.sends);
    }

    /// Collects it for the batch that the turn begins with; the chunks live until then.
    pub(crate) fn try_send(&mut self, id: SockId, fd: Fd, chunks: &Chunks) {
        if self.batch.is_full() {
            self.flush_sends();
        }
        let mut parts = chunks.iter();
        let (first, second) = (parts.next().expect("a send has bytes"), parts.next());
        if second.is_none() {
            self.batch.write(fd, first);
        } else {
            if self.gathers.len() == self.gathered {
                self.gathers.push(Gather::empty());
            }
            let gather = &mut self.gathers[self.gathered];
            self.gathered += 1;
            gather.fill(chunks);
            self.batch.write_gathered(fd, &gather.parts);
        }
        self.trying.push(id);
    }

    fn flush_sends(&mut self) {
        for (id, result) in self.trying.drain(..).zip(self.batch.run()) {
            let result = match result {
                Err(NetError::Os(libc::EAGAIN)) => {
                    let slot = &mut self.slots[id.index as usize];
                    if !slot.gives_up_send {
                        slot.waits_send = true;
                        continue;
                    }
                    Err(NetError::Canceled)
                }
                result => result,
            };
            self.pending.push(Completion::Sent { id, result });
        }
        self.gathered = 0;
    }

    pub(crate) fn cancel_send(&mut self, id: SockId) {
        let slot = &mut self.slots[id.index as usize];
        if std::mem::take(&mut slot.waits_send) {
            self.pending.push(Completion::Sent { id, result: Err(NetError::Canceled) });
        } else {
            slot.gives_up_send = true;
        }
    }

    pub(crate) fn connect(&mut self, id: SockId, fd: Fd, to: &SocketAddress) -> Result<(), NetError> {
        let raw = RawAddress::new(to)?;
        match listen::connect(fd, &raw) {
            Err(NetError::Os(libc::EINPROGRESS)) => self.slots[id.index as usize].waits_connect = true,
            result => self.pending.push(Completion::Connected { id, result }),
        }
        Ok(())
    }

    pub(crate) fn cancel_connect(&mut self, id: SockId) {
        let slot = &mut self.slots[id.index as usize];
        if std::mem::take(&mut slot.waits_connect) {
            self.pending.push(Completion::Connected { id, result: Err(NetError::Canceled) });
        }
    }

    pub(crate) fn accept(&mut self, listener: u32, fd: Fd) -> Result<(), NetError> {
        let at = listener as usize;
        if self.listeners.len() <= at {
            self.listeners.resize(at + 1, Listening::default());
        }
        if !self.listeners[at].known {
            self.add(fd, IN | EDGE, LISTENER | u64::from(listener))?;
        }
        self.listeners[at] = Listening { fd, known: true, armed: true, readable: true };
        Ok(())
    }

    /// The descriptor is about to close; copies of it may live on elsewhere, so closing alone does not forget it.
    pub(crate) fn closed_listener(&mut self, listener: u32) {
        let Some(known) = self.listeners.get_mut(listener as usize) else { return };
        if std::mem::take(&mut known.known) {
            let fd = known.fd;
            // WHY: no event may name a number whose owner is gone.
            // SAFETY: deleting reads no event. A descriptor that is not registered answers an error that says so.
            let _forgotten = unsafe {
                libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut())
            };
        }
    }

    pub(crate) fn cancel_accept(&mut self, listener: u32) {
        if let Some(known) = self.listeners.get_mut(listener as usize)
            && std::mem::take(&mut known.armed)
        {
            self.pending.push(Completion::Accepted {
                listener,
                result: Err(NetError::Canceled),
                more: false,
            });
        }
    }

    pub(crate) fn group(&self, class: RecvClass) -> &Rc<Group> {
        match class {
            RecvClass::Small => &self.small,
            RecvClass::Large => &self.large,
        }
    }

    /// One turn: sends what was collected, waits at most `wait`, and collects.
    pub(crate) fn turn(&mut self, wait: Option<Duration>, spin: &mut Spin, out: &mut Vec<Completion>) {
        self.flush_sends();
        out.append(&mut self.pending);
        let busy =
            !out.is_empty() || !self.ready.is_empty() || self.listeners.iter().any(|l| l.armed && l.readable);
        // Little that is known already is worth a turn without a system call, but not two in a row.
        if !out.is_empty() && out.len() < limits::SMALL_TURN && !self.skipped && self.ready.is_empty() {
            self.skipped = true;
            return;
        }
        self.skipped = false;
        let wait = if busy { Some(Duration::ZERO) } else { wait };
        self.wait(wait, spin);
        self.accept_ready(out);
        self.read_ready(out);
    }

    fn wait(&mut self, wait: Option<Duration>, spin: &mut Spin) {
        let watch = spin.before(wait);
        if !watch.is_zero() {
            let begun = crate::time::monotonic();
            while crate::time::monotonic() - begun < watch {
                if self.poll_events(0) > 0 {
                    return spin.learn(true);
                }
            }
        }
        if spin.is_wanted() && wait != Some(Duration::ZERO) {
            spin.learn(false);
        }
        // Rounded up: a timer is never early, and a turn must not spin towards it.
        let ms = wait.map_or(-1, |w| i32::try_from(w.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        self.poll_events(ms);
    }

    fn poll_events(&mut self, timeout_ms: i32) -> usize {
        let room = i32::try_from(limits::EVENTS_PER_TURN).expect("checked in limits.rs");
        // WHY: the kernel fills the array.
        // SAFETY: the vector has room for EVENTS_PER_TURN events.
        let n =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms) };
        let n = usize::try_from(n).unwrap_or(0); // a signal: no events
        // WHY: the vector learns what the kernel wrote.
        // SAFETY: the first n events were written, and n <= capacity.
        unsafe { self.events.set_len(n) };
        for at in 0..n {
            let event = self.events[at];
            self.note(event.events, event.u64);
        }
        n
    }

    fn note(&mut self, events: u32, data: u64) {
        if data & WAKE != 0 {
            let mut word = 0u64;
            // WHY: reading clears the counter, so that the next ring is an event again.
            // SAFETY: 8 bytes into a word of ours.
            let _cleared = unsafe { libc::read(self.wake.as_raw_fd(), (&raw mut word).cast(), 8) };
            self.pending.push(Completion::Woken);
            return;
        }
        let id = SockId::from_bits(data);
        if data & LISTENER != 0 {
            if let Some(listener) = self.listeners.get_mut(id.index as usize) {
                listener.readable = true;
            }
            return;
        }
        let Some(slot) = self.slots.get_mut(id.index as usize) else { return };
        if !slot.open || slot.generation != id.generation {
            return;
        }
        let failed = events & FAILED != 0;
        if events & (IN | FIN) != 0 || failed {
            slot.readable = true;
            slot.hung_up |= failed || events & FIN != 0;
            if slot.armed.is_some() && !slot.queued {
                slot.queued = true;
                self.ready.push(id.index);
            }
        }
        if events & OUT != 0 || failed {
            if std::mem::take(&mut slot.waits_connect) {
                let result = connect_result(slot.fd);
                self.pending.push(Completion::Connected { id, result });
            }
            if std::mem::take(&mut slot.waits_send) {
                self.sends.push(id);
            }
        }
    }

    fn accept_ready(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.pending);
        for (at, listener) in self.listeners.iter_mut().enumerate() {
            for _ in 0..limits::ACCEPTS_PER_TURN {
                if !listener.armed || !listener.readable {
                    break;
                }
                const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                // WHY: takes one connection off the queue.
                // SAFETY: null asks for no address.
                let fd =
                    unsafe { libc::accept4(listener.fd, std::ptr::null_mut(), std::ptr::null_mut(), FLAGS) };
                let number = u32::try_from(at).expect("few listeners");
                if fd >= 0 {
                    // WHY: the descriptor is ours to close.
                    // SAFETY: the kernel has just made it for us.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    out.push(Completion::Accepted { listener: number, result: Ok(fd), more: true });
                    continue;
                }
                match last_os_error() {
                    libc::EAGAIN => listener.readable = false,
                    libc::EINTR | libc::ECONNABORTED => {}
                    code => {
                        listener.armed = false;
                        let result = Err(NetError::from_os(code));
                        out.push(Completion::Accepted { listener: number, result, more: false });
                    }
                }
            }
        }
    }

    /// Reads what is armed and readable, a few times: one buffer each time, all of them in one batch.
    fn read_ready(&mut self, out: &mut Vec<Completion>) {
        for _ in 0..limits::READS_PER_TURN {
            if self.ready.is_empty() {
                return;
            }
            let ready = std::mem::take(&mut self.ready);
            for part in ready.chunks(limits::BATCH_OPERATIONS) {
                for &index in part {
                    self.begin_read(index, out);
                }
                self.finish_reads(out);
            }
        }
    }

    fn begin_read(&mut self, index: u32, out: &mut Vec<Completion>) {
        let slot = &mut self.slots[index as usize];
        slot.queued = false;
        let (Some(class), true, true) = (slot.armed, slot.readable, slot.open) else { return };
        let group = if class == RecvClass::Small { &self.small } else { &self.large };
        let Some(buffer) = group.pop_free() else {
            slot.armed = None;
            let id = SockId { index, generation: slot.generation };
            out.push(Completion::Recv { id, result: Err(NetError::NoBuffers), more: false });
            return;
        };
        self.batch.read(slot.fd, group.memory_of(buffer), group.buffer_bytes);
        self.reading.push(Reading { index, buffer, class });
    }

    fn finish_reads(&mut self, out: &mut Vec<Completion>) {
        for (Reading { index, buffer, class }, result) in self.reading.drain(..).zip(self.batch.run()) {
            let group = if class == RecvClass::Small { &self.small } else { &self.large };
            let slot = &mut self.slots[index as usize];
            let (result, more) = match result {
                Ok(0) => (Some(Ok(None)), false),
                Ok(n) => {
                    // Less than asked for: the queue is empty, and the next bytes are a new edge.
                    slot.readable = n == group.buffer_bytes || slot.hung_up;
                    (Some(Ok(Some(group.lend(buffer, n)))), true)
                }
                Err(NetError::Os(libc::EAGAIN)) => {
                    slot.readable = false;
                    (None, true)
                }
                Err(NetError::Os(libc::EINTR)) => (None, true),
                Err(error) => (Some(Err(error)), false),
            };
            if !matches!(result, Some(Ok(Some(_)))) {
                group.push_free(buffer);
            }
            if !more {
                (slot.armed, slot.readable) = (None, false);
            }
            if slot.readable {
                slot.queued = true;
                self.ready.push(index);
            }
            if let Some(result) = result {
                out.push(Completion::Recv {
                    id: SockId { index, generation: slot.generation },
                    result,
                    more,
                });
            }
        }
    }
}

fn connect_result(fd: Fd) -> Result<(), NetError> {
    let mut code = 0i32;
    let mut len = listen::len_of::<i32>();
    // WHY: how a non-blocking connect ended is told by the socket.
    // SAFETY: the pointers are to an int of ours and its length.
    let answer = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut code).cast(), &raw mut len)
    };
    match (answer, code) {
        (0, 0) => Ok(()),
        (0, code) => Err(NetError::from_os(code)),
        _ => Err(NetError::last()),
    }
}
