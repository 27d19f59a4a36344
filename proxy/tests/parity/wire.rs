//! A blocking connection of the harness and a lenient reader of HTTP/1 messages: it must be able to show a message
//! that is wrong. It judges nothing.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::text::escape;

/// No step waits longer.
pub const STEP_MAX: Duration = Duration::from_secs(3);

/// What a blocking read found.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Fate {
    Data,
    Closed,
    Reset,
    Silent,
}

impl Fate {
    pub fn word(self) -> &'static str {
        match self {
            Fate::Data => "data",
            Fate::Closed => "closed",
            Fate::Reset => "reset",
            Fate::Silent => "silence",
        }
    }
}

#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    pub held: Vec<u8>,
}

impl From<TcpStream> for Wire {
    fn from(socket: TcpStream) -> Wire {
        socket.set_nodelay(true).ok();
        socket.set_write_timeout(Some(STEP_MAX)).ok();
        Wire { socket, held: Vec::new() }
    }
}

impl Wire {
    pub fn connect(address: &str) -> Wire {
        Wire::from(TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}")))
    }

    /// A peer that has gone is no error here: the next read tells.
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).ok();
    }

    pub fn shutdown_write(&self) {
        self.socket.shutdown(Shutdown::Write).ok();
    }

    /// Ends with RST instead of FIN.
    pub fn reset(self) {
        let socket = tokio::net::TcpSocket::from_std_stream(self.socket);
        #[allow(deprecated, reason = "a linger of zero does not block")]
        socket.set_linger(Some(Duration::ZERO)).expect("linger");
    }

    /// Reads once more, at most until `by`; only what is there already if `by` is past.
    pub fn fill(&mut self, by: Instant) -> Fate {
        let left = by.saturating_duration_since(Instant::now());
        self.socket.set_nonblocking(left.is_zero()).expect("a mode");
        if !left.is_zero() {
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a time-out");
        }
        let mut buffer = vec![0; 65536];
        let got = self.socket.read(&mut buffer);
        self.socket.set_nonblocking(false).expect("a mode");
        match got {
            Ok(0) => Fate::Closed,
            Ok(n) => {
                self.held.extend_from_slice(&buffer[..n]);
                Fate::Data
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Fate::Silent,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Fate::Data,
            Err(_) => Fate::Reset,
        }
    }

    pub fn take(&mut self, n: usize) -> Vec<u8> {
        self.held.drain(..n).collect()
    }

    /// Reads until the peer ends the connection.
    pub fn drain(&mut self) -> Fate {
        let by = Instant::now() + STEP_MAX;
        loop {
            let fate = self.fill(by);
            if fate != Fate::Data {
                return fate;
            }
        }
    }

    /// What is there now: everything that has arrived, then how the connection stands.
    pub fn poll(&mut self) -> Fate {
        let now = Instant::now();
        loop {
            let fate = self.fill(now);
            if fate != Fate::Data {
                return fate;
            }
        }
    }
}

/// What kind of message is awaited: it decides where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    Request,
    Response,
    /// Only a head: the answer to HEAD, or a body that a later step reads.
    Head,
}

/// Reads one message and shows it. `Err` shows what came instead.
pub fn read_message(wire: &mut Wire, awaited: Awaited) -> Result<String, String> {
    let by = Instant::now() + STEP_MAX;
    let head = read_head(wire, by).map_err(|fate| instead(wire, fate, "a head"))?;
    let mut out = String::new();
    for line in head[..head.len() - 4].split(|b| *b == b'\n') {
        let _ = writeln!(out, "{}", escape(line.strip_suffix(b"\r").unwrap_or(line)));
    }
    if awaited == Awaited::Head {
        return Ok(out);
    }
    match read_body(wire, &head, awaited == Awaited::Response, by) {
        Ok(body) => Ok(out + &body.shown()),
        Err(body) => Err(out + &body),
    }
}

pub fn read_head(wire: &mut Wire, by: Instant) -> Result<Vec<u8>, Fate> {
    loop {
        if let Some(at) = find(&wire.held, b"\r\n\r\n") {
            return Ok(wire.take(at + 4));
        }
        match wire.fill(by) {
            Fate::Data => {}
            fate => return Err(fate),
        }
    }
}

#[derive(Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    chunked: bool,
    until_close: bool,
    trailers: Vec<Vec<u8>>,
}

impl Body {
    fn shown(&self) -> String {
        let mut out = String::new();
        if self.chunked {
            let _ = writeln!(out, "chunked: {}", escape(&self.bytes));
        } else if !self.bytes.is_empty() {
            let _ = writeln!(out, "body: {}", escape(&self.bytes));
        }
        for trailer in &self.trailers {
            let _ = writeln!(out, "trailer: {}", escape(trailer));
        }
        if self.until_close {
            out.push_str("(ended by close)\n");
        }
        out
    }
}

pub fn read_body(wire: &mut Wire, head: &[u8], is_response: bool, by: Instant) -> Result<Body, String> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status: u16 =
        text.split(' ').nth(1).and_then(|s| s.get(..3)).and_then(|s| s.parse().ok()).unwrap_or(0);
    if is_response && (status < 200 || status == 204 || status == 304) {
        return Ok(Body::default());
    }
    let chunked = text.lines().any(|l| l.starts_with("transfer-encoding:") && l.contains("chunked"));
    let length = text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match (chunked, length) {
        (true, _) => read_chunked(wire, by),
        (false, Some(n)) => {
            while wire.held.len() < n {
                match wire.fill(by) {
                    Fate::Data => {}
                    fate => return Err(instead(wire, fate, &format!("{n} body bytes"))),
                }
            }
            Ok(Body { bytes: wire.take(n), ..Body::default() })
        }
        (false, None) if is_response => match wire.drain() {
            Fate::Closed => {
                Ok(Body { bytes: std::mem::take(&mut wire.held), until_close: true, ..Body::default() })
            }
            fate => Err(instead(wire, fate, "the end of the body")),
        },
        (false, None) => Ok(Body::default()),
    }
}

fn read_line(wire: &mut Wire, by: Instant) -> Result<Vec<u8>, Fate> {
    loop {
        if let Some(at) = find(&wire.held, b"\r\n") {
            let mut line = wire.take(at + 2);
            line.truncate(at);
            return Ok(line);
        }
        match wire.fill(by) {
            Fate::Data => {}
            fate => return Err(fate),
        }
    }
}

fn read_chunked(wire: &mut Wire, by: Instant) -> Result<Body, String> {
    let mut body = Body { chunked: true, ..Body::default() };
    loop {
        let head = match read_line(wire, by) {
            Ok(head) => head,
            Err(fate) => return Err(body.shown() + &instead(wire, fate, "a chunk")),
        };
        let size = String::from_utf8_lossy(&head).split(';').next().map(str::to_owned).unwrap_or_default();
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            return Err(body.shown() + &format!("bad chunk head: {}\n", escape(&head)));
        };
        if size == 0 {
            break;
        }
        while wire.held.len() < size + 2 {
            match wire.fill(by) {
                Fate::Data => {}
                fate => return Err(body.shown() + &instead(wire, fate, "a chunk")),
            }
        }
        body.bytes.extend_from_slice(&wire.take(size + 2)[..size]);
    }
    loop {
        match read_line(wire, by) {
            Ok(trailer) if trailer.is_empty() => return Ok(body),
            Ok(trailer) => body.trailers.push(trailer),
            Err(fate) => return Err(body.shown() + &instead(wire, fate, "the end of the trailers")),
        }
    }
}

/// Tells what came instead of what was awaited, and empties what is held.
pub fn instead(wire: &mut Wire, fate: Fate, awaited: &str) -> String {
    let held = std::mem::take(&mut wire.held);
    let held = if held.is_empty() { String::new() } else { format!(" after: {}", escape(&held)) };
    format!("{} instead of {awaited}{held}\n", fate.word())
}

pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}
