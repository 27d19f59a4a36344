//! The load generator and the upstream, in one spinning epoll thread.
//!
//! Both live in one thread so that nothing but the proxy under test is ever scheduled away: the thread is pinned to
//! its core and never sleeps. Latency counts from the *intended* start of a request: in the open loop a request that
//! finds no free connection waits in the schedule, and its waiting counts (no coordinated omission).
//! Invariant: a completed request has been answered with status 200 and exactly the expected length.
//! It does not speak HTTP in general: requests and responses are made once per plan, and a head is read only for its
//! status and its length.

mod client;
mod socket;
mod upstream;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use hdrhistogram::Histogram;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fs::Timespec;

use crate::clock;
use client::Client;
pub use socket::free_port;
use upstream::Upstream;

const EVENTS: usize = 512;
const SCRATCH_BYTES: usize = 256 * 1024;
/// Connections that may be under way at once, below every accept backlog.
const CONNECTING_MAX: usize = 128;
const STALL_NS: u64 = 8_000_000_000;

/// What is sent, answered and expected; bytes are made once.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Head and body of the request.
    pub request: Vec<u8>,
    pub request_body_bytes: usize,
    /// Head and body of the upstream's answer.
    pub response: Vec<u8>,
    pub response_body_bytes: usize,
    /// The upstream answers this much later.
    pub delay_ns: u64,
    /// A connection carries one request, and the proxy closes it.
    pub new_connection: bool,
}

/// When requests start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// The next one when the last is answered.
    Closed,
    /// So many a second, whatever happens.
    Open { per_second: f64 },
}

/// What one window counted.
#[derive(Debug)]
pub struct Tally {
    pub completed: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    pub window_ns: u64,
    pub latency: Histogram<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Listener,
    Client,
    Upstream,
}

fn token(kind: Kind, generation: u32, index: usize) -> u64 {
    let kind = match kind {
        Kind::Listener => 0,
        Kind::Client => 1,
        Kind::Upstream => 2,
    };
    (kind << 60) | (u64::from(generation & 0x0fff_ffff) << 32) | (index as u64)
}

fn untoken(token: u64) -> (Kind, u32, usize) {
    let kind = match token >> 60 {
        0 => Kind::Listener,
        1 => Kind::Client,
        _ => Kind::Upstream,
    };
    (kind, (token >> 32) as u32 & 0x0fff_ffff, (token & 0xffff_ffff) as usize)
}

/// The one thread's whole state.
pub struct Engine {
    epoll: OwnedFd,
    listener: OwnedFd,
    upstream_at: SocketAddrV4,
    target: SocketAddrV4,
    exchange: Exchange,
    clients: Vec<Client>,
    upstreams: Vec<Option<Upstream>>,
    upstreams_free: Vec<usize>,
    generation: u32,
    scratch: Box<[u8]>,
    events: Box<[Event]>,
    /// Answers that wait for their time, oldest first: the delay is the same for all.
    delayed: VecDeque<(u64, u64)>,
    verify: bool,
    pace: Pace,
    /// Clients of the open loop that have nothing to do.
    free: Vec<usize>,
    /// Requests that are due, by intended start.
    due: VecDeque<u64>,
    next_due_ns: f64,
    issuing: bool,
    record_from: u64,
    record_to: u64,
    completed: u64,
    outstanding: usize,
    errors: u64,
    first_error: Option<String>,
    latency: Histogram<u64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} clients)", self.clients.len())
    }
}

fn histogram() -> Histogram<u64> {
    let mut h = Histogram::new_with_bounds(100, 120_000_000_000, 3).expect("constant bounds");
    h.auto(true);
    h
}

impl Engine {
    /// Opens the upstream's listening socket.
    pub fn new() -> io::Result<Engine> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (listener, upstream_at) = socket::listen()?;
        epoll::add(&epoll, &listener, EventData::new_u64(token(Kind::Listener, 0, 0)), EventFlags::IN)?;
        Ok(Engine {
            epoll,
            listener,
            upstream_at,
            target: upstream_at,
            exchange: Exchange {
                request: Vec::new(),
                request_body_bytes: 0,
                response: Vec::new(),
                response_body_bytes: 0,
                delay_ns: 0,
                new_connection: false,
            },
            clients: Vec::new(),
            upstreams: Vec::new(),
            upstreams_free: Vec::new(),
            generation: 0,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            events: vec![Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS]
                .into_boxed_slice(),
            delayed: VecDeque::new(),
            verify: false,
            pace: Pace::Closed,
            free: Vec::new(),
            due: VecDeque::new(),
            next_due_ns: 0.0,
            issuing: false,
            record_from: 0,
            record_to: u64::MAX,
            completed: 0,
            outstanding: 0,
            errors: 0,
            first_error: None,
            latency: histogram(),
        })
    }

    pub fn upstream_at(&self) -> SocketAddrV4 {
        self.upstream_at
    }

    /// Closes every connection and says what comes next and where it goes.
    pub fn prepare(&mut self, target: SocketAddrV4, exchange: Exchange) {
        self.close_clients();
        // What the last contender's connections still hold belongs to another exchange.
        self.upstreams.clear();
        self.upstreams_free.clear();
        self.target = target;
        self.exchange = exchange;
        self.delayed.clear();
    }

    pub fn close_clients(&mut self) {
        self.clients.clear();
        self.free.clear();
        self.due.clear();
        self.outstanding = 0;
        self.issuing = false;
    }

    /// Opens `count` connections, a bounded number at a time, and leaves them unused.
    pub fn open_idle(&mut self, count: usize) -> Result<(), String> {
        self.pace = Pace::Open { per_second: 1.0 };
        self.issuing = false;
        let mut last = clock::now();
        while self.clients.len() < count || self.clients.iter().any(|c| !c.is_open()) {
            let waiting = self.clients.iter().rev().take(CONNECTING_MAX).filter(|c| !c.is_open()).count();
            if self.clients.len() < count && waiting < CONNECTING_MAX {
                self.add_client().map_err(|e| format!("connect: {e}"))?;
                last = clock::now();
            }
            self.turn();
            if clock::now() - last > STALL_NS {
                return Err(format!("no progress while opening {count} connections"));
            }
        }
        Ok(())
    }

    /// One request on each open connection, at most `at_once` of them under way.
    pub fn once_each(&mut self, at_once: usize) -> Result<(), String> {
        let (errors, start) = (self.errors, clock::now());
        self.free.clear();
        for index in 0..self.clients.len() {
            while self.outstanding >= at_once {
                self.turn();
                if clock::now() - start > 4 * STALL_NS {
                    return Err("no progress with one request per connection".to_owned());
                }
            }
            self.start(index, clock::now());
        }
        while self.outstanding > 0 && clock::now() - start < 4 * STALL_NS {
            self.turn();
        }
        if self.outstanding > 0 || self.errors > errors {
            return Err(format!(
                "one request per connection: {}",
                self.first_error.clone().unwrap_or_default()
            ));
        }
        Ok(())
    }

    /// Lets time pass while everything is served.
    pub fn idle_for(&mut self, ns: u64) {
        let end = clock::now() + ns;
        while clock::now() < end {
            self.turn();
        }
    }

    /// `requests` exchanges over `connections` with every byte compared, both ways.
    pub fn verify(&mut self, connections: usize, requests: u64) -> Result<(), String> {
        self.verify = true;
        let outcome = self.closed_until(connections, requests);
        self.verify = false;
        self.close_clients();
        outcome
    }

    fn closed_until(&mut self, connections: usize, requests: u64) -> Result<(), String> {
        self.reset();
        self.pace = Pace::Closed;
        self.issuing = true;
        self.populate(connections)?;
        let mut seen = (0, clock::now());
        while self.completed < requests {
            self.turn();
            if self.errors > 0 {
                return Err(self.first_error.clone().unwrap_or_default());
            }
            if self.completed != seen.0 {
                seen = (self.completed, clock::now());
            } else if clock::now() - seen.1 > STALL_NS {
                return Err(format!(
                    "no answer within {} s after {} answers",
                    STALL_NS / 1_000_000_000,
                    seen.0
                ));
            }
        }
        Ok(())
    }

    fn populate(&mut self, connections: usize) -> Result<(), String> {
        let mut last = clock::now();
        while self.clients.len() < connections {
            let waiting = self.clients.iter().rev().take(CONNECTING_MAX).filter(|c| !c.is_open()).count();
            if waiting < CONNECTING_MAX {
                self.add_client().map_err(|e| format!("connect: {e}"))?;
                last = clock::now();
            }
            self.turn();
            if clock::now() - last > STALL_NS {
                return Err("no progress while connecting".to_owned());
            }
        }
        Ok(())
    }

    /// Warms up, then measures a window. `mark` is called at both ends of the window, with `false` and `true`.
    pub fn measure(
        &mut self,
        connections: usize,
        pace: Pace,
        warm_ns: u64,
        window_ns: u64,
        mut mark: impl FnMut(bool),
    ) -> Result<Tally, String> {
        self.reset();
        self.pace = pace;
        self.issuing = true;
        self.next_due_ns = clock::now() as f64;
        self.populate(connections)?;
        let warm_end = clock::now() + warm_ns;
        while clock::now() < warm_end {
            self.turn();
        }
        self.completed = 0;
        self.errors = 0;
        self.first_error = None;
        self.latency = histogram();
        mark(false);
        let start = clock::now();
        let end = start + window_ns;
        self.record_from = start;
        self.record_to = end;
        let mut now = start;
        while now < end {
            self.turn();
            now = clock::now();
        }
        mark(true);
        let completed = self.completed;
        let window_ns = clock::now() - start;
        self.issuing = false;
        self.drain();
        let tally = Tally {
            completed,
            errors: self.errors,
            first_error: self.first_error.take(),
            window_ns,
            latency: std::mem::replace(&mut self.latency, histogram()),
        };
        self.close_clients();
        if tally.completed == 0 {
            return Err(format!("not one answer: {}", tally.first_error.unwrap_or_default()));
        }
        Ok(tally)
    }

    /// Waits for the answers of the open loop's last requests; those that never come count as errors with their age.
    fn drain(&mut self) {
        if self.pace == Pace::Closed {
            return;
        }
        let give_up = clock::now() + 2_000_000_000;
        while (self.outstanding > 0 || !self.due.is_empty()) && clock::now() < give_up {
            self.turn();
        }
        let now = clock::now();
        let late: Vec<u64> = self
            .due
            .iter()
            .copied()
            .chain(self.clients.iter().filter_map(Client::intended))
            .filter(|&at| (self.record_from..self.record_to).contains(&at))
            .collect();
        for intended in late {
            self.latency.saturating_record(now - intended);
            self.fail("no answer until two seconds after the window");
        }
    }

    fn reset(&mut self) {
        self.close_clients();
        self.completed = 0;
        self.errors = 0;
        self.first_error = None;
        self.record_from = u64::MAX;
        self.record_to = u64::MAX;
        self.delayed.clear();
    }

    fn fail(&mut self, why: &str) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(why.to_owned());
        }
    }

    /// One look at the kernel and everything that follows from it. Never sleeps.
    fn turn(&mut self) {
        self.issue();
        self.answer_delayed();
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(count) = epoll::wait(&self.epoll, &mut self.events[..], Some(&zero)) else { return };
        for at in 0..count {
            let (data, flags) = (self.events[at].data.u64(), self.events[at].flags);
            let (kind, generation, index) = untoken(data);
            match kind {
                Kind::Listener => self.accept(),
                Kind::Client => self.on_client(index, generation, flags),
                Kind::Upstream => self.on_upstream(index, generation, flags),
            }
        }
    }

    /// Starts what is due in the open loop.
    fn issue(&mut self) {
        let Pace::Open { per_second } = self.pace else { return };
        if self.issuing {
            let now = clock::now() as f64;
            while self.next_due_ns <= now {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a time since boot"
                )]
                self.due.push_back(self.next_due_ns as u64);
                self.next_due_ns += 1e9 / per_second;
            }
        }
        while !self.due.is_empty() {
            let Some(index) = self.free.pop() else { return };
            let Some(intended) = self.due.pop_front() else { return };
            self.start(index, intended);
        }
    }
}
