//! Compiled log formats and their operators. The same engine writes header values.
//!
//! A format is compiled once, when the configuration is; writing one line allocates nothing but what the line
//! itself needs. It knows no file and no thread.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use selvedge_runtime::{Instant, SocketAddress, WallTime};

use crate::http::h1::encode::decimal;
use crate::http::message::{Fields, HeaderId, RequestHead, ResponseHead, Trailers};
use crate::observe::info::StreamInfo;

/// What a line is written from.
#[derive(Debug, Clone, Copy)]
pub struct LogCx<'a> {
    pub info: &'a StreamInfo,
    pub request: &'a RequestHead,
    pub response: Option<&'a ResponseHead>,
    pub trailers: Option<&'a Trailers>,
    pub protocol: Option<&'static str>,
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

/// A name as an operator gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Method,
    Path,
    Authority,
    Scheme,
    Status,
    Known(HeaderId),
    Other(Box<[u8]>),
}

impl Name {
    fn of(text: &str) -> Name {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            ":method" => Name::Method,
            ":path" => Name::Path,
            ":authority" | "host" => Name::Authority,
            ":scheme" => Name::Scheme,
            ":status" => Name::Status,
            name => match HeaderId::of(name.as_bytes()) {
                id if id.is_exact() => Name::Known(id),
                _ => Name::Other(name.as_bytes().into()),
            },
        }
    }

    fn in_fields<'a>(&self, fields: &'a Fields) -> Option<&'a [u8]> {
        match self {
            Name::Known(id) => fields.get(*id),
            Name::Other(name) => fields.get_named(name),
            _ => None,
        }
    }

    fn in_request<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        let value = match self {
            Name::Method => head.method(),
            Name::Path => head.path(),
            Name::Authority => return head.authority(),
            Name::Scheme => return Some(head.fields.get(HeaderId::XForwardedProto).unwrap_or(b"http")),
            other => return other.in_fields(&head.fields),
        };
        (!value.is_empty()).then_some(value)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Op {
    Literal(Box<[u8]>),
    Req(Header),
    Resp(Header),
    Trailer(Header),
    StartTime(Option<TimeFormat>),
    Protocol,
    Code,
    CodeDetails,
    Flags {
        long: bool,
    },
    BytesReceived,
    BytesSent,
    RequestHeaderBytes,
    ResponseHeaderBytes,
    Wire {
        upstream: bool,
        sent: bool,
    },
    Duration(Span),
    Address {
        which: Which,
        part: Part,
    },
    UpstreamHost,
    UpstreamCluster,
    UpstreamFailure,
    AttemptCount,
    RouteName,
    VhostName,
    ConnectionId,
    StreamId,
    ConnectionTermination,
    LocalReplyBody,
    AccessLogType,
    /// A value that is known when the format is compiled.
    Fixed(Option<Box<[u8]>>),
}

/// `NAME?ALTERNATIVE):LENGTH`
#[derive(Debug, Clone, PartialEq)]
struct Header {
    name: Name,
    alternative: Option<Name>,
    length_max: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    Total,
    Request,
    Response,
    ResponseTx,
    RequestTx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Remote,
    DirectRemote,
    Local,
    UpstreamRemote,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    WithoutPort,
    Port,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TimePart {
    Literal(Box<[u8]>),
    Field(u8),
    /// A fraction of a second with so many digits.
    Fraction(usize),
    Epoch,
    EpochFraction(usize),
}

type TimeFormat = Arc<[TimePart]>;

/// A compiled text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    ops: Vec<Op>,
    omit_empty: bool,
}

impl Format {
    /// Compiles a text. Errors name the operator, in Envoy's words where it has some.
    pub fn compile(text: &str, omit_empty: bool) -> Result<Format, FormatError> {
        let mut ops = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push(b'%');
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                ops.push(Op::Literal(std::mem::take(&mut literal).into()));
            }
            let (op, after) = parse_operator(rest, text.len() - rest.len() - 1, text)?;
            ops.push(op);
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            ops.push(Op::Literal(literal.into()));
        }
        Ok(Format { ops, omit_empty })
    }

    pub fn write(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) {
        for op in &self.ops {
            if !op.write(cx, out) && !self.omit_empty {
                out.push(b'-');
            }
        }
    }

    /// The text itself, when it has no operators.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match self.ops.as_slice() {
            [] => Some(b""),
            [Op::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// For a format of one operator: its value as JSON types it. `None`: not a single operator.
    fn write_json(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        if let [op] = self.ops.as_slice()
            && !matches!(op, Op::Literal(_))
        {
            if !op.write(cx, &mut text) {
                out.extend_from_slice(if self.omit_empty { b"\"\"" } else { b"null" });
            } else if op.is_number() {
                out.extend_from_slice(&text);
            } else {
                json_string(&text, out);
            }
            return;
        }
        self.write(cx, &mut text);
        json_string(&text, out);
    }

    /// Whether the one operator of this format has no value now.
    fn is_absent(&self, cx: &LogCx<'_>) -> bool {
        matches!(self.ops.as_slice(), [op] if !matches!(op, Op::Literal(_)) && !op.write(cx, &mut Vec::new()))
    }
}

/// Splits `OPERATOR(args):length%rest`.
fn parse_operator<'a>(rest: &'a str, at: usize, whole: &str) -> Result<(Op, &'a str), FormatError> {
    let bad = || {
        FormatError(format!("Incorrect configuration: {whole}. Couldn't find valid command at position {at}"))
    };
    let name_end =
        rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).ok_or_else(bad)?;
    let (name, mut tail) = rest.split_at(name_end);
    let mut argument = None;
    if let Some(open) = tail.strip_prefix('(') {
        let close = open.find(')').ok_or_else(bad)?;
        argument = Some(&open[..close]);
        tail = &open[close + 1..];
    }
    let mut length_max = None;
    if let Some(length) = tail.strip_prefix(':') {
        let end = length.find('%').ok_or_else(bad)?;
        length_max = Some(
            length[..end]
                .parse::<usize>()
                .map_err(|_| FormatError(format!("Length must be an integer, given: {}", &length[..end])))?,
        );
        tail = &length[end..];
    }
    let tail = tail.strip_prefix('%').ok_or_else(bad)?;
    let op = operator(name, argument, length_max)?;
    Ok((op, tail))
}

fn header(argument: Option<&str>, length_max: Option<usize>, name: &str) -> Result<Header, FormatError> {
    let text = argument.ok_or_else(|| FormatError(format!("{name} requires parameters")))?;
    let (main, alternative) = match text.split_once('?') {
        Some((main, alternative)) => (main, Some(Name::of(alternative))),
        None => (text, None),
    };
    if alternative.is_some() && text.matches('?').count() > 1 {
        return Err(FormatError(format!("More than 1 alternative header specified in token: {text}")));
    }
    Ok(Header { name: Name::of(main), alternative, length_max })
}

fn operator(name: &str, argument: Option<&str>, length_max: Option<usize>) -> Result<Op, FormatError> {
    if argument.is_some() && !matches!(name, "REQ" | "RESP" | "TRAILER" | "START_TIME" | "ENVIRONMENT") {
        return Err(FormatError(format!(
            "{name} does not take any parameters: {}",
            argument.unwrap_or_default()
        )));
    }
    let address = |which, part| Ok(Op::Address { which, part });
    match name {
        "REQ" => header(argument, length_max, name).map(Op::Req),
        "RESP" => header(argument, length_max, name).map(Op::Resp),
        "TRAILER" => header(argument, length_max, name).map(Op::Trailer),
        "START_TIME" => Ok(Op::StartTime(argument.filter(|a| !a.is_empty()).map(time_format).transpose()?)),
        "PROTOCOL" => Ok(Op::Protocol),
        "RESPONSE_CODE" => Ok(Op::Code),
        "RESPONSE_CODE_DETAILS" => Ok(Op::CodeDetails),
        "RESPONSE_FLAGS" => Ok(Op::Flags { long: false }),
        "RESPONSE_FLAGS_LONG" => Ok(Op::Flags { long: true }),
        "BYTES_RECEIVED" => Ok(Op::BytesReceived),
        "BYTES_SENT" => Ok(Op::BytesSent),
        "REQUEST_HEADERS_BYTES" => Ok(Op::RequestHeaderBytes),
        "RESPONSE_HEADERS_BYTES" => Ok(Op::ResponseHeaderBytes),
        "UPSTREAM_WIRE_BYTES_SENT" => Ok(Op::Wire { upstream: true, sent: true }),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Ok(Op::Wire { upstream: true, sent: false }),
        "DOWNSTREAM_WIRE_BYTES_SENT" => Ok(Op::Wire { upstream: false, sent: true }),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Ok(Op::Wire { upstream: false, sent: false }),
        "DURATION" => Ok(Op::Duration(Span::Total)),
        "REQUEST_DURATION" => Ok(Op::Duration(Span::Request)),
        "RESPONSE_DURATION" => Ok(Op::Duration(Span::Response)),
        "RESPONSE_TX_DURATION" => Ok(Op::Duration(Span::ResponseTx)),
        "REQUEST_TX_DURATION" => Ok(Op::Duration(Span::RequestTx)),
        "DOWNSTREAM_REMOTE_ADDRESS" => address(Which::Remote, Part::Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => address(Which::Remote, Part::WithoutPort),
        "DOWNSTREAM_REMOTE_PORT" => address(Which::Remote, Part::Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => address(Which::DirectRemote, Part::Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => address(Which::DirectRemote, Part::WithoutPort),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => address(Which::DirectRemote, Part::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => address(Which::Local, Part::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Which::Local, Part::WithoutPort),
        "DOWNSTREAM_LOCAL_PORT" => address(Which::Local, Part::Port),
        "UPSTREAM_REMOTE_ADDRESS" => address(Which::UpstreamRemote, Part::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => address(Which::UpstreamRemote, Part::WithoutPort),
        "UPSTREAM_REMOTE_PORT" => address(Which::UpstreamRemote, Part::Port),
        "UPSTREAM_LOCAL_ADDRESS" => address(Which::UpstreamLocal, Part::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Which::UpstreamLocal, Part::WithoutPort),
        "UPSTREAM_LOCAL_PORT" => address(Which::UpstreamLocal, Part::Port),
        "UPSTREAM_HOST" => Ok(Op::UpstreamHost),
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Ok(Op::UpstreamCluster),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Ok(Op::UpstreamFailure),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Ok(Op::AttemptCount),
        "ROUTE_NAME" => Ok(Op::RouteName),
        "VIRTUAL_HOST_NAME" => Ok(Op::VhostName),
        "CONNECTION_ID" => Ok(Op::ConnectionId),
        "STREAM_ID" => Ok(Op::StreamId),
        "CONNECTION_TERMINATION_DETAILS" => Ok(Op::ConnectionTermination),
        "LOCAL_REPLY_BODY" => Ok(Op::LocalReplyBody),
        "ACCESS_LOG_TYPE" => Ok(Op::AccessLogType),
        "HOSTNAME" => Ok(Op::Fixed(hostname())),
        "ENVIRONMENT" => {
            let variable =
                argument.ok_or_else(|| FormatError("ENVIRONMENT requires parameters".to_owned()))?;
            Ok(Op::Fixed(std::env::var(variable).ok().map(|v| v.into_bytes().into())))
        }
        "REQUESTED_SERVER_NAME"
        | "DOWNSTREAM_TRANSPORT_FAILURE_REASON"
        | "DOWNSTREAM_TLS_VERSION"
        | "DOWNSTREAM_TLS_CIPHER"
        | "DOWNSTREAM_PEER_SUBJECT"
        | "DOWNSTREAM_LOCAL_SUBJECT" => Ok(Op::Fixed(None)),
        "DYNAMIC_METADATA"
        | "CLUSTER_METADATA"
        | "UPSTREAM_METADATA"
        | "FILTER_STATE"
        | "UPSTREAM_FILTER_STATE"
        | "CEL" => Err(FormatError(format!("operator {name} is not implemented yet"))),
        _ => Err(FormatError(format!("Not supported field in StreamInfo: {name}"))),
    }
}

fn hostname() -> Option<Box<[u8]>> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().as_bytes().into())
}

/// The part of strftime that logs use, and Envoy's fractions: `%3f`, `%s`, `%9s`.
fn time_format(text: &str) -> Result<TimeFormat, FormatError> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            literal.push(b);
            continue;
        }
        let mut digits = None;
        while let Some(d) = bytes.peek().copied().filter(u8::is_ascii_digit) {
            digits = Some(usize::from(d - b'0'));
            bytes.next();
        }
        let field = bytes.next();
        let part = match (field, digits) {
            (Some(b'%'), _) => {
                literal.push(b'%');
                continue;
            }
            (Some(b'f'), n) => TimePart::Fraction(n.unwrap_or(9).clamp(1, 9)),
            (Some(b's'), None) => TimePart::Epoch,
            (Some(b's'), Some(n)) => TimePart::EpochFraction(n.clamp(1, 9)),
            (
                Some(
                    f @ (b'Y' | b'm' | b'd' | b'H' | b'M' | b'S' | b'T' | b'F' | b'y' | b'e' | b'b' | b'a'
                    | b'Z' | b'z'),
                ),
                _,
            ) => TimePart::Field(f),
            _ => return Err(FormatError(format!("Invalid time format: {text}"))),
        };
        if !literal.is_empty() {
            parts.push(TimePart::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(part);
    }
    if !literal.is_empty() {
        parts.push(TimePart::Literal(literal.into()));
    }
    Ok(parts.into())
}

impl Op {
    fn is_number(&self) -> bool {
        matches!(
            self,
            Op::Code
                | Op::BytesReceived
                | Op::BytesSent
                | Op::RequestHeaderBytes
                | Op::ResponseHeaderBytes
                | Op::Wire { .. }
                | Op::Duration(_)
                | Op::AttemptCount
                | Op::ConnectionId
                | Op::Address { part: Part::Port, .. }
        )
    }

    /// Writes the value; false: there is none.
    fn write(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) -> bool {
        let info = cx.info;
        match self {
            Op::Literal(text) => bytes(Some(text), out),
            Op::Req(h) => h.write(out, |name| name.in_request(cx.request)),
            Op::Resp(h) => {
                let Some(response) = cx.response else { return false };
                if h.name == Name::Status {
                    return number(Some(u64::from(response.status)), out);
                }
                h.write(out, |name| name.in_fields(&response.fields))
            }
            Op::Trailer(h) => {
                let Some(trailers) = cx.trailers else { return false };
                h.write(out, |name| name.in_fields(&trailers.0))
            }
            Op::StartTime(None) => {
                iso_millis(info.started, out);
                true
            }
            Op::StartTime(Some(format)) => {
                write_time(format, info.started, out);
                true
            }
            Op::Protocol => bytes(cx.protocol.map(str::as_bytes), out),
            Op::Code => number(Some(u64::from(info.status.unwrap_or(0))), out),
            Op::CodeDetails => {
                let Some(details) = &info.details else { return false };
                // envoy: white space in details would split the line
                out.extend(details.bytes().map(|b| if b == b' ' { b'_' } else { b }));
                true
            }
            Op::Flags { long } => {
                info.flags.write(*long, out);
                !info.flags.is_empty()
            }
            Op::BytesReceived => number(Some(info.bytes_received), out),
            Op::BytesSent => number(Some(info.bytes_sent), out),
            Op::RequestHeaderBytes => number(Some(info.request_header_bytes), out),
            Op::ResponseHeaderBytes => number(Some(info.response_header_bytes), out),
            Op::Wire { upstream: true, sent: true } => number(Some(info.upstream_wire_sent), out),
            Op::Wire { upstream: true, sent: false } => number(Some(info.upstream_wire_received), out),
            Op::Wire { upstream: false, sent: true } => number(Some(info.downstream_wire_sent), out),
            Op::Wire { upstream: false, sent: false } => number(Some(info.downstream_wire_received), out),
            Op::Duration(span) => number(span.millis(info), out),
            Op::Address { which, part } => write_address(which.of(info), *part, out),
            Op::UpstreamHost => write_address(info.upstream.as_ref().map(|u| &u.address), Part::Whole, out),
            Op::UpstreamCluster => bytes(info.cluster.as_ref().map(|c| c.as_bytes()), out),
            Op::UpstreamFailure => bytes(info.failure.as_ref().map(|f| f.as_bytes()), out),
            Op::AttemptCount => number(Some(u64::from(info.attempts)), out),
            Op::RouteName => {
                bytes(info.route_name.as_ref().map(|n| n.as_bytes()).filter(|n| !n.is_empty()), out)
            }
            Op::VhostName => {
                bytes(info.vhost_name.as_ref().map(|n| n.as_bytes()).filter(|n| !n.is_empty()), out)
            }
            Op::ConnectionId => number(Some(info.connection_id), out),
            Op::StreamId => number(Some(info.stream_id), out),
            Op::ConnectionTermination => bytes(info.connection_termination.map(str::as_bytes), out),
            Op::LocalReplyBody => bytes(Some(cx.local_reply_body).filter(|b| !b.is_empty()), out),
            Op::AccessLogType => bytes(Some(b"DownstreamEnd"), out),
            Op::Fixed(value) => bytes(value.as_deref(), out),
        }
    }
}

fn bytes(value: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    value.inspect(|v| out.extend_from_slice(v)).is_some()
}

fn number(value: Option<u64>, out: &mut Vec<u8>) -> bool {
    value.inspect(|v| out.extend_from_slice(decimal(*v, &mut [0; 20]))).is_some()
}

impl Header {
    fn write<'a>(&self, out: &mut Vec<u8>, get: impl Fn(&Name) -> Option<&'a [u8]>) -> bool {
        let value = get(&self.name).or_else(|| self.alternative.as_ref().and_then(&get));
        let Some(value) = value else { return false };
        out.extend_from_slice(&value[..self.length_max.unwrap_or(value.len()).min(value.len())]);
        true
    }
}

impl Span {
    fn millis(self, info: &StreamInfo) -> Option<u64> {
        let s = &info.stamps;
        let between = |from: Instant, to: Option<Instant>| to.map(|to| to.millis_since(from));
        match self {
            Span::Total => between(s.head, s.flushed.or(s.upstream_last)),
            Span::Request => between(s.head, s.request_last),
            Span::RequestTx => between(s.head, s.upstream_sent),
            Span::Response => between(s.head, s.upstream_first),
            Span::ResponseTx => s.upstream_first.and_then(|first| between(first, s.flushed)),
        }
    }
}

impl Which {
    fn of(self, info: &StreamInfo) -> Option<&SocketAddress> {
        match self {
            Which::Remote => info.remote.as_ref(),
            Which::DirectRemote => info.direct_remote.as_ref(),
            Which::Local => info.local.as_ref(),
            Which::UpstreamRemote => info.upstream.as_ref().map(|u| &u.address),
            Which::UpstreamLocal => info.upstream.as_ref().and_then(|u| u.local.as_ref()),
        }
    }
}

fn write_address(address: Option<&SocketAddress>, part: Part, out: &mut Vec<u8>) -> bool {
    let Some(address) = address else { return false };
    match (address, part) {
        (SocketAddress::Ip(std::net::SocketAddr::V4(a)), Part::Whole | Part::WithoutPort) => {
            for (n, octet) in a.ip().octets().into_iter().enumerate() {
                if n > 0 {
                    out.push(b'.');
                }
                number(Some(u64::from(octet)), out);
            }
            if part == Part::Whole {
                out.push(b':');
                number(Some(u64::from(a.port())), out);
            }
            true
        }
        (SocketAddress::Ip(a), Part::Whole) => write!(out, "{a}").is_ok(),
        (SocketAddress::Ip(a), Part::WithoutPort) => write!(out, "{}", a.ip()).is_ok(),
        (SocketAddress::Ip(a), Part::Port) => number(Some(u64::from(a.port())), out),
        (SocketAddress::Unix(path), Part::Whole | Part::WithoutPort) => bytes(Some(path.as_bytes()), out),
        (SocketAddress::Unix(_), Part::Port) => false,
    }
}

/// A date of the civil calendar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Civil {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) weekday: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl Civil {
    pub(crate) fn of(seconds: u64) -> Civil {
        let (days, second) = (seconds / 86400, seconds % 86400);
        // Counted from 1 March of year 0, where leap days fall at the end of a year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Civil {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: of_year - (153 * month_from_march + 2) / 5 + 1,
            weekday: (days + 4) % 7,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }
}

fn padded(n: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let text = decimal(n, &mut buffer);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(text.len())));
    out.extend_from_slice(text);
}

fn iso_millis(at: WallTime, out: &mut Vec<u8>) {
    let c = Civil::of(at.seconds());
    for (value, width, after) in [
        (c.year, 4, b'-'),
        (c.month, 2, b'-'),
        (c.day, 2, b'T'),
        (c.hour, 2, b':'),
        (c.minute, 2, b':'),
        (c.second, 2, b'.'),
        (at.0 / 1_000_000 % 1000, 3, b'Z'),
    ] {
        padded(value, width, out);
        out.push(after);
    }
}

pub(crate) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
pub(crate) const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

fn write_time(format: &[TimePart], at: WallTime, out: &mut Vec<u8>) {
    let c = Civil::of(at.seconds());
    let fraction = |digits: usize| at.0 % 1_000_000_000 / 10u64.pow(9 - u32::try_from(digits).unwrap_or(9));
    for part in format {
        match part {
            TimePart::Literal(text) => out.extend_from_slice(text),
            TimePart::Fraction(n) => padded(fraction(*n), *n, out),
            TimePart::Epoch => padded(at.seconds(), 1, out),
            TimePart::EpochFraction(n) => {
                padded(at.seconds(), 1, out);
                padded(fraction(*n), *n, out);
            }
            TimePart::Field(f) => match f {
                b'Y' => padded(c.year, 4, out),
                b'y' => padded(c.year % 100, 2, out),
                b'm' => padded(c.month, 2, out),
                b'd' => padded(c.day, 2, out),
                b'e' => padded(c.day, 1, out),
                b'H' => padded(c.hour, 2, out),
                b'M' => padded(c.minute, 2, out),
                b'S' => padded(c.second, 2, out),
                b'b' => out.extend_from_slice(MONTHS[usize::try_from(c.month - 1).unwrap_or(0)].as_bytes()),
                b'a' => out.extend_from_slice(DAYS[usize::try_from(c.weekday).unwrap_or(0)].as_bytes()),
                b'T' => write_time(
                    &[TimePart::Field(b'H'), colon(), TimePart::Field(b'M'), colon(), TimePart::Field(b'S')],
                    at,
                    out,
                ),
                b'F' => write_time(
                    &[TimePart::Field(b'Y'), dash(), TimePart::Field(b'm'), dash(), TimePart::Field(b'd')],
                    at,
                    out,
                ),
                b'z' => out.extend_from_slice(b"+0000"),
                _ => out.extend_from_slice(b"UTC"),
            },
        }
    }
}

fn colon() -> TimePart {
    TimePart::Literal((*b":").into())
}

fn dash() -> TimePart {
    TimePart::Literal((*b"-").into())
}

/// `Tue, 24 Nov 2026 13:13:20 GMT` //= rfc9110#5.6.7
pub fn http_date(at: WallTime) -> Vec<u8> {
    let c = Civil::of(at.seconds());
    let (day, month) = (usize::try_from(c.weekday).unwrap_or(0), usize::try_from(c.month - 1).unwrap_or(0));
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[day], c.day, MONTHS[month], c.year, c.hour, c.minute, c.second
    )
    .into_bytes()
}

/// A compiled JSON format: keys sorted, as Envoy prints them.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonFormat {
    Value(Format),
    Object(Vec<(Box<[u8]>, JsonFormat)>),
    List(Vec<JsonFormat>),
    Fixed(Box<[u8]>),
}

impl JsonFormat {
    pub fn compile(value: &serde_json::Value, omit_empty: bool) -> Result<JsonFormat, FormatError> {
        match value {
            serde_json::Value::String(text) => Format::compile(text, omit_empty).map(JsonFormat::Value),
            serde_json::Value::Object(map) => {
                let mut entries = Vec::new();
                for (key, value) in map {
                    let mut name = Vec::new();
                    json_string(key.as_bytes(), &mut name);
                    entries.push((name.into(), JsonFormat::compile(value, omit_empty)?));
                }
                entries.sort_by(|a: &(Box<[u8]>, _), b| a.0.cmp(&b.0));
                Ok(JsonFormat::Object(entries))
            }
            serde_json::Value::Array(list) => list
                .iter()
                .map(|v| JsonFormat::compile(v, omit_empty))
                .collect::<Result<_, _>>()
                .map(JsonFormat::List),
            other => Ok(JsonFormat::Fixed(other.to_string().into_bytes().into())),
        }
    }

    pub fn write(&self, cx: &LogCx<'_>, omit_empty: bool, out: &mut Vec<u8>) {
        match self {
            JsonFormat::Value(format) => format.write_json(cx, out),
            JsonFormat::Fixed(text) => out.extend_from_slice(text),
            JsonFormat::Object(entries) => {
                out.push(b'{');
                let mut first = true;
                for (key, value) in entries {
                    if omit_empty && matches!(value, JsonFormat::Value(f) if f.is_absent(cx)) {
                        continue;
                    }
                    if !std::mem::replace(&mut first, false) {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    out.push(b':');
                    value.write(cx, omit_empty, out);
                }
                out.push(b'}');
            }
            JsonFormat::List(values) => {
                out.push(b'[');
                for (n, value) in values.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    value.write(cx, omit_empty, out);
                }
                out.push(b']');
            }
        }
    }
}

fn json_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if u32::from(c) < 0x20 => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: &str) -> String {
        let mut info = StreamInfo::new(Instant(5_000_000_000), WallTime(1_795_526_001_031_000_000));
        info.status = Some(200);
        info.bytes_sent = 5;
        info.stamps.flushed = Some(Instant(5_012_900_000));
        info.upstream = Some(crate::observe::info::UpstreamInfo {
            address: SocketAddress::from(
                "127.0.0.1:18081".parse::<std::net::SocketAddr>().expect("an address"),
            ),
            local: None,
            connection_id: 0,
        });
        let mut request = RequestHead::new(b"GET", b"foo", b"/a");
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
            line(DEFAULT),
            "[2026-11-24T13:13:21.031Z] \"GET /a HTTP/1.1\" 200 - 0 5 12 0 \"-\" \"-\" \"id\" \"foo\" \"127.0.0.1:18081\"\n"
        );
    }

    #[test]
    fn operators_and_their_errors() {
        assert_eq!(line("%START_TIME(%Y/%m/%dT%H:%M:%S.%3f %s)%"), "2026/11/24T13:13:21.031 1795526001");
        assert_eq!(line("100%% %REQ(x?:path):1% %RESP(:status)% %UPSTREAM_REMOTE_PORT%"), "100% / 200 18081");
        for (bad, error) in [
            ("%NOPE%", "Not supported field in StreamInfo: NOPE"),
            ("%REQ%", "REQ requires parameters"),
            ("%REQ(a", "Incorrect configuration: %REQ(a. Couldn't find valid command at position 0"),
            ("%PROTOCOL(x)%", "PROTOCOL does not take any parameters: x"),
            ("%START_TIME(%Q)%", "Invalid time format: %Q"),
        ] {
            assert_eq!(Format::compile(bad, false).expect_err(bad).0, error);
        }
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(http_date(WallTime(0)), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(WallTime(951_782_400_000_000_000)), b"Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http_date(WallTime(1_795_526_001_000_000_000)), b"Tue, 24 Nov 2026 13:13:21 GMT");
    }
}
