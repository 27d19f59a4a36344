//! Connections as two pipes of bytes under way, listening sockets as queues, descriptors as tokens.
//!
//! Knows no fault and draws nothing: `driver.rs` decides what happens, this keeps what is. A descriptor is a real
//! one of /dev/null, so that the owners' types are the same as with a real kernel.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use super::Faults;
use super::driver::Due;
use crate::addr::SocketAddress;
use crate::buf::Chunks;
use crate::op::{Fd, NetError, SockId};
use crate::time::Instant;

/// One side of a connection: 2 n and 2 n + 1 are a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId(pub(super) usize);

impl EndId {
    pub(super) fn other(self) -> EndId {
        EndId(self.0 ^ 1)
    }
}

/// What a descriptor stands for.
#[derive(Debug, Clone)]
pub(super) enum Token {
    Listening(usize),
    /// A socket that is not connected yet.
    Fresh,
    End(EndId),
}

#[derive(Debug)]
struct Segment {
    at: Instant,
    bytes: Vec<u8>,
    /// Of them, those that were read.
    read: usize,
}

/// What comes to one side, and what that side has done.
#[derive(Debug)]
pub(super) struct End {
    /// The host and socket that read here.
    pub(super) owner: Option<(usize, SockId)>,
    coming: VecDeque<Segment>,
    bytes: usize,
    pub(super) room: usize,
    /// When the peer's FIN comes.
    fin: Option<Instant>,
    /// When and why nothing goes any more.
    broken: Option<(Instant, NetError)>,
    /// A receive has said so. //= Linux: an error is said once, then the pipe is broken
    pub(super) told: bool,
    pub(super) closed: bool,
    pub(super) shut: bool,
    last: Instant,
    /// Bytes that may still come before the connection is reset.
    pub(super) cut: Option<u64>,
    pub(super) local: SocketAddress,
    pub(super) latency: (std::time::Duration, std::time::Duration),
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Readable {
    Bytes(usize),
    End,
    Broken(NetError),
    Nothing,
}

impl End {
    /// What is there now.
    pub(super) fn look(&self, now: Instant) -> Readable {
        let there: usize =
            self.coming.iter().take_while(|s| s.at <= now).map(|s| s.bytes.len() - s.read).sum();
        if there > 0 {
            return Readable::Bytes(there);
        }
        if !self.coming.is_empty() {
            return Readable::Nothing;
        }
        match (self.broken, self.fin) {
            (Some((at, why)), _) if at <= now => Readable::Broken(why),
            (_, Some(at)) if at <= now => Readable::End,
            _ => Readable::Nothing,
        }
    }

    /// When each thing that is on its way is there.
    pub(super) fn arrivals(&self) -> Vec<Instant> {
        let ends = self.fin.into_iter().chain(self.broken.map(|(at, _)| at));
        self.coming.iter().map(|s| s.at).chain(ends).collect()
    }

    /// Why a send fails.
    pub(super) fn send_error(&self, now: Instant) -> Option<NetError> {
        if self.shut || self.told {
            return Some(NetError::BrokenPipe);
        }
        self.broken.filter(|(at, _)| *at <= now).map(|(_, why)| why)
    }

    pub(super) fn free(&self) -> usize {
        self.room.saturating_sub(self.bytes)
    }

    /// Takes bytes that are there.
    pub(super) fn take(&mut self, into: &mut Vec<u8>, mut n: usize) {
        self.bytes -= n;
        while n > 0 {
            let first = self.coming.front_mut().expect("no more is taken than was seen");
            let part = n.min(first.bytes.len() - first.read);
            into.extend_from_slice(&first.bytes[first.read..first.read + part]);
            first.read += part;
            n -= part;
            if first.read == first.bytes.len() {
                self.coming.pop_front();
            }
        }
    }

    /// The first `n` bytes of a send are on their way; the answer is when they are there.
    pub(super) fn give(&mut self, chunks: &Chunks, n: usize, at: Instant) -> Instant {
        let at = at.max(self.last);
        self.last = at;
        let mut bytes = Vec::with_capacity(n);
        for chunk in chunks.iter() {
            let part = chunk.len().min(n - bytes.len());
            bytes.extend_from_slice(&chunk[..part]);
        }
        self.bytes += n;
        self.coming.push_back(Segment { at, bytes, read: 0 });
        at
    }

    fn end(&mut self, at: Instant) -> Instant {
        let at = at.max(self.last);
        self.last = at;
        self.fin.get_or_insert(at);
        at
    }

    pub(super) fn break_off(&mut self, at: Instant, why: NetError) -> Instant {
        let at = at.max(self.last);
        self.broken.get_or_insert((at, why));
        at
    }
}

/// Connections that wait to be accepted.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) at: SocketAddress,
    pub(super) waiting: VecDeque<EndId>,
    /// Descriptors that stand for it.
    holders: usize,
    /// The hosts and their listeners that accept here.
    pub(super) accepting: Vec<(usize, u32)>,
}

/// One host: its faults and what its kernel will say, by time.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) faults: Faults,
    pub(super) due: BinaryHeap<Planned>,
}

/// What happens at a time; of one time, in the order in which it was planned.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) at: Instant,
    number: u64,
    pub(super) due: Due,
}

impl Ord for Planned {
    /// The first one is the greatest, as the heap wants it.
    fn cmp(&self, other: &Planned) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) hosts: Vec<Host>,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    pub(super) queues: Vec<Queue>,
    tokens: BTreeMap<Fd, Token>,
    blank: OwnedFd,
    next_port: u16,
    next_due: u64,
    /// Bytes between a connection and a buffer.
    pub(super) scratch: Vec<u8>,
}

impl Network {
    pub(super) fn new() -> Network {
        let blank = std::fs::File::open("/dev/null").expect("/dev/null is there").into();
        Network {
            hosts: Vec::new(),
            ends: Vec::new(),
            free: Vec::new(),
            queues: Vec::new(),
            tokens: BTreeMap::new(),
            blank,
            next_port: 10_000,
            next_due: 0,
            scratch: Vec::new(),
        }
    }

    pub(super) fn add_host(&mut self, faults: Faults) -> usize {
        self.hosts.push(Host { faults, due: BinaryHeap::new() });
        self.hosts.len() - 1
    }

    pub(super) fn plan(&mut self, host: usize, at: Instant, due: Due) {
        self.next_due += 1;
        self.hosts[host].due.push(Planned { at, number: self.next_due, due });
    }

    /// A new descriptor for a token.
    pub(super) fn descriptor(&mut self, token: Token) -> OwnedFd {
        let fd = self.blank.try_clone().expect("a descriptor for the simulation");
        self.tokens.insert(fd.as_raw_fd(), token);
        fd
    }

    pub(super) fn token(&self, fd: Fd) -> Option<&Token> {
        self.tokens.get(&fd)
    }

    pub(super) fn become_end(&mut self, fd: Fd, end: EndId) {
        self.tokens.insert(fd, Token::End(end));
    }

    /// A descriptor is about to close.
    pub(super) fn forget(&mut self, fd: Fd) -> Option<Token> {
        self.tokens.remove(&fd)
    }

    pub(super) fn listen(&mut self, at: &SocketAddress) -> OwnedFd {
        self.queues.push(Queue {
            at: at.clone(),
            waiting: VecDeque::new(),
            holders: 1,
            accepting: Vec::new(),
        });
        self.descriptor(Token::Listening(self.queues.len() - 1))
    }

    pub(super) fn share_listener(&mut self, fd: &OwnedFd) -> OwnedFd {
        let Some(Token::Listening(queue)) = self.token(fd.as_raw_fd()).cloned() else {
            panic!("only a listening socket is shared");
        };
        self.queues[queue].holders += 1;
        self.descriptor(Token::Listening(queue))
    }

    /// The queues at an address that somebody holds.
    pub(super) fn queues_at(&self, at: &SocketAddress) -> Vec<usize> {
        let open = |q: &Queue| q.holders > 0 && q.at == *at;
        self.queues.iter().enumerate().filter(|(_, q)| open(q)).map(|(n, _)| n).collect()
    }

    /// One holder less; the last one resets who waits. The answer: those.
    pub(super) fn release_queue(&mut self, queue: usize) -> Vec<EndId> {
        let queue = &mut self.queues[queue];
        queue.holders -= 1;
        if queue.holders == 0 { queue.waiting.drain(..).collect() } else { Vec::new() }
    }

    /// A connection from somewhere to a listening address: the caller's side, its peer's is the other.
    pub(super) fn join(
        &mut self,
        to: &SocketAddress,
        host: usize,
        room: (usize, usize),
        faults: &Faults,
    ) -> EndId {
        self.next_port = self.next_port.checked_add(1).unwrap_or(10_000);
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(host + 1).unwrap_or(255)));
        let from = SocketAddress::Ip(SocketAddr::new(ip, self.next_port));
        let first = self.free.pop().unwrap_or_else(|| {
            self.ends.extend([None, None]);
            self.ends.len() - 2
        });
        let end = |local: &SocketAddress, room| End {
            owner: None,
            coming: VecDeque::new(),
            bytes: 0,
            room,
            fin: None,
            broken: None,
            told: false,
            closed: false,
            shut: false,
            last: Instant(0),
            cut: None,
            local: local.clone(),
            latency: faults.latency,
        };
        self.ends[first] = Some(end(&from, room.0));
        self.ends[first + 1] = Some(end(to, room.1));
        EndId(first)
    }

    pub(super) fn end(&mut self, id: EndId) -> &mut End {
        self.ends[id.0].as_mut().expect("an end lives until both sides are closed")
    }

    pub(super) fn peek(&self, id: EndId) -> &End {
        self.ends[id.0].as_ref().expect("an end lives until both sides are closed")
    }

    /// Nothing more comes from `id`: its peer reads the end at `at`.
    pub(super) fn shut(&mut self, id: EndId, at: Instant) -> Instant {
        self.end(id).shut = true;
        self.end(id.other()).end(at)
    }

    /// One side is gone. Unread bytes make it a reset, as on Linux. The answer: when the peer notices.
    pub(super) fn close(&mut self, id: EndId, reset: bool, at: Instant) -> Option<Instant> {
        let end = self.end(id);
        (end.closed, end.owner) = (true, None);
        let reset = reset || end.bytes > 0;
        let peer = self.end(id.other());
        if peer.closed {
            let first = id.0 & !1;
            self.ends[first] = None;
            self.ends[first + 1] = None;
            self.free.push(first);
            return None;
        }
        Some(if reset { peer.break_off(at, NetError::Reset) } else { peer.end(at) })
    }
}
