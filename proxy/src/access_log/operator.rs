//! The operators of formats: what stands between two `%`. The one list of them.
//!
//! What Envoy has and this proxy has not is refused by name. Operators about TLS, traces, virtual clusters and what
//! filters note, which no request has yet, have no value.

use std::io::Write;

use selvedge_runtime::{Instant, SocketAddress, WallTime};

use crate::access_log::dates::{self, TimeFormat};
use crate::access_log::format::{FormatError, LogCx};
use crate::access_log::grpc;
use crate::http::h1::encode::decimal;
use crate::http::message::{Fields, HeaderId, RequestHead};
use crate::http::validate::is_value;
use crate::observe::info::StreamInfo;
use crate::observe::stamps::Stamps;

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

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Req(Header),
    Resp(Header),
    Trailer(Header),
    Path(Path),
    StartTime(Option<TimeFormat>),
    /// When the line is written: the end of the request.
    EmitTime(Option<TimeFormat>),
    GrpcStatus(grpc::Form),
    Protocol,
    UpstreamProtocol,
    Code,
    CodeDetails {
        spaces: bool,
    },
    Flags {
        long: bool,
    },
    Count(Count),
    Duration {
        from: Point,
        to: Point,
        unit_ns: u64,
    },
    Address {
        which: Which,
        part: Part,
    },
    UpstreamHost,
    UpstreamCluster,
    UpstreamFailure,
    RouteName,
    StreamId,
    ConnectionTermination,
    LocalReplyBody,
    /// A value that is known when the format is compiled.
    Fixed(Option<Box<[u8]>>),
}

/// `NAME?ALTERNATIVE):LENGTH`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    name: Name,
    alternative: Option<Name>,
    length_max: usize,
}

/// A part of the path: of the one that came, of the one that it became, or of the first of these that there is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path {
    original: bool,
    current: bool,
    part: PathPart,
    length_max: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum PathPart {
    Whole,
    WithoutQuery,
    Query,
    Parameter(Box<[u8]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    BytesReceived,
    BytesSent,
    RequestHeaders,
    ResponseHeaders,
    ResponseTrailers,
    UpstreamWireSent,
    UpstreamWireReceived,
    DownstreamWireSent,
    DownstreamWireReceived,
    Attempts,
    Connection,
    UpstreamConnection,
}

/// A moment in the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Remote,
    DirectRemote,
    Local,
    UpstreamRemote,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    WithoutPort,
    Port,
}

/// Reads `OPERATOR(argument):length%`, and says what comes after it.
pub(crate) fn read_operator<'a>(rest: &'a str, at: usize, whole: &str) -> Result<(Op, &'a str), FormatError> {
    let (asked, after) = split(rest).ok_or_else(|| {
        FormatError(format!("Incorrect configuration: {whole}. Couldn't find valid command at position {at}"))
    })?;
    Ok((asked.compile()?, after))
}

/// An operator as it is written.
struct Asked<'a> {
    name: &'a str,
    argument: &'a str,
    length: Option<usize>,
}

//= envoy: command_w_args_regex: ^%((?:[A-Z]|[0-9]|_)+)(?:\((.*?)\))?(?::([0-9]+))?%
fn split(rest: &str) -> Option<(Asked<'_>, &str)> {
    let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, tail) = rest.split_at(end);
    if name.is_empty() {
        return None;
    }
    let Some(inside) = tail.strip_prefix('(') else {
        let (length, after) = length(tail)?;
        return Some((Asked { name, argument: "", length }, after));
    };
    // The first parenthesis after which the operator ends.
    inside.match_indices(')').find_map(|(close, _)| {
        let (length, after) = length(&inside[close + 1..])?;
        Some((Asked { name, argument: &inside[..close], length }, after))
    })
}

/// `:length%` or `%`.
fn length(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(after) = text.strip_prefix('%') {
        return Some((None, after));
    }
    let (digits, after) = text.strip_prefix(':')?.split_once('%')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    Some((Some(digits.parse().ok().filter(|_| plain)?), after))
}

impl Asked<'_> {
    fn compile(&self) -> Result<Op, FormatError> {
        let name = self.name;
        if let Some(op) = plain(name) {
            return match (self.argument, self.length) {
                ("", None) => Ok(op),
                _ => Err(FormatError(format!("{name} does not take any parameters or length"))),
            };
        }
        match name {
            "REQ" | "REQUEST_HEADER" => self.header().map(Op::Req),
            "RESP" | "RESPONSE_HEADER" => self.header().map(Op::Resp),
            "TRAILER" | "RESPONSE_TRAILER" => self.header().map(Op::Trailer),
            "PATH" | "QUERY_PARAM" | "QUERY_PARAMS" => self.path().map(Op::Path),
            "START_TIME" => self.time().map(Op::StartTime),
            "EMIT_TIME" => self.time().map(Op::EmitTime),
            "GRPC_STATUS" => grpc::Form::of(self.argument).map(Op::GrpcStatus),
            "DYNAMIC_METADATA" => self.required().map(|_| Op::Fixed(None)),
            "RESPONSE_CODE_DETAILS" => Ok(Op::CodeDetails { spaces: self.argument == "ALLOW_WHITESPACES" }),
            "COMMON_DURATION" => self.duration(),
            "ENVIRONMENT" => {
                let value = std::env::var(self.required()?).unwrap_or_else(|_| "-".to_owned());
                Ok(Op::Fixed(Some(cut(value.as_bytes(), self.length_max()).into())))
            }
            _ if NOT_IMPLEMENTED.contains(&name) => {
                Err(FormatError(format!("operator {name} is not implemented")))
            }
            _ => Err(FormatError(format!("Not supported field in StreamInfo: {name}"))),
        }
    }

    fn length_max(&self) -> usize {
        self.length.unwrap_or(usize::MAX)
    }

    fn required(&self) -> Result<&str, FormatError> {
        match self.argument {
            "" => Err(FormatError(format!("{} requires parameters", self.name))),
            argument => Ok(argument),
        }
    }

    fn header(&self) -> Result<Header, FormatError> {
        let text = self.required()?;
        let (main, alternative) = match text.split_once('?') {
            Some((main, alternative)) => (main, Some(alternative)),
            None => (text, None),
        };
        if alternative.is_some_and(|a| a.contains('?')) {
            return Err(FormatError(format!("More than 1 alternative header specified in token: {text}")));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || b":!#$%&'*+-.^_`|~".contains(&b);
        if !text.bytes().all(|b| fits(b) || b == b'?') {
            let why = "Invalid header configuration. Format string contains invalid characters.";
            return Err(FormatError(why.to_owned()));
        }
        let length_max = self.length_max();
        Ok(Header { name: Name::of(main), alternative: alternative.map(Name::of), length_max })
    }

    fn path(&self) -> Result<Path, FormatError> {
        let mut options = self.argument.split(':');
        let first = options.next().unwrap_or_default();
        let bad = |what: &str, allowed: &str| {
            let name = self.name;
            Err(FormatError(format!("Invalid {name} option: '{what}', only {allowed} are allowed")))
        };
        let (part, which) = match self.name {
            "QUERY_PARAM" => (PathPart::Parameter(self.required()?.as_bytes().into()), ""),
            "QUERY_PARAMS" => match first {
                "" | "ORIG" => (PathPart::Query, ""),
                "DECODED" => {
                    return Err(FormatError("QUERY_PARAMS(DECODED) is not implemented".to_owned()));
                }
                other => return bad(other, "'ORIG'/'DECODED'"),
            },
            _ => match first {
                "" | "WQ" => (PathPart::Whole, options.next().unwrap_or_default()),
                "NQ" => (PathPart::WithoutQuery, options.next().unwrap_or_default()),
                other => return bad(other, "'WQ'/'NQ'"),
            },
        };
        let (original, current) = match which {
            "" | "ORIG_OR_PATH" => (true, true),
            "ORIG" => (true, false),
            "PATH" => (false, true),
            other => return bad(other, "'ORIG'/'PATH'/'ORIG_OR_PATH'"),
        };
        Ok(Path { original, current, part, length_max: self.length_max() })
    }

    fn time(&self) -> Result<Option<TimeFormat>, FormatError> {
        if self.length.is_some() {
            return Err(FormatError(format!("{} does not allow length to be specified.", self.name)));
        }
        let format = Some(self.argument).filter(|a| !a.is_empty());
        format.map(|format| TimeFormat::compile(self.name, format)).transpose()
    }

    fn duration(&self) -> Result<Op, FormatError> {
        let text = self.required()?;
        let parts: Vec<&str> = text.split(':').collect();
        let (from, to, unit) = match *parts {
            [from, to] => (from, to, "ms"),
            [from, to, unit] => (from, to, unit),
            _ => return Err(FormatError(format!("Invalid common duration configuration: {text}."))),
        };
        let unit_ns = match unit {
            "ms" => MS,
            "us" => 1000,
            "ns" => 1,
            _ => return Err(FormatError(format!("Invalid common duration precision: {unit}."))),
        };
        let point = |name: &str| {
            let known = POINTS.iter().find(|(known, _)| *known == name).map(|(_, point)| *point);
            known.ok_or_else(|| FormatError(format!("COMMON_DURATION: time point {name} is not implemented")))
        };
        Ok(Op::Duration { from: point(from)?, to: point(to)?, unit_ns })
    }
}

const MS: u64 = 1_000_000;

const POINTS: &[(&str, Point)] = &[
    ("DS_RX_BEG", Point::DownstreamRxBegin),
    ("DS_RX_END", Point::DownstreamRxEnd),
    ("US_TX_BEG", Point::UpstreamTxBegin),
    ("US_TX_END", Point::UpstreamTxEnd),
    ("US_RX_BEG", Point::UpstreamRxBegin),
    ("US_RX_END", Point::UpstreamRxEnd),
    ("DS_TX_BEG", Point::DownstreamTxBegin),
    ("DS_TX_END", Point::DownstreamTxEnd),
];

/// The operators that take neither parameters nor length.
fn plain(name: &str) -> Option<Op> {
    let address = |which, part| Op::Address { which, part };
    let since_begin = |to| Op::Duration { from: Point::DownstreamRxBegin, to, unit_ns: MS };
    Some(match name {
        "PROTOCOL" => Op::Protocol,
        "UPSTREAM_PROTOCOL" => Op::UpstreamProtocol,
        "RESPONSE_CODE" => Op::Code,
        "RESPONSE_FLAGS" => Op::Flags { long: false },
        "RESPONSE_FLAGS_LONG" => Op::Flags { long: true },
        "BYTES_RECEIVED" => Op::Count(Count::BytesReceived),
        "BYTES_SENT" => Op::Count(Count::BytesSent),
        "REQUEST_HEADERS_BYTES" => Op::Count(Count::RequestHeaders),
        "RESPONSE_HEADERS_BYTES" => Op::Count(Count::ResponseHeaders),
        "RESPONSE_TRAILERS_BYTES" => Op::Count(Count::ResponseTrailers),
        "UPSTREAM_WIRE_BYTES_SENT" => Op::Count(Count::UpstreamWireSent),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Op::Count(Count::UpstreamWireReceived),
        "DOWNSTREAM_WIRE_BYTES_SENT" => Op::Count(Count::DownstreamWireSent),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Op::Count(Count::DownstreamWireReceived),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Op::Count(Count::Attempts),
        "CONNECTION_ID" => Op::Count(Count::Connection),
        "UPSTREAM_CONNECTION_ID" => Op::Count(Count::UpstreamConnection),
        "DURATION" => since_begin(Point::DownstreamTxEnd),
        "REQUEST_DURATION" => since_begin(Point::DownstreamRxEnd),
        "REQUEST_TX_DURATION" => since_begin(Point::UpstreamTxEnd),
        "RESPONSE_DURATION" => since_begin(Point::UpstreamRxBegin),
        "RESPONSE_TX_DURATION" => {
            Op::Duration { from: Point::UpstreamRxBegin, to: Point::DownstreamTxEnd, unit_ns: MS }
        }
        "DOWNSTREAM_REMOTE_ADDRESS" => address(Which::Remote, Part::Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => address(Which::Remote, Part::WithoutPort),
        "DOWNSTREAM_REMOTE_PORT" => address(Which::Remote, Part::Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => address(Which::DirectRemote, Part::Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => address(Which::DirectRemote, Part::WithoutPort),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => address(Which::DirectRemote, Part::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => address(Which::Local, Part::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => {
            address(Which::Local, Part::WithoutPort)
        }
        "DOWNSTREAM_LOCAL_PORT" | "DOWNSTREAM_DIRECT_LOCAL_PORT" => address(Which::Local, Part::Port),
        "UPSTREAM_REMOTE_ADDRESS" => address(Which::UpstreamRemote, Part::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => address(Which::UpstreamRemote, Part::WithoutPort),
        "UPSTREAM_REMOTE_PORT" => address(Which::UpstreamRemote, Part::Port),
        "UPSTREAM_LOCAL_ADDRESS" => address(Which::UpstreamLocal, Part::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Which::UpstreamLocal, Part::WithoutPort),
        "UPSTREAM_LOCAL_PORT" => address(Which::UpstreamLocal, Part::Port),
        "UPSTREAM_HOST" => Op::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Op::UpstreamCluster,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Op::UpstreamFailure,
        "ROUTE_NAME" => Op::RouteName,
        "STREAM_ID" => Op::StreamId,
        "CONNECTION_TERMINATION_DETAILS" => Op::ConnectionTermination,
        "LOCAL_REPLY_BODY" => Op::LocalReplyBody,
        "ACCESS_LOG_TYPE" => Op::Fixed(Some((*b"DownstreamEnd").into())),
        "HOSTNAME" => Op::Fixed(hostname()),
        "GRPC_STATUS_NUMBER" => Op::GrpcStatus(grpc::Form::Number),
        // Extensions set them, and none does; only internal addresses have the others.
        "CUSTOM_FLAGS"
        | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"
        | "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" => Op::Fixed(Some(Box::default())),
        _ if NEVER_THERE.contains(&name) => Op::Fixed(None),
        _ => return None,
    })
}

/// About TLS, traces and virtual clusters.
const NEVER_THERE: &[&str] = &[
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER_SERIAL",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_GROUP",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "REQUESTED_SERVER_NAME",
    "ROUNDTRIP_DURATION",
    "SPAN_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_SERVER_NAME",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_GROUP",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "VIRTUAL_CLUSTER_NAME",
];

/// Envoy has them.
const NOT_IMPLEMENTED: &[&str] = &[
    "BYTES_RETRANSMITTED",
    "CEL",
    "CLUSTER_METADATA",
    "COALESCE",
    "DOWNSTREAM_CX_RTT",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "EMIT_TIME_LOCAL",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "LISTENER_NAME",
    "METADATA",
    "ROUTE_RESOLUTION_COUNT",
    "ROUTE_RESOLUTION_TIME_US",
    "START_TIME_LOCAL",
    "STREAM_INFO_REQ",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
    "XFCC_VALUE",
];

fn hostname() -> Option<Box<[u8]>> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().as_bytes().into())
}

impl Op {
    /// Whether its value is a number in JSON.
    pub(crate) fn is_number(&self) -> bool {
        matches!(
            self,
            Op::Code
                | Op::GrpcStatus(grpc::Form::Number)
                | Op::Count(_)
                | Op::Duration { .. }
                | Op::Address { part: Part::Port, .. }
        )
    }

    /// Writes the value; false: there is none, and nothing is written.
    pub(crate) fn write(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) -> bool {
        let info = cx.info;
        match self {
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
            Op::Path(path) => path.write(cx.request, out),
            Op::StartTime(format) => time(info.started, format.as_ref(), out),
            Op::EmitTime(format) => time(info.ended(), format.as_ref(), out),
            Op::GrpcStatus(form) => grpc::status(cx).is_some_and(|status| form.write(status, out)),
            Op::Protocol => bytes(cx.protocol.map(str::as_bytes), out),
            Op::UpstreamProtocol => {
                let connected = info.upstream.as_ref().is_some_and(|u| u.connected);
                bytes(connected.then_some(b"HTTP/1.1"), out)
            }
            Op::Code => number(Some(u64::from(info.status.unwrap_or(0))), out),
            Op::CodeDetails { spaces } => {
                let Some(details) = &info.details else { return false };
                // envoy: white space in details would split the line
                let shown = |b: u8| if b.is_ascii_whitespace() && !spaces { b'_' } else { b };
                out.extend(details.bytes().map(shown));
                true
            }
            Op::Flags { long } => {
                info.flags.write(*long, out);
                // envoy: none is a value too
                bytes(Some(if info.flags.is_empty() { b"-" } else { b"" }), out)
            }
            Op::Count(count) => number(Some(count.of(cx)), out),
            Op::Duration { from, to, unit_ns } => {
                number(between(&info.stamps, *from, *to).map(|ns| ns / unit_ns), out)
            }
            Op::Address { which, part } => write_address(which.of(info), *part, out),
            Op::UpstreamHost => write_address(info.upstream.as_ref().map(|u| &u.address), Part::Whole, out),
            Op::UpstreamCluster => bytes(info.cluster.as_ref().map(|c| c.as_bytes()), out),
            Op::UpstreamFailure => bytes(info.failure.as_ref().map(|f| f.as_bytes()), out),
            Op::RouteName => {
                bytes(info.route_name.as_ref().map(|n| n.as_bytes()).filter(|n| !n.is_empty()), out)
            }
            Op::StreamId => bytes(cx.request.fields.get(HeaderId::XRequestId), out),
            Op::ConnectionTermination => bytes(info.connection_termination.map(str::as_bytes), out),
            Op::LocalReplyBody => bytes(Some(cx.local_reply_body), out),
            Op::Fixed(value) => bytes(value.as_deref(), out),
        }
    }
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
        // A request that could not be read has no method, and nothing else either.
        if head.method().is_empty() {
            return None;
        }
        match self {
            Name::Method => Some(head.method()),
            // A tunnel has no path.
            Name::Path => Some(head.path()).filter(|p| !p.is_empty() || !head.is_method(b"CONNECT")),
            Name::Authority => head.authority(),
            Name::Scheme => Some(head.fields.get(HeaderId::XForwardedProto).unwrap_or(b"http")),
            other => other.in_fields(&head.fields),
        }
    }
}

impl Header {
    fn write<'a>(&self, out: &mut Vec<u8>, get: impl Fn(&Name) -> Option<&'a [u8]>) -> bool {
        let value = get(&self.name).or_else(|| self.alternative.as_ref().and_then(&get));
        bytes(value.map(|v| cut(v, self.length_max)), out)
    }
}

impl Path {
    fn write(&self, head: &RequestHead, out: &mut Vec<u8>) -> bool {
        let original = Name::Known(HeaderId::XEnvoyOriginalPath).in_request(head).filter(|_| self.original);
        let path = original.or_else(|| Name::Path.in_request(head).filter(|_| self.current));
        let Some(path) = path else { return false };
        let (plain, query) = match memchr::memchr(b'?', path) {
            Some(at) => (&path[..at], Some(&path[at + 1..])),
            None => (path, None),
        };
        let value = match &self.part {
            PathPart::Whole => Some(path),
            PathPart::WithoutQuery => Some(plain),
            PathPart::Query => query,
            PathPart::Parameter(name) => {
                let Some(value) = query.and_then(|q| parameter(q, name)) else { return false };
                out.extend(decoded(value).flat_map(harmless).take(self.length_max));
                return true;
            }
        };
        bytes(value.map(|v| cut(v, self.length_max)), out)
    }
}

/// The value of the first parameter of that name, still encoded.
fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|b| *b == b'&').find_map(|pair| {
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        decoded(key).eq(name.iter().copied()).then_some(value)
    })
}

/// A decoded byte as it may stand in a line or in a field: one that may not is encoded again.
// envoy: such a value is refused where a field is added, and breaks the line of a log
fn harmless(b: u8) -> impl Iterator<Item = u8> {
    let hex = |n: u8| b"0123456789ABCDEF"[usize::from(n & 15)];
    let (text, length) = if is_value(b) { ([b, 0, 0], 1) } else { ([b'%', hex(b >> 4), hex(b)], 3) };
    text.into_iter().take(length)
}

/// Without percent-encoding; what is none stays.
fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = text;
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    std::iter::from_fn(move || {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            return Some(high * 16 + low);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(*first)
    })
}

impl Count {
    fn of(self, cx: &LogCx<'_>) -> u64 {
        let info = cx.info;
        match self {
            Count::BytesReceived => info.bytes_received,
            Count::BytesSent => info.bytes_sent,
            Count::RequestHeaders if cx.request.method().is_empty() => 0,
            Count::RequestHeaders => cx.request.byte_size() as u64,
            Count::ResponseHeaders => cx.response.map_or(0, |r| r.byte_size() as u64),
            Count::ResponseTrailers => cx.trailers.map_or(0, |t| t.0.byte_size() as u64),
            Count::UpstreamWireSent => info.upstream_wire_sent,
            Count::UpstreamWireReceived => info.upstream_wire_received,
            Count::DownstreamWireSent => info.downstream_wire_sent,
            Count::DownstreamWireReceived => info.downstream_wire_received,
            Count::Attempts => u64::from(info.attempts),
            Count::Connection => info.connection_id,
            Count::UpstreamConnection => info.upstream.as_ref().map_or(0, |u| u.connection_id),
        }
    }
}

impl Point {
    /// A stamp of turn time is early by what the turn had run: it is never before a fine one that it follows.
    fn of(self, stamps: &Stamps) -> Option<Instant> {
        let after = match self {
            Point::UpstreamRxEnd | Point::DownstreamTxBegin => stamps.upstream_first.unwrap_or(stamps.begun),
            _ => stamps.begun,
        };
        self.stamp(stamps).map(|at| at.max(after))
    }

    fn stamp(self, stamps: &Stamps) -> Option<Instant> {
        match self {
            Point::DownstreamRxBegin => Some(stamps.begun),
            Point::DownstreamRxEnd => stamps.request_last,
            Point::UpstreamTxBegin => stamps.connected,
            Point::UpstreamTxEnd => stamps.upstream_sent,
            Point::UpstreamRxBegin => stamps.upstream_first,
            Point::UpstreamRxEnd => stamps.upstream_last,
            Point::DownstreamTxBegin => stamps.first_out,
            Point::DownstreamTxEnd => stamps.flushed,
        }
    }
}

/// Nanoseconds; `None` also where the second point came first.
fn between(stamps: &Stamps, from: Point, to: Point) -> Option<u64> {
    to.of(stamps)?.0.checked_sub(from.of(stamps)?.0)
}

impl Which {
    fn of(self, info: &StreamInfo) -> Option<&SocketAddress> {
        match self {
            Which::Remote => info.remote.as_ref(),
            Which::DirectRemote => info.direct_remote.as_ref(),
            Which::Local => info.local.as_ref(),
            Which::UpstreamRemote => info.upstream.as_ref().filter(|u| u.connected).map(|u| &u.address),
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

fn time(at: WallTime, format: Option<&TimeFormat>, out: &mut Vec<u8>) -> bool {
    match format {
        None => dates::iso_millis(at, out),
        Some(format) => format.write(at, out),
    }
    true
}

fn cut(value: &[u8], length_max: usize) -> &[u8] {
    &value[..length_max.min(value.len())]
}

fn bytes(value: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    value.inspect(|v| out.extend_from_slice(v)).is_some()
}

fn number(value: Option<u64>, out: &mut Vec<u8>) -> bool {
    value.inspect(|v| out.extend_from_slice(decimal(*v, &mut [0; 20]))).is_some()
}
