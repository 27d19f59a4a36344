//! The access log of the admin server.
//!
//! Lines go to the writer thread one by one: there are few.
#![allow(clippy::disallowed_types, reason = "admin thread")]

use std::borrow::Cow;
use std::sync::Mutex;
use std::time::{Instant as StdInstant, SystemTime};

use hyper::HeaderMap;
use selvedge_runtime::listen::host_address;
use selvedge_runtime::{Instant, SocketAddress, WallTime};

use super::AdminState;
use crate::access_log::format::LogCx;
use crate::access_log::sink::ShardLogs;
use crate::config::access_log::{Compare, CompareOp, LogFilter};
use crate::http::message::{RequestHead, ResponseHead};
use crate::observe::info::StreamInfo;

/// Both ends of a connection, and its number.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) id: u64,
    pub(super) local: SocketAddress,
    pub(super) remote: SocketAddress,
}

/// What is known of a request before it is answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// The path as it was understood, with its parameters.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) protocol: &'static str,
    pub(super) at: SystemTime,
    pub(super) began: StdInstant,
}

/// What was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
}

/// Buffers of the log files. One thread uses them; the lock is never waited for.
#[derive(Debug)]
pub(super) struct AccessLogs(Mutex<ShardLogs>);

impl AccessLogs {
    pub(super) fn new(state: &AdminState) -> AccessLogs {
        AccessLogs(Mutex::new(ShardLogs::new(state.process.writer.clone())))
    }

    pub(super) fn write(&self, state: &AdminState, ends: &Ends, asked: &Asked, answered: Answered) {
        let epoch = state.process.epoch();
        let Some(admin) = epoch.snapshot.admin.as_ref().filter(|a| !a.access_logs.is_empty()) else { return };
        let request = request(ends, asked);
        let mut response = ResponseHead::new(answered.status);
        response.fields.set_named(b"content-type", answered.content_type.as_bytes());
        let info = info(ends, asked, answered);
        let ms = u64::try_from(asked.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let cx = LogCx {
            info: &info,
            request: &request,
            response: Some(&response),
            trailers: None,
            protocol: Some(asked.protocol),
            local_reply_body: b"",
        };
        let logs = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for log in admin.access_logs.iter().filter(|log| fits(&log.filter, answered.status, ms, &request)) {
            logs.line(logs.open(&log.path), |out| log.format.write(&cx, out));
        }
        logs.flush();
    }
}

fn request(ends: &Ends, asked: &Asked) -> RequestHead {
    let host = asked.headers.get("host").map_or(&b""[..], |v| v.as_bytes());
    let mut head = RequestHead::new(asked.method.as_bytes(), host, asked.target.as_bytes());
    for (name, value) in &asked.headers {
        if name != "host" {
            head.fields.append_named(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    //= envoy: the admin server trusts its peer's address; one on this machine stands for the machine
    if let Some(peer) = ends.remote.ip() {
        let peer = if peer.is_loopback() { host_address() } else { peer };
        let before = head.fields.get_named(b"x-forwarded-for").map(<[u8]>::to_vec);
        let mut value = before.unwrap_or_default();
        if !value.is_empty() {
            value.push(b',');
        }
        value.extend_from_slice(peer.to_string().as_bytes());
        head.fields.set_named(b"x-forwarded-for", &value);
    }
    head.fields.set_named(b"x-forwarded-proto", b"http");
    head
}

fn info(ends: &Ends, asked: &Asked, answered: Answered) -> StreamInfo {
    let wall = asked.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Only the distance between the stamps is shown.
    let took = u64::try_from(asked.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let head = Instant(1);
    let end = Some(Instant(took.saturating_add(1)));
    let mut info = StreamInfo::new(head, WallTime(u64::try_from(wall.as_nanos()).unwrap_or(0)));
    info.stamps.request_last = end;
    info.stamps.first_out = end;
    info.stamps.flushed = end;
    info.details = Some(Cow::Borrowed("admin_filter_response"));
    info.status = Some(answered.status);
    info.bytes_received = answered.bytes_received;
    info.bytes_sent = answered.bytes_sent;
    info.local = Some(ends.local.clone());
    info.direct_remote = Some(ends.remote.clone());
    info.remote = Some(ends.remote.clone());
    info.connection_id = ends.id;
    info
}

/// The filters as far as they say something of an admin request; there are no response flags, and every sample is
/// taken.
fn fits(filter: &LogFilter, status: u16, ms: u64, request: &RequestHead) -> bool {
    match filter {
        LogFilter::Always | LogFilter::NotHealthCheck | LogFilter::Sample(_) => true,
        LogFilter::Status(c) => compare(*c, u64::from(status)),
        LogFilter::DurationMs(c) => compare(*c, ms),
        LogFilter::Traceable | LogFilter::Flags(_) => false,
        LogFilter::And(all) => all.iter().all(|f| fits(f, status, ms, request)),
        LogFilter::Or(any) => any.iter().any(|f| fits(f, status, ms, request)),
        LogFilter::Header(matcher) => matcher.fits(request, false),
    }
}

fn compare(c: Compare, value: u64) -> bool {
    match c.op {
        CompareOp::Eq => value == c.value,
        CompareOp::Ge => value >= c.value,
        CompareOp::Le => value <= c.value,
        CompareOp::Ne => value != c.value,
    }
}
