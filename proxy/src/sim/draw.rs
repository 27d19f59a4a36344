//! What one seed stands for: a configuration, faults, and what clients and upstreams will do.
//!
//! All of it is drawn before anything runs, from a generator of its own: so a change of the proxy leaves the
//! scenario of a seed as it was.

use std::ops::RangeInclusive;
use std::time::Duration;

use selvedge_runtime::rng::Rng;
use selvedge_runtime::sim::{ALWAYS, Faults};

use super::yaml;
pub use super::yaml::{AUTHZ, LISTENER, PORT, endpoint};
use crate::limits;

/// Everything that a seed decides beforehand.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub bootstrap: String,
    pub shards: usize,
    pub reuse_port: bool,
    pub faults: Faults,
    pub clusters: Vec<ClusterPlan>,
    /// In their order.
    pub filters: Vec<FilterPlan>,
    /// By connection of a client.
    pub clients: Vec<Vec<ConnectionPlan>>,
    /// The same again, when all has come to rest: clients from this number on. It leaves no more behind than before.
    pub encore: Option<usize>,
    pub requests: Vec<RequestPlan>,
    /// Nothing goes wrong in the network, and no bound of the configuration is small.
    pub calm: bool,
    pub timeouts: Timeouts,
    pub stalls: u32,
    pub wall_jumps: u32,
    /// The log sink takes nothing until the end.
    pub log_stuck: bool,
    /// The process ends in the middle of it, at that time from the start.
    pub quits_at: Option<Duration>,
    pub drains: bool,
    /// Endpoints come and go, as names resolve to others.
    pub churns: bool,
}

/// How long the proxy waits, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the response to a whole request.
    pub route: Duration,
    /// For anything on a stream.
    pub idle: Duration,
    /// For a whole request, and for its head.
    pub request: Duration,
    pub head: Duration,
}

/// A filter before the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterPlan {
    Buffer {
        most: usize,
    },
    /// By the headers of a request.
    Fault,
    Authz {
        fails_open: bool,
        /// The service sees that much of the body.
        body: Option<usize>,
        timeout: Duration,
    },
}

#[derive(Debug, Clone)]
pub struct ClusterPlan {
    pub endpoints: usize,
}

/// One connection of a client: its requests, by number.
#[derive(Debug, Clone)]
pub struct ConnectionPlan {
    pub requests: Vec<usize>,
    /// Requests are written without waiting for the response before.
    pub pipelined: bool,
    /// Before the first byte.
    pub delay: Duration,
    pub reads_slowly: bool,
    /// The client goes away after that many bytes of responses.
    pub leaves_after: Option<u64>,
    pub half_closes: bool,
    /// Bytes that are no request, instead of the last one.
    pub ends_in_garbage: bool,
}

impl ConnectionPlan {
    /// Whether a response is read as soon as it is there, and asked for only then.
    pub fn is_prompt(&self) -> bool {
        !self.pipelined && !self.reads_slowly
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length,
    Chunked,
    /// The end of the connection: responses only.
    Close,
}

#[derive(Debug, Clone)]
pub struct RequestPlan {
    pub cluster: usize,
    pub method: &'static str,
    pub framing: Framing,
    pub body: usize,
    pub piece: usize,
    pub pause: Duration,
    pub expects_continue: bool,
    pub trailers: bool,
    pub act: Act,
    /// What the fault filter, where there is one, does to it.
    pub delay: Option<Duration>,
    pub abort: Option<u16>,
    pub authz: Authz,
}

/// What the authorization service says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authz {
    Allow,
    Deny,
    /// Status 500.
    Error,
    Hang,
    Garbage,
    Close,
}

/// What the service's refusal, and what no answer of it, is for the client.
pub const DENIED: u16 = 401;
pub const UNANSWERED: u16 = 403;
pub const TOO_LARGE: u16 = 413;

/// What an upstream does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    Answer(Answer),
    /// Takes the request, and never says anything.
    Silent,
    Garbage,
    /// A response that ends before its declared end, by a close or a reset.
    Cut {
        answer: Answer,
        after: usize,
        reset: bool,
    },
    /// Closes without a word.
    Close {
        reset: bool,
    },
}

impl Act {
    /// In the words of the tally.
    pub fn name(&self) -> &'static str {
        match self {
            Act::Answer(Answer { early: true, .. }) => "answer that comes early",
            Act::Answer(Answer { twice: true, .. }) => "answer that comes twice",
            Act::Answer(Answer { interim: 2.., .. }) => "interim responses without end",
            Act::Answer(Answer { interim: 1, .. }) => "interim response",
            Act::Answer(Answer { closes: true, .. }) => "close after an answer",
            Act::Answer(Answer { framing: Framing::Close, .. }) => "answer that ends with its connection",
            Act::Answer(_) => "answer",
            Act::Silent => "silent upstream",
            Act::Garbage => "garbage answer",
            Act::Cut { reset: false, .. } => "answer that is cut by a close",
            Act::Cut { reset: true, .. } => "answer that is cut by a reset",
            Act::Close { .. } => "close instead of an answer",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub framing: Framing,
    pub body: usize,
    pub piece: usize,
    pub delay: Duration,
    pub pause: Duration,
    /// Before the request's body was read.
    pub early: bool,
    pub interim: u32,
    /// A second response that nobody asked for.
    pub twice: bool,
    /// The connection is closed after it, without saying so.
    pub closes: bool,
}

/// Draws from a scenario's own generator.
pub(super) struct Draw(Rng);

impl Draw {
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.0.next() % bound.max(1)
    }

    pub(super) fn within(&self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub(super) fn size(&self, range: RangeInclusive<u64>) -> usize {
        usize::try_from(self.within(range)).expect("a small number")
    }

    /// Once in `n`.
    pub(super) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Of every magnitude up to `most` alike.
    pub(super) fn magnitude(&self, most: u64) -> usize {
        let bits = u64::from(most.max(1).ilog2());
        let top = 1u64 << self.within(0..=bits);
        usize::try_from(self.below(top * 2).min(most)).expect("a small number")
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("a small number")]
    }

    pub(super) fn millis(&self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub(super) fn micros(&self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_micros(self.within(range))
    }
}

impl Scenario {
    pub fn new(seed: u64) -> Scenario {
        let draw = Draw(Rng::new(seed ^ 0x5e1_ed6e));
        let calm = draw.one_in(6);
        let clusters: Vec<_> =
            (0..draw.within(1..=3)).map(|_| ClusterPlan { endpoints: draw.size(1..=3) }).collect();
        let tiny = draw.one_in(8);
        let body_max = if tiny { 1_500 } else { 300_000 };
        let long = |range| if calm { Duration::from_secs(300) } else { draw.millis(range) };
        let timeouts = Timeouts {
            route: long(50..=4_000),
            idle: if calm { Duration::from_secs(120) } else { draw.millis(500..=8_000) },
            request: long(500..=10_000),
            head: long(200..=3_000),
        };
        let (shards, reuse_port) = (draw.size(1..=2), draw.one_in(2));
        let filters = filters(&draw, calm, body_max);
        let bootstrap = yaml::bootstrap(&draw, calm, &clusters, &filters, &timeouts, reuse_port);
        let mut requests = Vec::new();
        let mut clients: Vec<Vec<ConnectionPlan>> = (0..draw.within(1..=6))
            .map(|_| {
                let connections = draw.within(1..=4);
                (0..connections)
                    .map(|_| connection(&draw, calm, clusters.len(), body_max, &mut requests))
                    .collect()
            })
            .collect();
        if calm && tiny {
            // A byte at a time to one who takes a rest after each is no calm day.
            clients.iter_mut().flatten().for_each(|plan| plan.reads_slowly = false);
        }
        let log_stuck = draw.one_in(5);
        let quits_at = (!calm && draw.one_in(4)).then(|| draw.micros(0..=2_000_000));
        let encore = (!log_stuck && quits_at.is_none() && draw.one_in(3)).then_some(clients.len());
        if encore.is_some() {
            repeat(&mut clients, &mut requests);
        }
        Scenario {
            seed,
            bootstrap,
            shards,
            reuse_port,
            faults: faults(&draw, calm, tiny),
            clusters,
            filters,
            clients,
            encore,
            requests,
            calm,
            timeouts,
            stalls: if calm || draw.one_in(2) { 0 } else { 40 },
            wall_jumps: if draw.one_in(4) { 20 } else { 0 },
            log_stuck,
            quits_at,
            drains: draw.one_in(3),
            churns: draw.one_in(3),
        }
    }

    /// The status with which a filter answers that request, if nothing else happens to it before.
    pub fn refusal(&self, id: usize) -> Option<u16> {
        let request = &self.requests[id];
        self.filters.iter().find_map(|filter| match filter {
            FilterPlan::Buffer { most } => (request.body > *most).then_some(TOO_LARGE),
            FilterPlan::Fault => request.abort,
            FilterPlan::Authz { fails_open, .. } => match request.authz {
                Authz::Allow => None,
                Authz::Deny => Some(DENIED),
                _ => (!fails_open).then_some(UNANSWERED),
            },
        })
    }

    /// Whether requests pass when the authorization service does not answer.
    pub fn fails_open(&self) -> bool {
        self.filters.iter().any(|f| matches!(f, FilterPlan::Authz { fails_open: true, .. }))
    }
}

/// Doubles the clients; the second half asks what the first has asked, in requests of its own.
fn repeat(clients: &mut Vec<Vec<ConnectionPlan>>, requests: &mut Vec<RequestPlan>) {
    let first = requests.len();
    requests.extend_from_within(..);
    let mut again = clients.clone();
    let ids = again.iter_mut().flatten().flat_map(|plan| &mut plan.requests);
    ids.for_each(|id| *id += first);
    clients.append(&mut again);
}

fn filters(draw: &Draw, calm: bool, body_max: u64) -> Vec<FilterPlan> {
    let mut filters = Vec::new();
    if draw.one_in(3) {
        filters.push(FilterPlan::Fault);
    }
    if draw.one_in(3) {
        filters.push(FilterPlan::Authz {
            fails_open: draw.one_in(3),
            body: draw.one_in(3).then(|| draw.magnitude(8_000).max(1)),
            timeout: if calm { Duration::from_secs(300) } else { draw.millis(20..=1_000) },
        });
    }
    if draw.one_in(4) {
        filters.push(FilterPlan::Buffer { most: draw.magnitude(body_max).max(1) });
    }
    if draw.one_in(2) {
        filters.reverse();
    }
    filters
}

fn faults(draw: &Draw, calm: bool, tiny: bool) -> Faults {
    let least = draw.micros(5..=200);
    let mut faults = Faults { latency: (least, least + draw.micros(0..=2_000)), ..Faults::none() };
    let rate =
        |most: u32| if draw.one_in(2) { 0 } else { u32::try_from(draw.below(most.into())).unwrap_or(0) };
    // What loses nothing may happen on a calm day.
    faults.short_read = rate(ALWAYS / 2);
    faults.short_write = rate(ALWAYS / 2);
    faults.late_rate = rate(ALWAYS / 4);
    faults.late = draw.micros(10..=20_000);
    faults.multishot_ends = rate(ALWAYS / 8);
    faults.partial_turn = rate(ALWAYS / 4);
    faults.no_buffers = rate(ALWAYS / 16);
    faults.no_descriptors = rate(ALWAYS / 3);
    let (least, more) = if tiny { (1, 64) } else { (1024, 256 * 1024) };
    let least = least + draw.magnitude(more);
    faults.room = (least, least + draw.magnitude(more));
    if !calm {
        faults.reset = rate(ALWAYS / 6);
        faults.reset_after = draw.magnitude(64 * 1024) as u64 + 1;
        faults.refuse = rate(ALWAYS / 8);
        faults.hang = rate(ALWAYS / 16);
    }
    faults
}

fn connection(
    draw: &Draw,
    calm: bool,
    clusters: usize,
    body_max: u64,
    all: &mut Vec<RequestPlan>,
) -> ConnectionPlan {
    // Few large requests, or many small ones.
    let many = draw.one_in(2);
    let (count, body_max) =
        if many { (draw.within(8..=60), body_max.min(4_000)) } else { (draw.within(1..=8), body_max) };
    let requests = (0..count)
        .map(|_| {
            all.push(request(draw, calm, clusters, body_max, many));
            all.len() - 1
        })
        .collect();
    ConnectionPlan {
        requests,
        pipelined: draw.one_in(3),
        delay: draw.micros(0..=300_000),
        reads_slowly: draw.one_in(6),
        leaves_after: (!calm && draw.one_in(6)).then(|| draw.magnitude(16 * 1024) as u64),
        half_closes: !calm && draw.one_in(8),
        ends_in_garbage: !calm && draw.one_in(12),
    }
}

fn request(draw: &Draw, calm: bool, clusters: usize, body_max: u64, many: bool) -> RequestPlan {
    let method = *draw.pick(&["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD"]);
    let framing = match method {
        "POST" | "PUT" => *draw.pick(&[Framing::Length, Framing::Chunked]),
        _ => Framing::None,
    };
    let body = if framing == Framing::None { 0 } else { draw.magnitude(body_max) };
    // One of many is seldom slow, and seldom goes wrong: the others have to have their turn.
    let seldom = if many { 10 } else { 1 };
    let slow = draw.one_in(5 * seldom);
    let authz = *draw.pick(match calm {
        true => &[Authz::Allow, Authz::Deny, Authz::Error][..],
        false => &[Authz::Allow, Authz::Deny, Authz::Error, Authz::Hang, Authz::Garbage, Authz::Close],
    });
    RequestPlan {
        cluster: draw.size(0..=clusters as u64 - 1),
        method,
        framing,
        body,
        piece: draw.magnitude(64 * 1024).max(1).max(body / 40),
        pause: if slow { draw.micros(0..=50_000) } else { Duration::ZERO },
        expects_continue: framing != Framing::None && draw.one_in(8),
        trailers: framing == Framing::Chunked && draw.one_in(4),
        act: act(draw, calm, body_max, seldom),
        delay: draw.one_in(6 * seldom).then(|| draw.millis(1..=300)),
        abort: draw.one_in(8).then(|| *draw.pick(&[418, 429, 503])),
        authz: if draw.one_in(3) { authz } else { Authz::Allow },
    }
}

fn act(draw: &Draw, calm: bool, body_max: u64, seldom: u64) -> Act {
    let answer = answer(draw, calm, body_max, seldom);
    if calm {
        return Act::Answer(answer);
    }
    match draw.below(20 * seldom) {
        0 => Act::Silent,
        1 => Act::Garbage,
        2 | 3 => Act::Cut { after: draw.magnitude(answer.body as u64), answer, reset: draw.one_in(2) },
        4 => Act::Close { reset: draw.one_in(2) },
        _ => Act::Answer(answer),
    }
}

fn answer(draw: &Draw, calm: bool, body_max: u64, seldom: u64) -> Answer {
    let status = *draw.pick(&[200, 200, 200, 200, 201, 204, 304, 404, 500, 503]);
    let framing = *draw.pick(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::Close]);
    let body = if matches!(status, 204 | 304) { 0 } else { draw.magnitude(body_max) };
    let framing = if matches!(status, 204 | 304) { Framing::None } else { framing };
    let slow = draw.one_in(5 * seldom);
    Answer {
        status,
        framing,
        body,
        piece: draw.magnitude(64 * 1024).max(1).max(body / 40),
        delay: match draw.below(30 * seldom) {
            0 if !calm => draw.millis(400..=6_000),
            0..10 => draw.micros(0..=400_000),
            _ => Duration::ZERO,
        },
        pause: if slow { draw.micros(0..=20_000) } else { Duration::ZERO },
        early: !calm && draw.one_in(10),
        interim: match draw.below(60) {
            0 if !calm => limits::INTERIM_RESPONSES + 1,
            0..5 => 1,
            _ => 0,
        },
        twice: !calm && framing != Framing::Close && draw.one_in(25),
        closes: draw.one_in(10 * seldom),
    }
}
