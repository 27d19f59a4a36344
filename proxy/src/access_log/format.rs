//! Compiled formats: texts with `%OPERATORS%`, for log lines and for header values.
//!
//! A format is compiled once, when the configuration is; writing it allocates nothing but what `out` grows by.
//! It knows no file and no thread.

use std::fmt;

use crate::access_log::json;
use crate::access_log::operator::{Op, read_operator};
use crate::http::message::{RequestHead, ResponseHead, Trailers};
use crate::observe::info::StreamInfo;

/// What a line is written from.
#[derive(Debug, Clone, Copy)]
pub struct LogCx<'a> {
    pub info: &'a StreamInfo,
    pub request: &'a RequestHead,
    pub response: Option<&'a ResponseHead>,
    pub trailers: Option<&'a Trailers>,
    pub protocol: Option<&'static str>,
    /// Of a format that makes the body of a local reply; logs see none.
    pub local_reply_body: &'a [u8],
}

/// Why a format was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError(pub String);

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Envoy's default line.
//= envoy: Default format string
pub const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Literal(Box<[u8]>),
    Op(Op),
}

/// A compiled text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    pieces: Box<[Piece]>,
    omit_empty: bool,
}

impl Format {
    /// Compiles a text. Errors name the operator, in Envoy's words where it has some.
    pub fn compile(text: &str, omit_empty: bool) -> Result<Format, FormatError> {
        let pieces = split_percents(text, Piece::Literal, |rest| {
            let (op, after) = read_operator(rest, text.len() - rest.len() - 1, text)?;
            Ok((Piece::Op(op), after))
        })?;
        Ok(Format { pieces, omit_empty })
    }

    pub fn write(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Op(op) => {
                    if !op.write(cx, out) && !self.omit_empty {
                        out.push(b'-');
                    }
                }
            }
        }
    }

    /// The text itself, when it has no operators.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes a JSON value: typed when it is one operator, else a string. `false`: the one operator has no value.
    pub(crate) fn write_json(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        if let [Piece::Op(op)] = &*self.pieces {
            if op.is_number() {
                return op.write(cx, out);
            }
            out.push(b'"');
            let found = op.write(cx, out);
            json::escape_from(start + 1, out);
            out.push(b'"');
            return found;
        }
        out.push(b'"');
        for piece in &self.pieces {
            let start = out.len();
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Op(op) => {
                    if !op.write(cx, out) && !self.omit_empty {
                        out.push(b'-');
                    }
                }
            }
            json::escape_from(start, out);
        }
        out.push(b'"');
        true
    }
}

/// The pieces of a text: what `read` makes of what stands behind each `%`, and the literals between. `%%` is one `%`.
pub(super) fn split_percents<P>(
    text: &str,
    literal: impl Fn(Box<[u8]>) -> P,
    mut read: impl FnMut(&str) -> Result<(P, &str), FormatError>,
) -> Result<Box<[P]>, FormatError> {
    let (mut pieces, mut plain) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        plain.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            plain.push(b'%');
            rest = after;
            continue;
        }
        let (piece, after) = read(rest)?;
        if !plain.is_empty() {
            pieces.push(literal(std::mem::take(&mut plain).into()));
        }
        pieces.push(piece);
        rest = after;
    }
    plain.extend_from_slice(rest.as_bytes());
    if !plain.is_empty() {
        pieces.push(literal(plain.into()));
    }
    Ok(pieces.into())
}

#[cfg(test)]
mod tests {
    use selvedge_runtime::{Instant, SocketAddress, WallTime};

    use super::*;
    use crate::http::message::HeaderId;

    fn line(format: &str) -> String {
        line_for("/a?a=1&b=23&b=4", format)
    }

    fn line_for(path: &str, format: &str) -> String {
        let mut info = StreamInfo::new(Instant(5_000_000_000), WallTime(1_795_526_001_031_000_000));
        info.status = Some(200);
        info.bytes_sent = 5;
        info.stamps.flushed = Some(Instant(5_012_900_000));
        info.upstream = Some(crate::observe::info::UpstreamInfo {
            address: SocketAddress::from(
                "127.0.0.1:18081".parse::<std::net::SocketAddr>().expect("an address"),
            ),
            connected: true,
            local: None,
            connection_id: 0,
        });
        let mut request = RequestHead::new(b"GET", b"foo", path.as_bytes());
        request.fields.append_named(b"X-Request-Id", b"id");
        let mut response = ResponseHead::new(200);
        response.fields.append(HeaderId::XEnvoyUpstreamServiceTime, b"0");
        let cx = LogCx {
            info: &info,
            request: &request,
            response: Some(&response),
            trailers: None,
            protocol: Some("HTTP/1.1"),
            local_reply_body: b"",
        };
        let mut out = Vec::new();
        Format::compile(format, false).expect("a format").write(&cx, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_default_line_is_envoys() {
        assert_eq!(
            line_for("/a", DEFAULT),
            "[2026-11-24T13:13:21.031Z] \"GET /a HTTP/1.1\" 200 - 0 5 12 0 \"-\" \"-\" \"id\" \"foo\" \"127.0.0.1:18081\"\n"
        );
    }

    #[test]
    fn a_turn_that_began_before_the_head_is_no_hole() {
        let mut info = StreamInfo::new(Instant(5_000_000_000), WallTime(0));
        info.stamps.request_last = Some(Instant(4_999_900_000));
        info.stamps.upstream_first = Some(Instant(5_003_000_000));
        info.stamps.upstream_last = Some(Instant(5_002_900_000));
        info.stamps.flushed = Some(Instant(5_004_200_000));
        let request = RequestHead::new(b"GET", b"h", b"/");
        let (response, trailers, protocol) = (None, None, None);
        let cx =
            LogCx { info: &info, request: &request, response, trailers, protocol, local_reply_body: b"" };
        let format = "%REQUEST_DURATION% %REQUEST_TX_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% \
            %DURATION% %COMMON_DURATION(US_RX_BEG:US_RX_END:us)% %COMMON_DURATION(DS_TX_END:DS_RX_BEG)%";
        let mut out = Vec::new();
        Format::compile(format, false).expect("a format").write(&cx, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "0 - 3 1 4 0 -");
    }

    #[test]
    fn operators_and_their_errors() {
        assert_eq!(line("%START_TIME(%Y/%m/%dT%H:%M:%S.%3f %s)%"), "2026/11/24T13:13:21.031 1795526001");
        assert_eq!(line("%EMIT_TIME% %EMIT_TIME(%s.%3f)%"), "2026-11-24T13:13:21.043Z 1795526001.043");
        assert_eq!(line("%%%PROTOCOL()%|%REQ(:path):1%|%RESP(x):3%|%ROUTE_NAME%"), "%HTTP/1.1|/|-|-");
        assert_eq!(line("100%% %REQ(x?:path):1% %RESP(:status)% %UPSTREAM_REMOTE_PORT%"), "100% / 200 18081");
        assert_eq!(
            line("%PATH(NQ)% %PATH(WQ:ORIG)% %QUERY_PARAM(b):1% %QUERY_PARAMS%"),
            "/a - 2 a=1&b=23&b=4"
        );
    }

    /// In Envoy's words.
    #[test]
    fn errors() {
        for (bad, error) in [
            ("%NOPE%", "Not supported field in StreamInfo: NOPE"),
            ("%REQ%", "REQ requires parameters"),
            ("%REQ()%", "REQ requires parameters"),
            ("%REQ(a", "Incorrect configuration: %REQ(a. Couldn't find valid command at position 0"),
            ("x%REQ(a)x%", "Incorrect configuration: x%REQ(a)x%. Couldn't find valid command at position 1"),
            ("%REQ(a):x%", "Incorrect configuration: %REQ(a):x%. Couldn't find valid command at position 0"),
            ("%REQ(a b)%", "Invalid header configuration. Format string contains invalid characters."),
            ("%REQ(a(b))%", "Invalid header configuration. Format string contains invalid characters."),
            ("%REQ(a?b?c)%", "More than 1 alternative header specified in token: a?b?c"),
            (
                "%PROTOCOL%%",
                "Incorrect configuration: %PROTOCOL%%. Couldn't find valid command at position 10",
            ),
            ("%PROTOCOL(x)%", "PROTOCOL does not take any parameters or length"),
            ("%BYTES_SENT:3%", "BYTES_SENT does not take any parameters or length"),
            ("%START_TIME:3%", "START_TIME does not allow length to be specified."),
            ("%START_TIME(%Q)%", "START_TIME: conversion %Q is not implemented"),
            ("%EMIT_TIME(%Q)%", "EMIT_TIME: conversion %Q is not implemented"),
            ("%GRPC_STATUS(X)%", "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER."),
            ("%DYNAMIC_METADATA%", "DYNAMIC_METADATA requires parameters"),
            ("%COMMON_DURATION(a)%", "Invalid common duration configuration: a."),
            ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:x)%", "Invalid common duration precision: x."),
            ("%PATH(XX)%", "Invalid PATH option: 'XX', only 'WQ'/'NQ' are allowed"),
            ("%PATH(WQ:XX)%", "Invalid PATH option: 'XX', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"),
            ("%UNIQUE_ID%", "operator UNIQUE_ID is not implemented"),
        ] {
            assert_eq!(Format::compile(bad, false).expect_err(bad).0, error);
        }
    }
}
