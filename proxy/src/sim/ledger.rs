//! The independent model: what was asked and answered, by the peers' own account, and what may not be.
//!
//! Nothing here reads a counter of the proxy but to compare it at the end. A violation is a sentence.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_runtime::Instant;
use selvedge_runtime::sim::World;

use super::draw::{self, Act, Authz, FilterPlan, Framing, RequestPlan, Scenario};
use super::wire::Head;

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
    /// The authorization service heard of it.
    asked: u32,
    /// Its connection ended before it, by the proxy's right.
    excused: bool,
    /// When its upstream had said a second response to it.
    twice: Option<Instant>,
    seen: Option<Seen>,
}

#[derive(Debug)]
pub struct Ledger {
    world: World,
    entries: RefCell<Vec<Entry>>,
    violations: RefCell<Vec<String>>,
    /// When an upstream of a cluster closed a connection that it had promised nothing about.
    closings: RefCell<Vec<(usize, Instant)>>,
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
            closings: RefCell::default(),
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

    /// Something of that which may go wrong has happened.
    pub fn happened(&self, what: &'static str) {
        self.world.happened(what);
    }

    pub fn is_answered(&self, id: usize) -> bool {
        self.entries.borrow()[id].seen.is_some()
    }

    /// These need no answer.
    pub fn excuse(&self, ids: &[usize]) {
        let mut entries = self.entries.borrow_mut();
        ids.iter().for_each(|id| entries[*id].excused = true);
    }

    /// An upstream closes a connection, after an answer that did not say so.
    pub fn closes(&self, cluster: usize, at: Instant) {
        self.closings.borrow_mut().push((cluster, at));
    }

    pub fn closings(&self) -> usize {
        self.closings.borrow().len()
    }

    /// Whether a request of that cluster may have met a connection that was just being closed.
    fn met_a_closing(&self, cluster: usize, begun: Option<Instant>, seen: Instant) -> bool {
        let closings = self.closings.borrow();
        let met = |at: Instant| begun.is_some_and(|begun| begun <= at + SOON) && at <= seen;
        closings.iter().any(|(of, at)| *of == cluster && met(*at))
    }

    /// The authorization service has read what a request is.
    pub fn asked(&self, id: usize) {
        let (times, begun) = {
            let mut entries = self.entries.borrow_mut();
            entries[id].asked += 1;
            (entries[id].asked, entries[id].begun.is_some())
        };
        if times > 1 || !begun {
            self.violation(format!("request {id}: authorization is asked {times} times, begun: {begun}"));
        }
    }

    /// What filters have let pass, and have done to it.
    fn check_passed(&self, scenario: &Scenario, id: usize, head: &Head, at: Instant) {
        let (plan, entry) = (&scenario.requests[id], self.entries.borrow()[id].clone());
        for filter in &scenario.filters {
            if let Some(wrong) = passed_wrongly(filter, plan, &entry, id, head, at) {
                self.violation(format!("request {id} reached an upstream: {wrong}"));
            }
            if *filter == FilterPlan::Fault && plan.delay.is_some() {
                self.happened("injected delay");
            }
        }
    }

    /// An upstream has read the head of a request.
    pub fn reached(&self, scenario: &Scenario, id: usize, head: &Head, at: Instant) {
        if id < scenario.requests.len() {
            self.check_passed(scenario, id, head, at);
        }
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
    pub fn seen(&self, scenario: &Scenario, id: usize, seen: Seen, at: Instant, prompt: bool) {
        self.responses.set(self.responses.get() + 1);
        let entry = {
            let mut entries = self.entries.borrow_mut();
            entries[id].seen = Some(seen);
            entries[id].clone()
        };
        if let Seen::Whole { status, upstream: false } = seen {
            self.check_time(scenario, id, &entry, status, at, prompt);
            if scenario.refusal(id) == Some(status) {
                self.happened(match status {
                    draw::TOO_LARGE => "request too large to buffer",
                    draw::DENIED | draw::UNANSWERED => "refusal of authz",
                    _ => "injected abort",
                });
            }
        }
        if let (Seen::Whole { status, upstream: true }, Act::Answer(answer)) =
            (seen, &scenario.requests[id].act)
            && status != answer.status
        {
            self.violation(format!("request {id}: status {status}, the upstream said {}", answer.status));
        }
        if let (Seen::Whole { upstream: true, .. }, Act::Answer(answer)) = (seen, &scenario.requests[id].act)
            && answer.interim > crate::limits::INTERIM_RESPONSES
        {
            self.violation(format!(
                "request {id}: {} interim responses, and then the answer",
                answer.interim
            ));
        }
        if scenario.calm {
            self.check_calm(scenario, id, &entry, seen, at);
        }
    }

    /// Nothing goes wrong but what the scenario asks for.
    fn check_calm(&self, scenario: &Scenario, id: usize, entry: &Entry, seen: Seen, at: Instant) {
        let right = match (seen, scenario.refusal(id)) {
            (Seen::Whole { status, upstream: false }, Some(refusal)) => status == refusal,
            (Seen::Whole { upstream, .. }, None) => upstream,
            _ => false,
        };
        let closed = seen == Seen::Whole { status: 503, upstream: false }
            && self.met_a_closing(scenario.requests[id].cluster, entry.begun, at);
        if !right && !closed {
            self.violation(format!("request {id} on a calm day: {seen:?}"));
        }
    }

    /// A time-out is never early, and not late either where nothing else takes time.
    fn check_time(
        &self,
        scenario: &Scenario,
        id: usize,
        entry: &Entry,
        status: u16,
        at: Instant,
        prompt: bool,
    ) {
        let waits = &scenario.timeouts;
        let (since, least) = match status {
            504 => (entry.sent, waits.route.min(waits.idle)),
            408 => (entry.begun, waits.request.min(waits.head).min(waits.idle)),
            _ => return,
        };
        self.happened("time-out");
        if since.is_none_or(|since| at < since + least) {
            self.violation(format!("request {id} timed out early: since {since:?}, {status} at {at:?}"));
        }
        let quick = scenario.filters.is_empty() && scenario.faults.room.0 > 1_000;
        let plain = quick && scenario.requests[id].framing == Framing::None;
        if status == 504 && plain && prompt && since.is_some_and(|since| at > since + waits.route + LATE) {
            self.violation(format!("request {id} timed out late: since {since:?}, {status} at {at:?}"));
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
            if lines.len() > 1 || (entry.upstreams > 0 && dropped == 0 && lines.is_empty()) {
                let (lines, upstreams) = (lines.len(), entry.upstreams);
                self.violation(format!("request {id} has {lines} lines in the log, {upstreams} upstreams"));
            }
            let Some(seen) = entry.seen else {
                if scenario.calm && entry.begun.is_some() && !entry.excused {
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

    /// Requests that upstreams and the authorization service read.
    pub fn forwarded(&self) -> u64 {
        self.entries.borrow().iter().map(|e| u64::from(e.upstreams + e.asked)).sum()
    }

    pub fn requests_begun(&self) -> usize {
        self.entries.borrow().iter().filter(|e| e.begun.is_some()).count()
    }
}

/// Whether a response to that request has a body.
pub fn has_body(method: &str, status: u16, framing: Framing) -> bool {
    method != "HEAD" && !matches!(status, 204 | 304) && framing != Framing::None
}

/// What is wrong about a request that passed a filter.
fn passed_wrongly(
    filter: &FilterPlan,
    plan: &RequestPlan,
    entry: &Entry,
    id: usize,
    head: &Head,
    at: Instant,
) -> Option<String> {
    match filter {
        FilterPlan::Fault if plan.abort.is_some() => Some("it was to be aborted".to_owned()),
        FilterPlan::Fault => {
            let free = entry.begun? + plan.delay?;
            (at < free).then(|| format!("at {at:?}, delayed until {free:?}"))
        }
        FilterPlan::Authz { fails_open, .. } => match (plan.authz, head.get("x-user")) {
            (Authz::Allow, Some(user)) if user.parse() == Ok(id) => None,
            (_, None) if *fails_open => None,
            (authz, user) => Some(format!("authorization was to {authz:?}, and it is {user:?}'s")),
        },
        FilterPlan::Buffer { most } if plan.body > *most => Some(format!("longer than {most}")),
        FilterPlan::Buffer { .. } if plan.body == 0 || plan.trailers => None,
        FilterPlan::Buffer { .. } => {
            let whole = head.framing() == Ok(Some(Ok(plan.body))) && entry.sent.is_some();
            (!whole).then(|| format!("not buffered: {:?}, sent {:?}", head.fields, entry.sent))
        }
    }
}

/// What happens on a calm day is known everywhere after that time.
const SOON: Duration = Duration::from_millis(300);

/// What a reply may take from a timer to its reader: a tick, a turn, stalls, and four ways through a slow network.
const LATE: Duration = Duration::from_millis(300);

/// What may happen here, in the words of the tally; the network's own are `selvedge_runtime::sim::HAPPENINGS`.
pub const HAPPENINGS: [&str; 36] = [
    "answer",
    "answer that comes early",
    "answer that comes late",
    "answer that comes twice",
    "answer that ends with its connection",
    "answer that is cut by a close",
    "answer that is cut by a reset",
    "authz allows",
    "authz closes",
    "authz denies",
    "authz fails",
    "authz hangs",
    "authz lies",
    "client that leaves",
    "close after an answer",
    "close instead of an answer",
    "drain",
    "end amid requests",
    "endpoints change",
    "garbage answer",
    "garbage request",
    "half-close",
    "injected abort",
    "injected delay",
    "interim response",
    "interim responses without end",
    "line of the log dropped",
    "memory compared after the same again",
    "refusal of authz",
    "request too large to buffer",
    "silent upstream",
    "slow reader",
    "slow writer",
    "stall of a shard",
    "time-out",
    "wall clock jump",
];

/// Longer than anything is under way, and than any stall.
const LONG: Duration = Duration::from_secs(2);

/// How long a peer waits for anything: beyond every time-out of the proxy.
pub const PATIENCE: Duration = Duration::from_secs(400);
