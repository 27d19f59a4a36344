//! The independent model: what was asked and answered, by the peers' own account, and what may not be.
//!
//! Nothing here reads a counter of the proxy but to compare it at the end. A violation is a sentence.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_runtime::Instant;
use selvedge_runtime::sim::World;

use super::draw::{Act, Framing, Scenario};

/// How a request ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A whole response, from an upstream or of the proxy's own.
    Whole { status: u16, upstream: bool },
    /// A head that came, and a body that visibly broke.
    Broken { status: u16 },
}

#[derive(Debug, Clone, Default)]
struct Entry {
    /// When the last byte of it was handed to the kernel, if it was.
    sent: Option<Instant>,
    /// Its head was handed to the kernel.
    begun: Option<Instant>,
    upstreams: u32,
    /// When its upstream had said a second response to it.
    twice: Option<Instant>,
    seen: Option<Seen>,
}

#[derive(Debug)]
pub struct Ledger {
    world: World,
    entries: RefCell<Vec<Entry>>,
    violations: RefCell<Vec<String>>,
    pub responses: Cell<u64>,
}

/// What every body is cut from, again and again: no length of a buffer divides it.
static PATTERN: [u8; 16_381] = {
    let (mut bytes, mut at, mut state) = ([0; 16_381], 0, 0x9e37_79b9_7f4a_7c15_u64);
    while at < bytes.len() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes[at] = state.to_be_bytes()[0];
        at += 1;
    }
    bytes
};

/// The pieces of the pattern that are `len` bytes of a request's body, or of its response's, from place `from` on.
fn pieces(id: usize, response: bool, from: usize, len: usize) -> impl Iterator<Item = &'static [u8]> {
    let begin = (id * 2 + usize::from(response)).wrapping_mul(0x9e37_79b1);
    let (mut at, mut left) = ((begin % PATTERN.len() + from) % PATTERN.len(), len);
    std::iter::from_fn(move || {
        let piece = &PATTERN[at..(at + left).min(PATTERN.len())];
        (at, left) = (0, left - piece.len());
        (!piece.is_empty()).then_some(piece)
    })
}

/// Writes `len` bytes of a body.
pub fn body(id: usize, response: bool, from: usize, len: usize, into: &mut Vec<u8>) {
    pieces(id, response, from, len).for_each(|piece| into.extend_from_slice(piece));
}

impl Ledger {
    pub fn new(scenario: &Scenario, world: &World) -> Ledger {
        Ledger {
            world: world.clone(),
            entries: RefCell::new(vec![Entry::default(); scenario.requests.len()]),
            violations: RefCell::default(),
            responses: Cell::new(0),
        }
    }

    pub fn violation(&self, what: String) {
        self.violations.borrow_mut().push(format!("{:?}: {what}", self.world.now()));
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    pub fn begun(&self, id: usize, at: Instant) {
        self.entries.borrow_mut()[id].begun = Some(at);
    }

    pub fn said_twice(&self, id: usize, at: Instant) {
        self.entries.borrow_mut()[id].twice = Some(at);
    }

    /// A client was given what an upstream said a second time to request `first`. HTTP/1.1 cannot tell it from an
    /// answer when it comes after the next request was sent; long before that it is a connection that is broken.
    pub fn second(&self, first: usize, id: usize) {
        let (said, begun) = (self.entries.borrow()[first].twice, self.entries.borrow()[id].begun);
        if said.zip(begun).is_some_and(|(said, begun)| begun > said + LONG) {
            self.violation(format!("request {id} got the second response of request {first}"));
        }
    }

    pub fn sent(&self, id: usize, at: Instant) {
        self.entries.borrow_mut()[id].sent = Some(at);
    }

    /// An upstream has read the head of a request.
    pub fn reached(&self, id: usize) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(id) else {
            drop(entries);
            return self.violation(format!("an upstream read request {id}, which nobody sent"));
        };
        entry.upstreams += 1;
        let (times, begun) = (entry.upstreams, entry.begun.is_some());
        drop(entries);
        if times > 1 {
            self.violation(format!("request {id} reached upstreams {times} times, and nothing retries"));
        }
        if !begun {
            self.violation(format!("request {id} reached an upstream before it was sent"));
        }
    }

    pub fn check_body(&self, who: &str, id: usize, response: bool, from: usize, bytes: &[u8]) {
        let mut at = 0;
        for piece in pieces(id, response, from, bytes.len()) {
            let came = &bytes[at..at + piece.len()];
            if came != piece {
                let n = came.iter().zip(piece).position(|(a, b)| a != b).unwrap_or(0);
                let (at, byte) = (from + at + n, came[n]);
                return self
                    .violation(format!("{who}: byte {at} of the body of {id} is {byte:#x}, not its own"));
            }
            at += piece.len();
        }
    }

    /// A client has read a response to its end, or to where it broke.
    pub fn seen(&self, scenario: &Scenario, id: usize, seen: Seen, at: Instant) {
        self.responses.set(self.responses.get() + 1);
        let entry = {
            let mut entries = self.entries.borrow_mut();
            entries[id].seen = Some(seen);
            entries[id].clone()
        };
        if let Seen::Whole { status: 504, upstream: false } = seen {
            let early = entry.sent.is_none_or(|sent| at < sent + scenario.timeout);
            if early {
                self.violation(format!("request {id} timed out early: sent {:?}, 504 at {at:?}", entry.sent));
            }
        }
        if let (Seen::Whole { status, upstream: true }, Act::Answer(answer)) =
            (seen, &scenario.requests[id].act)
            && status != answer.status
        {
            self.violation(format!("request {id}: status {status}, the upstream said {}", answer.status));
        }
        if scenario.calm && !matches!(seen, Seen::Whole { upstream: true, .. }) {
            self.violation(format!("request {id} on a calm day: {seen:?}"));
        }
    }

    /// At the end: each response has its line in the log, and each line its request.
    pub fn check_log(&self, scenario: &Scenario, lines: &[String], dropped: u64, requests: u64) {
        let mut by_id: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for line in lines {
            let mut words = line.split(' ');
            let (id, status) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            if let Ok(id) = id.parse() {
                by_id.entry(id).or_default().push(status);
            }
        }
        if lines.len() as u64 + dropped != requests {
            self.violation(format!(
                "{requests} requests were counted, {} lines written and {dropped} dropped",
                lines.len()
            ));
        }
        for (id, entry) in self.entries.borrow().iter().enumerate() {
            let lines = by_id.get(&id).map_or(&[][..], |l| l);
            if lines.len() > 1 {
                self.violation(format!("request {id} has {} lines in the log", lines.len()));
            }
            let Some(seen) = entry.seen else {
                if scenario.calm && entry.begun.is_some() {
                    self.violation(format!("request {id} on a calm day: no answer"));
                }
                continue;
            };
            let (Seen::Whole { status, .. } | Seen::Broken { status }) = seen;
            let wanted = status.to_string();
            if dropped == 0 && lines != [wanted.as_str()] {
                // A head that could not be read names no request.
                let unread = matches!(status, 400 | 408 | 431) && lines.is_empty();
                if !unread {
                    self.violation(format!("request {id} was answered {status}; the log says {lines:?}"));
                }
            }
        }
    }

    pub fn requests_begun(&self) -> usize {
        self.entries.borrow().iter().filter(|e| e.begun.is_some()).count()
    }
}

/// Whether a response to that request has a body.
pub fn has_body(method: &str, status: u16, framing: Framing) -> bool {
    method != "HEAD" && !matches!(status, 204 | 304) && framing != Framing::None
}

/// Longer than anything is under way, and than any stall.
const LONG: Duration = Duration::from_secs(2);

/// How long a peer waits for anything: beyond every time-out of the proxy.
pub const PATIENCE: Duration = Duration::from_secs(400);
