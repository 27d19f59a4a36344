//! The third driver: what a kernel would answer, by a seed and by the clock of a [`World`].
//!
//! A host's answers lie in the network's table, each with its time; a turn takes those whose time has come. Order
//! between sockets is drawn; the order of one socket's received bytes is kept. A send happens when its time has
//! come, from the bytes in the socket's slot, as with the epoll driver.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::network::{EndId, Readable, Token};
use super::{Faults, World};
use crate::addr::SocketAddress;
use crate::buf::{Chunks, Group};
use crate::mailbox::Bell;
use crate::mutation::{Mutation, Planted};
use crate::op::{Completion, Fd, NetError, RecvClass, SockId};
use crate::time::Instant;

/// What happens at a host at its time.
#[derive(Debug)]
pub(super) enum Due {
    Say(Completion),
    /// Something may be there to receive.
    Look(SockId),
    /// A send may go on.
    Send(SockId),
    Connect(SockId, SocketAddress),
    /// Somebody may wait to be accepted.
    Accept(u32),
}

#[derive(Debug, Default, Clone)]
struct Slot {
    generation: u32,
    fd: Fd,
    open: bool,
    end: Option<EndId>,
    armed: Option<RecvClass>,
    /// A send is asked for and has not happened.
    sends: bool,
    /// It ends when it finds no room: its owner is gone.
    gives_up: bool,
    connecting: bool,
    /// When the last answer about received bytes comes.
    said: Instant,
}

#[derive(Debug, Default, Clone)]
struct Listening {
    queue: Option<usize>,
    armed: bool,
}

/// One host of a simulated network.
#[derive(Debug)]
pub(crate) struct Sim {
    world: World,
    host: usize,
    small: Rc<Group>,
    large: Rc<Group>,
    slots: Vec<Slot>,
    listeners: Vec<Listening>,
    /// Sends whose time has come.
    sends: Vec<SockId>,
    bell: Bell,
    planted: Planted,
    /// Connections that were handed over, and not given back unseen.
    pub(crate) accepted: u64,
}

impl Drop for Sim {
    fn drop(&mut self) {
        // What was never said holds buffers and descriptors.
        let unsaid = std::mem::take(&mut self.world.0.network.borrow_mut().hosts[self.host].due);
        drop(unsaid);
    }
}

impl Sim {
    pub(crate) fn new(
        world: &World,
        faults: Faults,
        (small, large): (Rc<Group>, Rc<Group>),
        bell: Bell,
        planted: Planted,
    ) -> Sim {
        let host = world.0.network.borrow_mut().add_host(faults);
        let (slots, listeners, sends) = (Vec::new(), Vec::new(), Vec::new());
        Sim { world: world.clone(), host, small, large, slots, listeners, sends, bell, planted, accepted: 0 }
    }

    fn now(&self) -> Instant {
        self.world.now()
    }

    /// Whether that happens now; it is counted.
    fn chance(&self, what: &'static str, rate: impl Fn(&Faults) -> u32) -> bool {
        let rate = rate(&self.world.0.network.borrow().hosts[self.host].faults);
        let happens = self.world.chance(rate);
        if happens {
            self.world.happened(what);
        }
        happens
    }

    /// When an answer comes that the kernel has now.
    fn soon(&self) -> Instant {
        let late = self.world.0.network.borrow().hosts[self.host].faults.late;
        let is_late = self.chance("late word of the kernel", |f| f.late_rate);
        let most = if is_late { late } else { Duration::from_micros(5) };
        self.now() + self.world.between((Duration::ZERO, most))
    }

    fn plan(&self, at: Instant, due: Due) {
        self.world.0.network.borrow_mut().plan(self.host, at, due);
    }

    fn say(&self, completion: Completion) {
        let at = self.soon();
        self.plan(at, Due::Say(completion));
    }

    /// Says it after everything that was said about the socket's bytes.
    fn say_received(&mut self, id: SockId, completion: Completion) {
        let at = self.soon().max(self.slots[id.index as usize].said);
        self.slots[id.index as usize].said = at;
        self.plan(at, Due::Say(completion));
    }

    fn slot(&mut self, id: SockId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|s| s.open && s.generation == id.generation)
    }

    pub(crate) fn stream_socket(&self) -> OwnedFd {
        self.world.0.network.borrow_mut().descriptor(Token::Fresh)
    }

    fn end_of(&self, fd: Fd) -> Option<EndId> {
        match self.world.0.network.borrow().token(fd) {
            Some(Token::End(end)) => Some(*end),
            _ => None,
        }
    }

    pub(crate) fn local_addr(&self, fd: Fd) -> Option<SocketAddress> {
        let network = self.world.0.network.borrow();
        match network.token(fd)? {
            Token::Listening(queue) => Some(network.queues[*queue].at.clone()),
            Token::Fresh => None,
            Token::End(end) => Some(network.peek(*end).local.clone()),
        }
    }

    pub(crate) fn peer_addr(&self, fd: Fd) -> Option<SocketAddress> {
        let end = self.end_of(fd)?;
        let network = self.world.0.network.borrow();
        let other = network.peek(end.other());
        Some(other.local.clone())
    }

    pub(crate) fn shutdown_write(&self, fd: Fd) {
        let Some(end) = self.end_of(fd) else { return };
        self.world.note(self.host, "shut", end.0 as u64, 0);
        let latency = self.world.0.network.borrow().peek(end).latency;
        let at = self.now() + self.world.between(latency);
        let mut network = self.world.0.network.borrow_mut();
        let at = network.shut(end, at);
        if let Some((host, id)) = network.peek(end.other()).owner {
            network.plan(host, at, Due::Look(id));
        }
    }

    /// A descriptor whose owner is gone before it became a socket.
    pub(crate) fn discard(&mut self, fd: OwnedFd) {
        self.accepted -= 1;
        self.close_token(fd.as_raw_fd(), true);
    }

    fn close_token(&mut self, fd: Fd, reset: bool) {
        let token = self.world.0.network.borrow_mut().forget(fd);
        match token {
            Some(Token::End(end)) => self.close_end(end, reset),
            Some(Token::Listening(queue)) => {
                let nobody_took = self.world.0.network.borrow_mut().release_queue(queue);
                nobody_took.into_iter().for_each(|end| self.close_end(end, true));
            }
            Some(Token::Fresh) | None => {}
        }
    }

    fn close_end(&self, end: EndId, reset: bool) {
        self.world.note(self.host, "close", end.0 as u64, u64::from(reset));
        let latency = self.world.0.network.borrow().peek(end).latency;
        let at = self.now() + self.world.between(latency);
        let mut network = self.world.0.network.borrow_mut();
        let peer = network.peek(end.other()).owner;
        if let (Some(at), Some((host, id))) = (network.close(end, reset, at), peer) {
            network.plan(host, at, Due::Look(id));
            network.plan(host, at, Due::Send(id));
        }
    }

    pub(crate) fn close(&mut self, id: SockId, fd: OwnedFd, reset: bool) {
        self.slots[id.index as usize].open = false;
        self.close_token(fd.as_raw_fd(), reset);
    }

    pub(crate) fn open(&mut self, id: SockId, fd: Fd) {
        let at = id.index as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, Slot::default());
        }
        let end = self.end_of(fd);
        self.slots[at] = Slot { generation: id.generation, fd, open: true, end, ..Slot::default() };
        if let Some(end) = end {
            let mut network = self.world.0.network.borrow_mut();
            network.end(end).owner = Some((self.host, id));
            for at in network.peek(end).arrivals() {
                network.plan(self.host, at, Due::Look(id));
            }
        }
    }

    pub(crate) fn arm_recv(&mut self, id: SockId, class: RecvClass) {
        let at = self.soon();
        if let Some(slot) = self.slot(id) {
            slot.armed = Some(class);
        }
        self.plan(at, Due::Look(id));
    }

    pub(crate) fn cancel_recv(&mut self, id: SockId) {
        // The bytes that are there may win over the cancel.
        if self.world.draw(2) == 0 {
            self.look(id);
        }
        // Not armed: the last answer is on its way already.
        if self.slot(id).is_some_and(|s| s.armed.take().is_some()) {
            self.say_received(id, Completion::Recv { id, result: Err(NetError::Canceled), more: false });
        } else {
            self.world.happened("cancel came late");
        }
    }

    pub(crate) fn send(&mut self, id: SockId) {
        let at = self.soon();
        if let Some(slot) = self.slot(id) {
            slot.sends = true;
        }
        self.plan(at, Due::Send(id));
    }

    pub(crate) fn cancel_send(&mut self, id: SockId) {
        let at = self.soon();
        if let Some(slot) = self.slot(id) {
            slot.gives_up = true;
        }
        // One that waits for room looks once more, and gives up.
        self.plan(at, Due::Send(id));
    }

    pub(crate) fn take_sends(&mut self, into: &mut Vec<SockId>) {
        into.append(&mut self.sends);
    }

    pub(crate) fn try_send(&mut self, id: SockId, chunks: &Chunks) {
        let now = self.now();
        let Some(slot) = self.slot(id) else { return };
        let (Some(end), true) = (slot.end, slot.sends) else { return };
        let gives_up = slot.gives_up;
        let result = match self.push_bytes(end, chunks, now) {
            Ok(0) if gives_up => Err(NetError::Canceled),
            Ok(0) => return, // the reader makes room, and says so
            other => other,
        };
        self.slots[id.index as usize].sends = false;
        self.world.note(self.host, "sent", end.0 as u64, *result.as_ref().unwrap_or(&0) as u64);
        if self.planted.is(Mutation::DoubleCompletion) && self.world.draw(64) == 0 {
            self.say(Completion::Sent { id, result });
        }
        self.say(Completion::Sent { id, result });
    }

    /// Bytes that go under way, as many as there is room for; 0: none.
    fn push_bytes(&self, end: EndId, chunks: &Chunks, now: Instant) -> Result<usize, NetError> {
        let short = self.chance("short write", |f| f.short_write);
        let at = {
            let latency = self.world.0.network.borrow().peek(end).latency;
            now + self.world.between(latency)
        };
        let mut network = self.world.0.network.borrow_mut();
        if let Some(why) = network.peek(end).send_error(now) {
            return Err(why);
        }
        let all = chunks.bytes();
        if network.peek(end.other()).closed {
            // It goes nowhere, and a reset comes back.
            let at = network.end(end).break_off(at, NetError::Reset);
            if let Some((host, id)) = network.peek(end).owner {
                network.plan(host, at, Due::Look(id));
            }
            return Ok(all);
        }
        let peer = network.end(end.other());
        let mut n = all.min(peer.free());
        if short && n > 1 {
            n = 1 + usize::try_from(self.world.draw(n as u64)).unwrap_or(0);
        }
        if n == 0 {
            self.world.happened("full send buffer");
            return Ok(0);
        }
        let passing = peer.cut.map_or(n, |left| n.min(usize::try_from(left).unwrap_or(n)));
        let there = if passing > 0 { peer.give(chunks, passing, at) } else { at };
        let cut = peer.cut.as_mut().is_some_and(|left| {
            *left -= passing as u64;
            *left == 0
        });
        let owner = peer.owner;
        if cut {
            self.world.happened("reset by the network");
            let there = peer.break_off(there, NetError::Reset);
            network.end(end).break_off(there, NetError::Reset);
            if let Some((host, id)) = network.peek(end).owner {
                network.plan(host, there, Due::Look(id));
                network.plan(host, there, Due::Send(id));
            }
            if let Some((host, id)) = owner {
                network.plan(host, there, Due::Send(id));
            }
        }
        if let Some((host, id)) = owner {
            network.plan(host, there, Due::Look(id));
        }
        Ok(n)
    }

    pub(crate) fn connect(&mut self, id: SockId, to: &SocketAddress) {
        let latency = self.world.0.network.borrow().hosts[self.host].faults.latency;
        let at = self.now() + self.world.between(latency) + self.world.between(latency);
        if let Some(slot) = self.slot(id) {
            slot.connecting = true;
        }
        if self.chance("hanging connect", |f| f.hang) {
            //= Linux gives up after its six repetitions of the SYN, 127 s
            let at = self.now() + Duration::from_secs(127);
            self.plan(at, Due::Say(Completion::Connected { id, result: Err(NetError::TimedOut) }));
        } else if self.chance("refused connect", |f| f.refuse) {
            self.plan(at, Due::Say(Completion::Connected { id, result: Err(NetError::Refused) }));
        } else {
            self.plan(at, Due::Connect(id, to.clone()));
        }
    }

    fn connect_now(&mut self, id: SockId, to: &SocketAddress) {
        let Some(slot) = self.slot(id).filter(|s| s.connecting) else { return };
        let fd = slot.fd;
        let queues = self.world.0.network.borrow().queues_at(to);
        if queues.is_empty() {
            return self.say(Completion::Connected { id, result: Err(NetError::Refused) });
        }
        let queue = queues[usize::try_from(self.world.draw(queues.len() as u64)).unwrap_or(0)];
        let (faults, cut) = self.draw_fate();
        let room = |world: &World| {
            let (least, most) = faults.room;
            least + usize::try_from(world.draw((most - least + 1) as u64)).unwrap_or(0)
        };
        let rooms = (room(&self.world), room(&self.world));
        let mut network = self.world.0.network.borrow_mut();
        let end = network.join(to, self.host, rooms, &faults);
        if let Some((side, bytes)) = cut {
            network.end(EndId(end.0 + side)).cut = Some(bytes);
        }
        network.become_end(fd, end);
        network.end(end).owner = Some((self.host, id));
        network.queues[queue].waiting.push_back(end.other());
        let now = self.world.now();
        for (host, listener) in network.queues[queue].accepting.clone() {
            network.plan(host, now, Due::Accept(listener));
        }
        drop(network);
        self.world.note(self.host, "connected", end.0 as u64, queue as u64);
        self.slots[id.index as usize].end = Some(end);
        self.say(Completion::Connected { id, result: Ok(()) });
    }

    /// The faults of a new connection: perhaps after how many bytes, to which side, it is reset.
    fn draw_fate(&self) -> (Faults, Option<(usize, u64)>) {
        let faults = self.world.0.network.borrow().hosts[self.host].faults.clone();
        let cut = self.world.chance(faults.reset).then(|| {
            let side = usize::try_from(self.world.draw(2)).unwrap_or(0);
            (side, 1 + self.world.draw(faults.reset_after))
        });
        (faults, cut)
    }

    pub(crate) fn cancel_connect(&mut self, id: SockId) {
        if self.slot(id).is_some_and(|s| std::mem::take(&mut s.connecting)) {
            self.say(Completion::Connected { id, result: Err(NetError::Canceled) });
        }
    }

    pub(crate) fn accept(&mut self, number: u32, fd: Fd) {
        let at = number as usize;
        if self.listeners.len() <= at {
            self.listeners.resize(at + 1, Listening::default());
        }
        let mut network = self.world.0.network.borrow_mut();
        let Some(Token::Listening(queue)) = network.token(fd).cloned() else { return };
        self.listeners[at] = Listening { queue: Some(queue), armed: true };
        let accepting = &mut network.queues[queue].accepting;
        if !accepting.contains(&(self.host, number)) {
            accepting.push((self.host, number));
        }
        drop(network);
        let at = self.soon();
        self.plan(at, Due::Accept(number));
    }

    pub(crate) fn cancel_accept(&mut self, number: u32) {
        if self.listeners.get_mut(number as usize).is_some_and(|l| std::mem::take(&mut l.armed)) {
            let result = Err(NetError::Canceled);
            self.say(Completion::Accepted { listener: number, result, more: false });
        }
    }

    /// Also of one that never accepted, which is not known here.
    pub(crate) fn closed_listener(&mut self, number: u32, fd: Fd) {
        if let Some(queue) = self.listeners.get_mut(number as usize).and_then(|known| known.queue.take()) {
            let host = self.host;
            self.world.0.network.borrow_mut().queues[queue].accepting.retain(|who| *who != (host, number));
        }
        self.close_token(fd, false);
    }

    fn accept_waiting(&mut self, number: u32) {
        let Some(Listening { queue: Some(queue), armed: true, .. }) = self.listeners.get(number as usize)
        else {
            return;
        };
        let queue = *queue;
        if self.world.0.network.borrow().queues[queue].waiting.is_empty() {
            return;
        }
        if self.chance("no descriptor", |f| f.no_descriptors) {
            self.world.note(self.host, "no descriptor", u64::from(number), 0);
            self.listeners[number as usize].armed = false;
            let result = Err(NetError::NoDescriptors);
            return self.say(Completion::Accepted { listener: number, result, more: false });
        }
        let mut network = self.world.0.network.borrow_mut();
        let Some(end) = network.queues[queue].waiting.pop_front() else { return };
        let fd = network.descriptor(Token::End(end));
        drop(network);
        self.world.note(self.host, "accepted", end.0 as u64, 0);
        self.say(Completion::Accepted { listener: number, result: Ok(fd), more: true });
        let now = self.now();
        self.plan(now, Due::Accept(number));
    }

    pub(crate) fn group(&self, class: RecvClass) -> &Rc<Group> {
        match class {
            RecvClass::Small => &self.small,
            RecvClass::Large => &self.large,
        }
    }

    /// Receives what is there, while the socket is armed.
    fn look(&mut self, id: SockId) {
        let now = self.now();
        let Some(slot) = self.slot(id) else { return };
        let (Some(class), Some(end)) = (slot.armed, slot.end) else { return };
        let there = self.world.0.network.borrow().peek(end).look(now);
        let (result, more) = match there {
            Readable::Nothing => return,
            Readable::Bytes(there) => self.take_bytes(end, class, there),
            Readable::End => (Ok(None), false),
            Readable::Broken(why) => {
                self.world.0.network.borrow_mut().end(end).told = true;
                (Err(why), false)
            }
        };
        let n = result.as_ref().map_or(0, |c| c.as_ref().map_or(0, |c| c.len()));
        self.world.note(self.host, "received", end.0 as u64, n as u64);
        if !more {
            self.slots[id.index as usize].armed = None;
        }
        self.say_received(id, Completion::Recv { id, result, more });
        if more {
            let at = self.soon();
            self.plan(at, Due::Look(id));
        }
    }

    /// Bytes into a free buffer, and whether the receive stays armed.
    fn take_bytes(
        &self,
        end: EndId,
        class: RecvClass,
        there: usize,
    ) -> (Result<Option<crate::buf::Chunk>, NetError>, bool) {
        let group = Rc::clone(self.group(class));
        if self.chance("no buffer", |f| f.no_buffers) {
            return (Err(NetError::NoBuffers), false);
        }
        let Some(buffer) = group.pop_free() else { return (Err(NetError::NoBuffers), false) };
        let mut n = there.min(group.buffer_bytes);
        if n > 1 && self.chance("short read", |f| f.short_read) {
            n = 1 + usize::try_from(self.world.draw(n as u64)).unwrap_or(0);
        }
        let mut network = self.world.0.network.borrow_mut();
        let mut bytes = std::mem::take(&mut network.scratch);
        bytes.clear();
        network.end(end).take(&mut bytes, n);
        if let Some((host, id)) = network.peek(end.other()).owner {
            let now = self.world.now();
            network.plan(host, now, Due::Send(id)); // there is room again
        }
        group.write(buffer, &bytes);
        network.scratch = bytes;
        drop(network);
        let more = !self.chance("multishot receive ended", |f| f.multishot_ends);
        (Ok(Some(group.lend(buffer, n))), more)
    }

    /// When something happens here next.
    pub(crate) fn next(&self) -> Option<Instant> {
        if !self.sends.is_empty() || self.bell.is_ringing() {
            return Some(self.now());
        }
        let network = self.world.0.network.borrow();
        network.hosts[self.host].due.peek().map(|planned| planned.at)
    }

    /// One turn: what is due is said. A wait moves the clock, since nobody else runs meanwhile.
    pub(crate) fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) {
        if wait != Some(Duration::ZERO) && self.next().is_none_or(|at| at > self.now()) {
            let limit = wait.map(|w| self.now() + w);
            let to = self.next().into_iter().chain(limit).min();
            self.world.advance_to(to.expect("a simulated host that waits for ever: nothing can happen"));
        }
        if self.bell.silence() {
            out.push(Completion::Woken);
        }
        while let Some(due) = self.take_due() {
            match due {
                Due::Say(completion) => self.hand_over(completion, out),
                Due::Look(id) => self.look(id),
                Due::Send(id) => {
                    let wanted = self.slot(id).is_some_and(|s| s.sends);
                    self.sends.extend(wanted.then_some(id));
                }
                Due::Connect(id, to) => self.connect_now(id, &to),
                Due::Accept(number) => self.accept_waiting(number),
            }
            if !out.is_empty() && self.chance("partial turn", |f| f.partial_turn) {
                break;
            }
        }
    }

    fn hand_over(&mut self, completion: Completion, out: &mut Vec<Completion>) {
        if let Completion::Connected { id, result } = completion {
            // A connect that was given up has had its answer.
            let waited = self.slot(id).is_some_and(|s| std::mem::take(&mut s.connecting));
            if !waited && result != Err(NetError::Canceled) {
                return;
            }
        }
        if let Completion::Accepted { result: Ok(_), .. } = completion {
            self.accepted += 1;
        }
        out.push(completion);
    }

    fn take_due(&mut self) -> Option<Due> {
        let now = self.now();
        let mut network = self.world.0.network.borrow_mut();
        let due = &mut network.hosts[self.host].due;
        let _now_is_its_time = due.peek().filter(|planned| planned.at <= now)?;
        due.pop().map(|planned| planned.due)
    }
}
