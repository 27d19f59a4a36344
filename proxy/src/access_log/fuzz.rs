//! What is fuzzed of formats: any text compiles or is refused, and no client breaks a line that it stands in.

use std::borrow::Cow;
use std::sync::Arc;

use selvedge_runtime::fuzz::Bytes;
use selvedge_runtime::{Instant, SocketAddress, WallTime};
use serde_json::Value;

use super::format::{Format, LogCx};
use super::json::JsonFormat;
use crate::http::message::{Fields, HeaderId, RequestHead, ResponseHead, Trailers};
use crate::http::validate::is_value;
use crate::observe::flags::Flags;
use crate::observe::info::{StreamInfo, UpstreamInfo};

/// A text as a format, as a JSON string in one, and as a whole JSON format; written for one stream.
/// Its bytes: what the stream was like, a line feed, the format.
pub fn format(data: &[u8]) {
    let Some(at) = data.iter().position(|b| *b == b'\n') else { return };
    let Ok(text) = std::str::from_utf8(&data[at + 1..]) else { return };
    // Such formats would tell the machine that they run on.
    if text.contains("ENVIRONMENT") {
        return;
    }
    let stream = Stream::of(Bytes::new(&data[..at]));
    for omit_empty in [false, true] {
        if let Ok(format) = Format::compile(text, omit_empty) {
            let mut out = Vec::new();
            format.write(&stream.cx(), &mut out);
            //= envoy: %n and %t are conversions of a date
            let own = text.bytes().any(|b| b < b' ') || text.contains("%n") || text.contains("%t");
            let breaks = |b: &u8| *b < b' ' && *b != b'\t' || *b == 0x7f;
            assert!(own || text.contains('\x7f') || !out.iter().any(breaks), "{}", out.escape_ascii());
        }
        let keyed = Value::Object([(text.to_owned(), Value::from(text))].into_iter().collect());
        let read = serde_json::from_str(text).unwrap_or(Value::Null);
        for value in [Value::from(text), keyed, read] {
            let Ok(format) = JsonFormat::compile(&value, omit_empty) else { continue };
            let mut out = Vec::new();
            format.write(&stream.cx(), &mut out);
            assert!(out.iter().all(|b| *b >= b' '), "a JSON line breaks: {}", out.escape_ascii());
            let read: Result<Value, _> = serde_json::from_slice(&out);
            assert!(read.is_ok(), "no JSON: {} {:?}", out.escape_ascii(), read.err());
        }
    }
}

/// A stream, as its client and upstream made it: of bytes that a head may hold.
struct Stream {
    info: StreamInfo,
    request: RequestHead,
    response: Option<ResponseHead>,
    trailers: Option<Trailers>,
}

impl Stream {
    fn of(mut bytes: Bytes<'_>) -> Stream {
        let bits = bytes.byte();
        let bit = |n: u32| bits >> n & 1 == 1;
        let mut info = StreamInfo::new(Instant(1 << 40), WallTime(bytes.number()));
        let address = SocketAddress::from(std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        if bit(0) {
            let (local, connected) = (Some(address.clone()), bit(1));
            info.upstream =
                Some(UpstreamInfo { address: address.clone(), connected, local, connection_id: 1 });
            (info.cluster, info.route_name) = (Some(Arc::from("c")), Some(Arc::from("r")));
            info.failure = Some(Cow::Borrowed("broken"));
        }
        (info.remote, info.direct_remote) = (Some(address.clone()), Some(address));
        if bit(2) {
            info.flags.add(Flags::UPSTREAM_OVERFLOW);
            info.details = Some(Cow::Borrowed("some details"));
        }
        let mut stamp = || Some(Instant((1 << 40) + (bytes.number() >> 24)));
        (info.stamps.request_last, info.stamps.upstream_first) = (stamp(), stamp());
        (info.stamps.upstream_last, info.stamps.flushed) = (stamp(), stamp());
        let rest = bytes.rest();
        let (path, rest) = rest.split_at(rest.len() / 2);
        let path: Vec<u8> = path.iter().copied().filter(|b| (0x21..0x7f).contains(b)).collect();
        let mut request = RequestHead::new(b"GET", b"h", &[b"/", path.as_slice()].concat());
        let value: Vec<u8> = rest.iter().copied().filter(|b| is_value(*b)).collect();
        let fill = |fields: &mut Fields| {
            fields.append_named(b"a", &value);
            fields.append(HeaderId::UserAgent, &value);
        };
        fill(&mut request.fields);
        let response = bit(3).then(|| {
            let mut head = ResponseHead::new(200 + u16::from(bits));
            fill(&mut head.fields);
            head
        });
        let trailers = bit(4).then(|| {
            let mut fields = Fields::default();
            fill(&mut fields);
            Trailers(fields)
        });
        Stream { info, request, response, trailers }
    }

    fn cx(&self) -> LogCx<'_> {
        LogCx {
            info: &self.info,
            request: &self.request,
            response: self.response.as_ref(),
            trailers: self.trailers.as_ref(),
            protocol: Some("HTTP/1.1"),
            local_reply_body: b"",
        }
    }
}
