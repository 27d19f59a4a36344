//! The upstream: reads a request to its last byte and answers with the plan's bytes, at once or later.

use std::os::fd::OwnedFd;

use memchr::memmem;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::socket::{self, Got};
use super::{Engine, Kind, token};
use crate::clock;

pub(super) struct Upstream {
    fd: OwnedFd,
    generation: u32,
    /// A head of which only a part is here.
    head: Vec<u8>,
    /// Bytes of the request's body still to come; `None` before its head.
    body_left: Option<usize>,
    body_seen: usize,
    /// Bytes of the answer that are sent, while it is being sent.
    sending: Option<usize>,
}

impl Engine {
    pub(super) fn accept(&mut self) {
        while let Some(fd) = socket::accept(&self.listener) {
            self.generation = self.generation.wrapping_add(1) & 0x0fff_ffff;
            let index = self.upstreams_free.pop().unwrap_or_else(|| {
                self.upstreams.push(None);
                self.upstreams.len() - 1
            });
            let data = EventData::new_u64(token(Kind::Upstream, self.generation, index));
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            if epoll::add(&self.epoll, &fd, data, flags).is_err() {
                self.upstreams_free.push(index);
                continue;
            }
            self.upstreams[index] = Some(Upstream {
                fd,
                generation: self.generation,
                head: Vec::new(),
                body_left: None,
                body_seen: 0,
                sending: None,
            });
        }
    }

    fn drop_upstream(&mut self, index: usize) {
        if self.upstreams[index].take().is_some() {
            self.upstreams_free.push(index);
        }
    }

    pub(super) fn on_upstream(&mut self, index: usize, generation: u32, flags: EventFlags) {
        match self.upstreams.get(index) {
            Some(Some(upstream)) if upstream.generation == generation => {}
            _ => return,
        }
        if flags.contains(EventFlags::OUT)
            && self.upstreams[index].as_ref().is_some_and(|u| u.sending.is_some())
        {
            self.push_answer(index);
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            self.pull_request(index, ends);
        }
    }

    fn pull_request(&mut self, index: usize, ends: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(upstream) = &self.upstreams[index] {
            match socket::read(&upstream.fd, &mut scratch) {
                Got::Bytes(n) => {
                    if let Err(why) = self.take_request(index, &scratch[..n]) {
                        self.fail(&format!("upstream: {why}"));
                        self.drop_upstream(index);
                        break;
                    }
                    if n < scratch.len() && !ends {
                        break;
                    }
                }
                Got::Nothing => break,
                Got::End | Got::Failed(_) => {
                    self.drop_upstream(index);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    fn take_request(&mut self, index: usize, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let Some(upstream) = &mut self.upstreams[index] else { return Ok(()) };
            if upstream.body_left.is_none() {
                let length;
                if upstream.head.is_empty()
                    && let Some(end) = memmem::find(bytes, b"\r\n\r\n")
                {
                    length = socket::content_length(&bytes[..end + 2])?;
                    bytes = &bytes[end + 4..];
                } else {
                    upstream.head.extend_from_slice(bytes);
                    let Some(end) = memmem::find(&upstream.head, b"\r\n\r\n") else { return Ok(()) };
                    length = socket::content_length(&upstream.head[..end + 2])?;
                    let after = upstream.head.len() - end - 4;
                    bytes = &bytes[bytes.len() - after..];
                    upstream.head.clear();
                }
                upstream.body_left = Some(length.unwrap_or(0));
                upstream.body_seen = 0;
            }
            let left = upstream.body_left.unwrap_or(0);
            let n = left.min(bytes.len());
            if self.verify && n > 0 {
                let want = self.exchange.request_body_bytes;
                let body = &self.exchange.request[self.exchange.request.len() - want..];
                let (from, to) = (upstream.body_seen, upstream.body_seen + n);
                if to > want || body[from..to] != bytes[..n] {
                    return Err(format!("the request's body differs between its bytes {from} and {to}"));
                }
            }
            upstream.body_seen += n;
            upstream.body_left = Some(left - n);
            bytes = &bytes[n..];
            if left == n {
                upstream.body_left = None;
                self.answer(index);
            }
        }
        Ok(())
    }

    fn answer(&mut self, index: usize) {
        let Some(upstream) = &mut self.upstreams[index] else { return };
        if self.exchange.delay_ns > 0 {
            let who = token(Kind::Upstream, upstream.generation, index);
            self.delayed.push_back((clock::now() + self.exchange.delay_ns, who));
        } else {
            upstream.sending = Some(0);
            self.push_answer(index);
        }
    }

    pub(super) fn answer_delayed(&mut self) {
        while let Some(&(at, who)) = self.delayed.front()
            && clock::now() >= at
        {
            self.delayed.pop_front();
            let (_, generation, index) = super::untoken(who);
            if let Some(Some(upstream)) = self.upstreams.get_mut(index)
                && upstream.generation == generation
            {
                upstream.sending = Some(0);
                self.push_answer(index);
            }
        }
    }

    fn push_answer(&mut self, index: usize) {
        let Some(upstream) = &mut self.upstreams[index] else { return };
        match socket::write(&upstream.fd, &self.exchange.response, upstream.sending.unwrap_or(0)) {
            Ok(sent) if sent == self.exchange.response.len() => upstream.sending = None,
            Ok(sent) => upstream.sending = Some(sent),
            Err(_) => self.drop_upstream(index),
        }
    }
}
