//! Runs the filters of one stream, both ways. Awaits nothing: the stream awaits what filters ask for.
//!
//! ```text
//! queue -> [held 0] filter 0 -> [held 1] filter 1 -> ... -> out        (a response takes them in reverse order)
//! ```
//! A message is fed into `queue`. Its head moves as far as filters let it (`head_at`), its body up to the head at
//! most, its end behind its body (`end_at`). A call stops a way whole; the answer resumes it at the same hook.
//! Invariant: `end_at <= head_at`, and while a way waits for an answer nothing in it moves.

use selvedge_runtime::{Chunk, Chunks};

use super::{Active, Body, Call, ChunkVerdict, Cx, LocalEntry, RouteConfig, Verdict, Wants};
use crate::http::message::{ResponseHead, Trailers};
use crate::limits;
use crate::route::pick::Picked;
use crate::route::table::{FilterOverride, WeightedEntry};
use crate::side_call::Answer;
use crate::stream::Reply;

/// The two ways through a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dir {
    Request = 0,
    Response = 1,
}

/// Where a way stands after it was driven.
#[derive(Debug)]
pub enum Outcome {
    /// The head stands at a filter: it waits for more of the message, or for an answer.
    Waits,
    /// The head is through; `out` holds what follows it.
    Passed,
    /// A filter wants another route: pick it, then drive on.
    Reroute,
    Reply(Box<Reply>),
    /// A filter collects the body, and it is longer than allowed.
    TooLarge,
    Reset(&'static str),
}

/// Which hook of a filter has asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Head,
    Chunk,
    Trailers,
}

#[derive(Debug, Default)]
struct Way {
    head_at: usize,
    end_at: usize,
    /// The hook that waits for an answer.
    asking: Option<(usize, Hook)>,
    call: Option<Call>,
    answer: Option<Answer>,
    queue: Chunks,
    ended: bool,
    trailers: Option<Trailers>,
    out: Chunks,
    /// Nothing goes this way any more.
    closed: bool,
    /// The head is through, and no filter looks at what follows.
    open: bool,
}

impl Way {
    fn waits(&self) -> bool {
        self.asking.is_some() && self.answer.is_none()
    }
}

#[derive(Debug)]
struct Slot<'c> {
    name: &'c str,
    /// `None`: switched off for this stream.
    active: Option<Active<'c>>,
    wants: [Wants; 2],
    met: [bool; 2],
    held: [Chunks; 2],
}

/// The chain of one stream.
#[derive(Debug)]
pub struct Run<'c> {
    slots: Box<[Slot<'c>]>,
    ways: [Way; 2],
    picked: Option<Picked<'c>>,
    entry: Option<&'c WeightedEntry>,
    /// The response's head while it is on its way, and whether it is a reply of ours.
    pub response: Option<(ResponseHead, bool)>,
}

/// The most specific word of a route on a filter that `wanted` takes for an answer.
//= envoy: weighted cluster, route, virtual host, route configuration
fn level<'c, T>(
    picked: Option<Picked<'c>>,
    entry: Option<&'c WeightedEntry>,
    name: &str,
    wanted: impl Fn(&'c FilterOverride) -> Option<T>,
) -> Option<T> {
    let picked = picked?;
    let levels = [&picked.route.per_filter, &picked.host.per_filter, &picked.table.per_filter];
    let all = entry.map(|e| &e.per_filter).into_iter().chain(levels);
    all.filter(|l| !l.is_empty()).find_map(|l| l.get(name).and_then(&wanted))
}

impl<'c> Run<'c> {
    pub fn new(
        chain: &'c [LocalEntry],
        picked: Option<Picked<'c>>,
        entry: Option<&'c WeightedEntry>,
    ) -> Run<'c> {
        let slot = |one: &'c LocalEntry| {
            //= envoy: a route's own configuration switches a disabled filter on
            let said = level(picked, entry, &one.name, |o| Some(matches!(o, FilterOverride::Disabled)));
            Slot {
                name: &one.name,
                active: (!said.unwrap_or(one.disabled)).then(|| Active::new(&one.twin)),
                wants: [Wants::default(); 2],
                met: [false; 2],
                held: [Chunks::new(), Chunks::new()],
            }
        };
        Run {
            slots: chain.iter().map(slot).collect(),
            ways: [Way::default(), Way::default()],
            picked,
            entry,
            response: None,
        }
    }

    /// A filter has asked for another route, and this is it.
    pub fn rerouted(&mut self, picked: Option<Picked<'c>>, entry: Option<&'c WeightedEntry>) {
        (self.picked, self.entry) = (picked, entry);
    }

    pub fn push(&mut self, dir: Dir, data: Chunk) {
        let way = &mut self.ways[dir as usize];
        if !way.closed {
            way.queue.push(data);
        }
    }

    pub fn end(&mut self, dir: Dir, trailers: Option<Trailers>) {
        let way = &mut self.ways[dir as usize];
        (way.ended, way.trailers) = (true, trailers);
    }

    /// Nothing more goes this way: the stream has its answer, or is over.
    pub fn close(&mut self, dir: Dir) {
        self.ways[dir as usize] = Way { closed: true, ..Way::default() };
        for slot in &mut self.slots {
            slot.held[dir as usize] = Chunks::new();
        }
    }

    pub fn answer(&mut self, dir: Dir, answer: Answer) {
        self.ways[dir as usize].answer = Some(answer);
    }

    /// What a filter asked for, to be awaited.
    pub fn take_call(&mut self, dir: Dir) -> Option<Call> {
        self.ways[dir as usize].call.take()
    }

    /// What came through, and `Some` at the end of the message.
    pub fn take_out(&mut self, dir: Dir) -> (Chunks, Option<Option<Trailers>>) {
        let n = self.slots.len();
        let looks = |s: &Slot<'_>| {
            let wants = s.wants[dir as usize];
            wants.trailers || wants.body == Body::Chunks || !s.held[dir as usize].is_empty()
        };
        let open = !self.slots.iter().any(looks);
        let way = &mut self.ways[dir as usize];
        let over = way.ended && !way.closed && way.end_at == n;
        way.closed |= over;
        way.open = open && way.head_at == n && !way.closed && !way.ended;
        (std::mem::take(&mut way.out), over.then(|| way.trailers.take()))
    }

    /// Whether the source of this way may be read: what is held has its bounds.
    pub fn has_room(&self, dir: Dir) -> bool {
        let way = &self.ways[dir as usize];
        !way.waits() || way.queue.bytes() < limits::PUMP_BYTES
    }

    pub fn is_closed(&self, dir: Dir) -> bool {
        self.ways[dir as usize].closed
    }

    pub fn head_passed(&self, dir: Dir) -> bool {
        self.ways[dir as usize].head_at == self.slots.len()
    }

    /// Whether body and trailers pass this way without a look.
    pub fn is_open(&self, dir: Dir) -> bool {
        self.ways[dir as usize].open
    }

    fn slot(&mut self, dir: Dir, at: usize) -> &mut Slot<'c> {
        let n = self.slots.len();
        match dir {
            Dir::Request => &mut self.slots[at],
            Dir::Response => &mut self.slots[n - 1 - at],
        }
    }

    /// Moves everything as far as it goes.
    pub fn drive(&mut self, dir: Dir, cx: &mut Cx<'_>) -> Outcome {
        match self.moves(dir, cx) {
            Ok(()) if self.head_passed(dir) => Outcome::Passed,
            Ok(()) => Outcome::Waits,
            Err(outcome) => outcome,
        }
    }

    fn moves(&mut self, dir: Dir, cx: &mut Cx<'_>) -> Result<(), Outcome> {
        let way = dir as usize;
        if self.ways[way].closed || self.ways[way].waits() {
            return Ok(());
        }
        if let Some((at, Hook::Chunk)) = self.ways[way].asking {
            self.flow(dir, at, Chunks::new(), cx)?;
        }
        loop {
            let mut moved = self.move_head(dir, cx)?;
            if !self.ways[way].waits() && !self.ways[way].queue.is_empty() {
                let queue = std::mem::take(&mut self.ways[way].queue);
                self.flow(dir, 0, queue, cx)?;
                moved = true;
            }
            moved |= self.move_end(dir, cx)?;
            if !moved || self.ways[way].waits() {
                return Ok(());
            }
        }
    }

    /// The answer, if it was this hook that asked.
    fn resume(&mut self, dir: Dir, at: usize, hook: Hook) -> Option<Answer> {
        let way = &mut self.ways[dir as usize];
        if way.asking != Some((at, hook)) {
            return None;
        }
        way.asking = None;
        way.answer.take()
    }

    fn ask(&mut self, dir: Dir, at: usize, hook: Hook, call: Call) {
        let way = &mut self.ways[dir as usize];
        (way.asking, way.call) = (Some((at, hook)), Some(call));
    }

    /// One step of the head. `false`: it stays.
    fn move_head(&mut self, dir: Dir, cx: &mut Cx<'_>) -> Result<bool, Outcome> {
        let (way, at) = (dir as usize, self.ways[dir as usize].head_at);
        if at == self.slots.len() || self.ways[way].waits() {
            return Ok(false);
        }
        if !self.is_collected(dir, at, cx)? {
            return Ok(false);
        }
        cx.answer = self.resume(dir, at, Hook::Head);
        cx.ended = self.ways[way].ended && self.ways[way].end_at == at;
        let slot = self.slot(dir, at);
        cx.body = std::mem::take(&mut slot.held[way]);
        let verdict = slot.active.as_mut().map_or(Verdict::Continue, |f| f.head(dir, cx));
        let body = std::mem::take(&mut cx.body);
        match verdict {
            Verdict::Continue => {
                self.ways[way].head_at = at + 1;
                self.flow(dir, at, body, cx)?;
                if std::mem::take(&mut cx.reroute) {
                    return Err(Outcome::Reroute);
                }
                Ok(true)
            }
            Verdict::Call(call) => {
                self.slot(dir, at).held[way] = body;
                self.ask(dir, at, Hook::Head, call);
                Ok(false)
            }
            Verdict::Reply(reply) => Err(Outcome::Reply(reply)),
            Verdict::Reset(why) => Err(Outcome::Reset(why)),
        }
    }

    /// Whether the filter that the head stands at has all that it wants to see before.
    fn is_collected(&mut self, dir: Dir, at: usize, cx: &mut Cx<'_>) -> Result<bool, Outcome> {
        let way = dir as usize;
        let ended = self.ways[way].ended && self.ways[way].end_at == at && self.ways[way].queue.is_empty();
        let (picked, entry) = (self.picked, self.entry);
        let slot = self.slot(dir, at);
        let Some(active) = &mut slot.active else { return Ok(true) };
        if !slot.met[way] {
            if !slot.met[Dir::Request as usize] {
                active.set_route(level(picked, entry, slot.name, |o| match o {
                    FilterOverride::Config(config) => Some::<&RouteConfig>(config),
                    FilterOverride::Disabled | FilterOverride::Enabled => None,
                }));
            }
            slot.met[way] = true;
            cx.ended = ended && slot.held[way].is_empty();
            slot.wants[way] = active.wants(dir, cx);
        }
        let held = slot.held[way].bytes();
        match slot.wants[way].body {
            Body::No | Body::Chunks => Ok(true),
            Body::Full(max) if held > max => Err(Outcome::TooLarge),
            Body::Full(_) => Ok(ended),
            Body::UpTo(max) => Ok(ended || held >= max),
        }
    }

    /// Takes body from the filter at `at` onwards, as far as it goes.
    fn flow(&mut self, dir: Dir, mut at: usize, mut body: Chunks, cx: &mut Cx<'_>) -> Result<(), Outcome> {
        let way = dir as usize;
        while at < self.slots.len() {
            let answer = self.resume(dir, at, Hook::Chunk);
            let waits = at >= self.ways[way].head_at;
            let slot = self.slot(dir, at);
            if waits {
                slot.held[way].append(body);
                return match slot.wants[way].body {
                    Body::Full(max) if slot.met[way] && slot.held[way].bytes() > max => {
                        Err(Outcome::TooLarge)
                    }
                    _ => Ok(()),
                };
            }
            let looks = slot.wants[way].body == Body::Chunks;
            if let (true, Some(active)) = (looks && (answer.is_some() || !body.is_empty()), &mut slot.active)
            {
                let mut all = std::mem::take(&mut slot.held[way]);
                all.append(body);
                (cx.body, cx.answer, cx.ended) = (all, answer, false);
                let verdict = active.chunk(dir, cx);
                let left = std::mem::take(&mut cx.body);
                match verdict {
                    ChunkVerdict::Pass => body = left,
                    ChunkVerdict::Hold => {
                        let fits = left.bytes() <= limits::FILTER_HOLD_BYTES;
                        slot.held[way] = left;
                        return if fits { Ok(()) } else { Err(Outcome::TooLarge) };
                    }
                    ChunkVerdict::Call(call) => {
                        slot.held[way] = left;
                        self.ask(dir, at, Hook::Chunk, call);
                        return Ok(());
                    }
                    ChunkVerdict::Reply(reply) => return Err(Outcome::Reply(reply)),
                    ChunkVerdict::Reset(why) => return Err(Outcome::Reset(why)),
                }
            }
            at += 1;
        }
        self.ways[way].out.append(body);
        Ok(())
    }

    /// One step of the message's end. `false`: it stays.
    fn move_end(&mut self, dir: Dir, cx: &mut Cx<'_>) -> Result<bool, Outcome> {
        let way = dir as usize;
        let w = &mut self.ways[way];
        let at = w.end_at;
        if !w.ended || !w.queue.is_empty() || at >= w.head_at || w.waits() {
            return Ok(false);
        }
        cx.trailers = w.trailers.take();
        cx.answer = self.resume(dir, at, Hook::Trailers);
        cx.ended = true;
        let slot = self.slot(dir, at);
        cx.body = std::mem::take(&mut slot.held[way]);
        let verdict = match &mut slot.active {
            Some(active) if slot.wants[way].trailers => active.trailers(dir, cx),
            _ => Verdict::Continue,
        };
        let body = std::mem::take(&mut cx.body);
        self.ways[way].trailers = cx.trailers.take();
        match verdict {
            Verdict::Continue => {
                self.ways[way].end_at = at + 1;
                self.flow(dir, at + 1, body, cx)?;
                Ok(true)
            }
            Verdict::Call(call) => {
                self.slot(dir, at).held[way] = body;
                self.ask(dir, at, Hook::Trailers, call);
                Ok(false)
            }
            Verdict::Reply(reply) => Err(Outcome::Reply(reply)),
            Verdict::Reset(why) => Err(Outcome::Reset(why)),
        }
    }
}
