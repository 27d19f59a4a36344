//! The filters' part of a stream: feeds the chain, awaits what filters ask for, acts on what they answer.
//!
//! Nothing here runs for a listener whose chain is the router alone: `Stream::filters` is `None` there.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use selvedge_runtime::{Chunk, Chunks, Instant, Mutation, Strain};

use super::{Cut, Reply, Stream};
use crate::filters::chain::{Dir, Outcome, Run};
use crate::filters::{Call, Cx, Target};
use crate::http::h1::encode;
use crate::http::message::{Framing, ResponseHead, Trailers};
use crate::limits;
use crate::route::table::Action;
use crate::side_call::{self, Answer};
use crate::stats::names::Http;
use crate::upstream::cluster::ClusterTwin;

/// The chain at work, and what its filters wait for.
pub(super) struct Filters<'c> {
    run: Run<'c>,
    asking: [Option<Asking>; 2],
    calls: u32,
    /// The cluster that the route names.
    target: Option<Rc<ClusterTwin>>,
}

enum Asking {
    Sleep(Instant),
    Ask(Pin<Box<dyn Future<Output = Answer>>>),
}

const DIRS: [Dir; 2] = [Dir::Request, Dir::Response];

impl Filters<'_> {
    /// The next answer to a question, if one is there.
    pub(super) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<(Dir, Answer)> {
        for dir in DIRS {
            if let Some(Asking::Ask(ask)) = &mut self.asking[dir as usize]
                && let Poll::Ready(answer) = ask.as_mut().poll(context)
            {
                self.asking[dir as usize] = None;
                return Poll::Ready((dir, answer));
            }
        }
        Poll::Pending
    }

    /// When the next pause ends.
    pub(super) fn deadline(&self) -> Instant {
        let at = |a: &Option<Asking>| if let Some(Asking::Sleep(at)) = a { *at } else { Instant::FAR };
        at(&self.asking[0]).min(at(&self.asking[1]))
    }

    /// A pause that is over.
    fn slept(&mut self, now: Instant) -> Option<Dir> {
        let over = |a: &Option<Asking>| matches!(a, Some(Asking::Sleep(at)) if *at <= now);
        let dir = DIRS.into_iter().find(|dir| over(&self.asking[*dir as usize]))?;
        self.asking[dir as usize] = None;
        Some(dir)
    }

    fn close(&mut self, dir: Dir) {
        self.run.close(dir);
        self.asking[dir as usize] = None;
    }
}

impl<'c> Stream<'c> {
    /// Lets the request's head pass the filters. `Err`: the stream has ended before, and how.
    pub(super) async fn pass_filters(&mut self) -> Result<(), Option<Cut>> {
        let target = self.find_target();
        let mut run = Run::new(&self.conn.twin.filters, self.picked, self.entry);
        if self.request_done || self.upgrade {
            run.end(Dir::Request, None);
        }
        self.filters = Some(Box::new(Filters { run, asking: [None, None], calls: 0, target }));
        self.drive_request().map_err(Some)?;
        loop {
            if self.answered() {
                return Err(self.pump().await);
            }
            if self.filters.as_ref().is_none_or(|f| f.run.head_passed(Dir::Request)) {
                self.info.stamps.filtered = Some(self.conn.cx.rt.now());
                return Ok(());
            }
            let event = poll_fn(|context| self.poll_event(context)).await;
            self.handle(event).map_err(Some)?;
        }
    }

    /// Whether a response has begun, be it only within the chain.
    pub(super) fn answered(&self) -> bool {
        self.response.is_some() || self.filters.as_ref().is_some_and(|f| f.run.response.is_some())
    }

    /// What of the route is settled before its action: filters and their stats ask for it.
    fn find_target(&mut self) -> Option<Rc<ClusterTwin>> {
        (self.entry, self.info.cluster) = (None, None);
        let Action::Forward(forward) = &self.picked?.route.action else { return None };
        let (chosen, entry) = forward.choose(&self.request, self.random);
        self.entry = entry;
        let target = self.find_cluster(chosen).map(Rc::clone);
        self.info.cluster = target.as_ref().map(|t| Arc::clone(&t.config().observability_name));
        target
    }

    /// Whether the client is read now: somebody takes what it sends.
    pub(super) fn wants_request(&self) -> bool {
        // What follows the head of an upgrade goes past the filters.
        let tunnels = self.upgrade && self.up.is_some();
        let takes =
            |f: &Filters<'_>| tunnels || !f.run.is_closed(Dir::Request) && f.run.has_room(Dir::Request);
        !self.request_done
            && !self.response_done
            && self.takes_more(&self.to_up, self.up.as_ref().is_some_and(|up| up.busy))
            && self.filters.as_deref().is_none_or(takes)
    }

    /// Whether more of the request may come, which nobody takes for now.
    pub(super) fn is_backed_up(&self) -> bool {
        !self.request_done && !self.response_done && self.filters.is_none()
    }

    /// Whether more may wait for a side that is sent to, or not. Where buffers are in demand, one part at a time.
    fn takes_more(&self, waits: &Chunks, busy: bool) -> bool {
        match self.conn.cx.rt.budget().strain() {
            Strain::None => waits.bytes() < limits::PUMP_BYTES,
            Strain::Tight | Strain::Short => waits.is_empty() && !busy,
        }
    }

    /// Whether the upstream is read now.
    pub(super) fn wants_response(&self) -> bool {
        !self.response_done
            && self.takes_more(&self.to_down, self.down_busy)
            && self.filters.as_ref().is_none_or(|f| f.run.has_room(Dir::Response))
    }

    /// Whether all of the request that will ever go upstream has been passed on.
    pub(super) fn request_passed(&self) -> bool {
        self.request_done
            && self
                .filters
                .as_ref()
                .is_none_or(|f| f.run.is_open(Dir::Request) || f.run.is_closed(Dir::Request))
    }

    /// Whether body bytes of this direction need not be shown to any filter.
    pub(super) fn is_open(&self, dir: Dir) -> bool {
        self.filters.as_ref().is_none_or(|f| f.run.is_open(dir))
    }

    /// Whether the rest of the request is for nobody: it has its answer.
    pub(super) fn is_refused(&self) -> bool {
        self.filters.as_ref().is_some_and(|f| f.run.is_closed(Dir::Request))
    }

    /// Body bytes of the client. Filters see them before they know of the end.
    pub(super) fn request_data(&mut self, data: Chunk) -> Result<(), Cut> {
        match &mut self.filters {
            Some(filters) if !filters.run.is_open(Dir::Request) => {
                filters.run.push(Dir::Request, data.compact(self.conn.cx.rt.budget()));
                self.drive_request()
            }
            _ => {
                let mut data = data;
                if self.conn.cx.rt.planted(Mutation::ShortChunk) && self.request_framing == Framing::Chunked {
                    data.truncate(data.len() - 1);
                }
                encode::frame(self.request_framing, data, &mut self.to_up, self.conn.cx.rt.budget());
                Ok(())
            }
        }
    }

    /// The client's message is whole.
    pub(super) fn request_over(&mut self, trailers: Option<Trailers>) -> Result<(), Cut> {
        self.request_ended();
        match &mut self.filters {
            Some(filters) if !filters.run.is_open(Dir::Request) => {
                filters.run.end(Dir::Request, trailers);
                self.drive_request()
            }
            _ => {
                self.request_last(trailers);
                Ok(())
            }
        }
    }

    fn request_last(&mut self, trailers: Option<Trailers>) {
        if self.request_framing == Framing::Chunked {
            let trailers = trailers.filter(|_| self.passes_trailers);
            encode::last_chunk(trailers.as_ref(), &mut self.to_up, self.conn.cx.rt.budget());
        }
    }

    /// Body bytes of the response.
    pub(super) fn response_data(&mut self, data: Chunk) {
        match &mut self.filters {
            Some(filters) if !filters.run.is_open(Dir::Response) => {
                filters.run.push(Dir::Response, data.compact(self.conn.cx.rt.budget()));
            }
            _ => self.emit(data),
        }
    }

    /// The response is whole.
    pub(super) fn response_over(&mut self, trailers: Option<Trailers>) {
        match &mut self.filters {
            Some(filters) if !filters.run.is_open(Dir::Response) => filters.run.end(Dir::Response, trailers),
            _ => self.response_last(trailers),
        }
    }

    /// An answer for a filter.
    pub(super) fn on_answer(&mut self, dir: Dir, answer: Answer) -> Result<(), Cut> {
        if let Some(filters) = &mut self.filters {
            filters.run.answer(dir, answer);
        }
        match dir {
            Dir::Request => self.drive_request(),
            Dir::Response => self.drive_response(),
        }
    }

    /// A deadline has passed that may be a filter's pause.
    pub(super) fn slept(&mut self) -> Option<Dir> {
        let now = self.conn.cx.rt.now();
        self.filters.as_mut().and_then(|f| f.slept(now))
    }

    fn drive(&mut self, filters: &mut Filters<'c>, dir: Dir) -> Outcome {
        let rt = &self.conn.cx.rt;
        let mut response = filters.run.response.take();
        let mut random = || rt.random();
        let mut cx = Cx {
            now: rt.now(),
            random: &mut random,
            runtime: &self.epoch.shared.snapshot.runtime,
            request: &mut self.request,
            response: response.as_mut().map(|(head, _)| head).filter(|_| dir == Dir::Response),
            framing: if dir == Dir::Request { &mut self.request_framing } else { &mut self.down_framing },
            info: &mut self.info,
            target: Target { found: self.picked.is_some(), cluster: filters.target.as_deref() },
            body: Chunks::new(),
            ended: false,
            trailers: None,
            answer: None,
            reroute: false,
        };
        let outcome = filters.run.drive(dir, &mut cx);
        filters.run.response = response;
        outcome
    }

    /// Moves the request through the chain as far as it goes.
    pub(super) fn drive_request(&mut self) -> Result<(), Cut> {
        loop {
            let Some(mut filters) = self.filters.take() else { return Ok(()) };
            let outcome = self.drive(&mut filters, Dir::Request);
            let (mut out, end) = filters.run.take_out(Dir::Request);
            let call = filters.run.take_call(Dir::Request);
            self.filters = Some(filters);
            while let Some(data) = out.pop() {
                encode::frame(self.request_framing, data, &mut self.to_up, self.conn.cx.rt.budget());
            }
            if let Some(trailers) = end {
                self.request_last(trailers);
            }
            match outcome {
                Outcome::Waits | Outcome::Passed => return self.start(Dir::Request, call),
                Outcome::Reroute => self.reroute(),
                Outcome::Reply(reply) => return self.deny(*reply),
                Outcome::TooLarge => {
                    self.conn.twin.http.inc(Http::DownstreamRqTooLarge);
                    return self.deny(Reply::text(413, b"Payload Too Large", "request_payload_too_large"));
                }
                Outcome::Reset(details) => return Err(self.cut_by_filter(details)),
            }
        }
    }

    /// Moves the response through the chain as far as it goes.
    pub(super) fn drive_response(&mut self) -> Result<(), Cut> {
        let Some(mut filters) = self.filters.take() else { return Ok(()) };
        let outcome = self.drive(&mut filters, Dir::Response);
        let (mut out, end) = filters.run.take_out(Dir::Response);
        let call = filters.run.take_call(Dir::Response);
        let head = match outcome {
            Outcome::Passed => filters.run.response.take(),
            _ => None,
        };
        self.filters = Some(filters);
        if let Some((head, _)) = head {
            self.send_response_head(head);
        }
        while let Some(data) = out.pop() {
            self.emit(data);
        }
        if let Some(trailers) = end {
            self.response_last(trailers);
        }
        self.flush_down();
        match outcome {
            Outcome::Waits | Outcome::Passed | Outcome::Reroute => self.start(Dir::Response, call),
            Outcome::Reply(reply) => self.deny(*reply),
            //= envoy: response_payload_too_large
            Outcome::TooLarge => {
                self.conn.twin.http.inc(Http::RsTooLarge);
                self.deny(Reply::text(500, b"Internal Server Error", "response_payload_too_large"))
            }
            Outcome::Reset(details) => Err(self.cut_by_filter(details)),
        }
    }

    /// Begins what a filter waits for.
    fn start(&mut self, dir: Dir, call: Option<Call>) -> Result<(), Cut> {
        let (Some(call), Some(filters)) = (call, &mut self.filters) else { return Ok(()) };
        filters.calls += 1;
        if filters.calls > limits::CALLS_PER_STREAM {
            return Err(self.cut_by_filter("too_many_filter_calls"));
        }
        let cx = &self.conn.cx;
        filters.asking[dir as usize] = Some(match call {
            Call::Sleep(time) => Asking::Sleep(cx.rt.now() + time),
            Call::Ask(question) => {
                let cluster = self.epoch.find(question.cluster.as_bytes()).map(Rc::clone);
                Asking::Ask(Box::pin(side_call::ask(Rc::clone(cx), cluster, question)))
            }
        });
        Ok(())
    }

    fn reroute(&mut self) {
        self.picked = self.pick_route().ok();
        let target = self.find_target();
        if let Some(filters) = &mut self.filters {
            filters.target = target;
            filters.run.rerouted(self.picked, self.entry);
        }
    }

    /// A filter's reply. Where a response has begun to leave, all that can be said is that it breaks off.
    fn deny(&mut self, reply: Reply) -> Result<(), Cut> {
        if self.response.is_some() {
            self.info.flags.add(reply.flags);
            return Err(self.cut_by_filter("filter_reply_after_response_started"));
        }
        self.drop_upstream();
        self.reply(reply);
        self.flush_down();
        Ok(())
    }

    fn cut_by_filter(&mut self, details: &'static str) -> Cut {
        self.drop_upstream();
        Cut::Filter(details)
    }

    /// Hands the upstream's response to the chain.
    pub(super) fn respond_through_filters(&mut self, head: ResponseHead) {
        if let Some(filters) = &mut self.filters {
            filters.run.response = Some((head, false));
        }
    }

    /// Hands a reply of ours to the chain. `Some`: it goes out as it is.
    //= envoy: a reply made while a response is in the chain goes past the filters
    pub(super) fn reply_through_filters(&mut self, head: ResponseHead, body: &Chunk) -> Option<ResponseHead> {
        let Some(filters) = &mut self.filters else { return Some(head) };
        filters.close(Dir::Request);
        let begun = filters.run.response.is_some() || filters.run.is_closed(Dir::Response);
        if begun {
            filters.run.response = None;
            filters.close(Dir::Response);
            return Some(head);
        }
        filters.run.response = Some((head, true));
        filters.run.push(Dir::Response, body.clone());
        filters.run.end(Dir::Response, None);
        None
    }
}
