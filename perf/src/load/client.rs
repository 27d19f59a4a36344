//! The client side: connections that send the plan's request and check the answer.

use std::io;
use std::os::fd::OwnedFd;

use memchr::memmem;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::socket::{self, Got};
use super::{Engine, Kind, Pace, token};
use crate::clock;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Connecting,
    Idle,
    /// Waits for the answer of the request that was to start at this time.
    Busy(u64),
    /// Answered; the other side closes.
    Closing,
}

pub(super) struct Client {
    fd: OwnedFd,
    generation: u32,
    stage: Stage,
    /// Bytes of the request that are sent.
    sent: usize,
    /// A head of which only a part is here.
    head: Vec<u8>,
    /// Bytes of the answer's body that are here; `None` before its head.
    body: Option<usize>,
}

impl Client {
    pub(super) fn is_open(&self) -> bool {
        self.stage != Stage::Connecting
    }

    pub(super) fn intended(&self) -> Option<u64> {
        match self.stage {
            Stage::Busy(intended) => Some(intended),
            _ => None,
        }
    }
}

impl Engine {
    fn connect(&mut self, index: usize) -> io::Result<Client> {
        self.generation = self.generation.wrapping_add(1) & 0x0fff_ffff;
        let fd = socket::start_connect(self.target)?;
        let data = EventData::new_u64(token(Kind::Client, self.generation, index));
        epoll::add(
            &self.epoll,
            &fd,
            data,
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        )?;
        let generation = self.generation;
        Ok(Client { fd, generation, stage: Stage::Connecting, sent: 0, head: Vec::new(), body: None })
    }

    pub(super) fn add_client(&mut self) -> io::Result<()> {
        let client = self.connect(self.clients.len())?;
        self.clients.push(client);
        Ok(())
    }

    /// Sends the request that was to start at `intended`.
    pub(super) fn start(&mut self, index: usize, intended: u64) {
        self.outstanding += 1;
        let client = &mut self.clients[index];
        client.stage = Stage::Busy(intended);
        client.sent = 0;
        client.body = None;
        self.push_request(index);
    }

    fn push_request(&mut self, index: usize) {
        let client = &mut self.clients[index];
        match socket::write(&client.fd, &self.exchange.request, client.sent) {
            Ok(sent) => client.sent = sent,
            Err(error) => self.lose(index, &format!("send: {error}")),
        }
    }

    pub(super) fn on_client(&mut self, index: usize, generation: u32, flags: EventFlags) {
        match self.clients.get(index) {
            Some(client) if client.generation == generation => {}
            _ => return,
        }
        if flags.contains(EventFlags::OUT) {
            match self.clients[index].stage {
                Stage::Connecting if !flags.intersects(EventFlags::ERR | EventFlags::HUP) => {
                    self.opened(index)
                }
                Stage::Busy(_) if self.clients[index].sent < self.exchange.request.len() => {
                    self.push_request(index)
                }
                _ => {}
            }
            if self.clients[index].generation != generation {
                return;
            }
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            self.pull_answer(index, generation, ends);
        }
    }

    fn opened(&mut self, index: usize) {
        self.clients[index].stage = Stage::Idle;
        match self.pace {
            Pace::Closed if self.issuing => self.start(index, clock::now()),
            Pace::Closed => {}
            Pace::Open { .. } => self.free.push(index),
        }
    }

    fn pull_answer(&mut self, index: usize, generation: u32, ends: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            match socket::read(&self.clients[index].fd, &mut scratch) {
                Got::Bytes(n) => {
                    if let Err(why) = self.take_answer(index, &scratch[..n]) {
                        self.lose(index, &why);
                        break;
                    }
                    // A short read has emptied the socket, unless its end is there as well.
                    if (n < scratch.len() && !ends) || self.clients[index].generation != generation {
                        break;
                    }
                }
                Got::Nothing => break,
                Got::End => {
                    self.ended(index);
                    break;
                }
                Got::Failed(error) => {
                    self.lose(index, &format!("receive: {error}"));
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    fn take_answer(&mut self, index: usize, mut bytes: &[u8]) -> Result<(), String> {
        let (verify, want) = (self.verify, self.exchange.response_body_bytes);
        let client = &mut self.clients[index];
        if !matches!(client.stage, Stage::Busy(_)) {
            return Err(format!("{} bytes that nobody asked for", bytes.len()));
        }
        if client.body.is_none() {
            if client.head.is_empty()
                && let Some(end) = memmem::find(bytes, b"\r\n\r\n")
            {
                check_head(&bytes[..end + 2], want)?;
                bytes = &bytes[end + 4..];
                client.body = Some(0);
            } else {
                client.head.extend_from_slice(bytes);
                let Some(end) = memmem::find(&client.head, b"\r\n\r\n") else { return Ok(()) };
                check_head(&client.head[..end + 2], want)?;
                let body_here = client.head.len() - end - 4;
                bytes = &bytes[bytes.len() - body_here..];
                client.head.clear();
                client.body = Some(0);
            }
        }
        let here = client.body.unwrap_or(0);
        if here + bytes.len() > want {
            return Err(format!("{} bytes more than the answer has", here + bytes.len() - want));
        }
        if verify {
            let body = &self.exchange.response[self.exchange.response.len() - want..];
            if body[here..here + bytes.len()] != *bytes {
                return Err(format!(
                    "the answer's body differs between its bytes {here} and {}",
                    here + bytes.len()
                ));
            }
        }
        client.body = Some(here + bytes.len());
        if here + bytes.len() == want {
            self.finish(index);
        }
        Ok(())
    }

    fn finish(&mut self, index: usize) {
        let now = clock::now();
        let Stage::Busy(intended) = self.clients[index].stage else { return };
        self.outstanding -= 1;
        self.completed += 1;
        if intended >= self.record_from && (intended < self.record_to || self.pace == Pace::Closed) {
            self.latency.saturating_record(now.saturating_sub(intended));
        }
        self.clients[index].body = None;
        if self.exchange.new_connection {
            self.clients[index].stage = Stage::Closing;
        } else {
            match self.pace {
                Pace::Closed if self.issuing => self.start(index, now),
                Pace::Closed => self.clients[index].stage = Stage::Idle,
                Pace::Open { .. } => {
                    self.clients[index].stage = Stage::Idle;
                    self.free.push(index);
                }
            }
        }
    }

    /// The other side has closed: as it should after a lone request, else an error.
    fn ended(&mut self, index: usize) {
        if self.clients[index].stage == Stage::Closing {
            self.reconnect(index);
        } else {
            self.lose(index, "the connection was closed");
        }
    }

    fn lose(&mut self, index: usize, why: &str) {
        match self.clients[index].stage {
            Stage::Busy(_) => self.outstanding -= 1,
            Stage::Closing if why.starts_with("receive") => {}
            Stage::Idle => self.free.retain(|&i| i != index),
            _ => {}
        }
        self.fail(why);
        self.reconnect(index);
    }

    fn reconnect(&mut self, index: usize) {
        match self.connect(index) {
            Ok(client) => self.clients[index] = client,
            Err(error) => {
                self.fail(&format!("connect: {error}"));
                // Stays as it is and unused: a generation that no event carries.
                self.generation = self.generation.wrapping_add(1) & 0x0fff_ffff;
                self.clients[index].generation = self.generation;
                self.clients[index].stage = Stage::Closing;
            }
        }
    }
}

fn check_head(head: &[u8], want: usize) -> Result<(), String> {
    if !head.starts_with(b"HTTP/1.1 200") {
        let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
        return Err(format!("answered {:?}", String::from_utf8_lossy(line)));
    }
    match socket::content_length(head)? {
        Some(length) if length == want => Ok(()),
        Some(length) => Err(format!("content-length {length} where {want} was sent")),
        None => Err("no content-length in the answer".to_owned()),
    }
}
