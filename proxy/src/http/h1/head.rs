//! Heads to messages: finds the end of a head as it arrives, then parses it once, strictly.
//!
//! The framing of the body is decided here, once. Requests and responses are read by the same code: an upstream
//! is an attacker too. Opens nothing, keeps nothing; bytes in, a head or one exact cause out.

use selvedge_runtime::Chunk;

use crate::http::message::{Fields, Framing, HeaderId, RequestHead, ResponseHead, Version};

/// Bounds of a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes from the start line to the empty line. envoy: max_request_headers_kb
    pub bytes_max: usize,
    /// envoy: max_headers_count
    pub fields_max: usize,
    /// envoy: http_protocol_options.accept_http_10
    pub accept_http_10: bool,
    /// envoy: http_protocol_options.allow_chunked_length
    pub allow_chunked_length: bool,
    /// envoy: http_protocol_options.allow_absolute_url
    pub allow_absolute_url: bool,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            bytes_max: 60 * 1024,
            fields_max: 100,
            accept_http_10: false,
            allow_chunked_length: false,
            allow_absolute_url: true,
        }
    }
}

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    TooLarge,
    TooManyFields,
    StartLine,
    Method,
    Target,
    Version,
    LowVersion,
    BareLineFeed,
    BareCarriageReturn,
    FieldName,
    FieldValue,
    Folded,
    ContentLength,
    LengthAndCoding,
    TransferCoding,
    Status,
    UnexpectedUpgrade,
}

impl HeadError {
    /// The status, its body and the response code details of the answer to a request with this fault.
    //= envoy: response code details, observed on 1.40.0
    pub fn answer(self) -> (u16, &'static str, &'static str) {
        match self {
            HeadError::TooLarge => (431, "Request Header Fields Too Large", "http1.headers_too_large"),
            HeadError::TooManyFields => (431, "Request Header Fields Too Large", "http1.too_many_headers"),
            HeadError::LowVersion => (426, "Upgrade Required", "low_version"),
            HeadError::TransferCoding => (501, "Not Implemented", "http1.invalid_transfer_encoding"),
            HeadError::LengthAndCoding => {
                (400, "Bad Request", "http1.content_length_and_chunked_not_allowed")
            }
            HeadError::FieldName | HeadError::FieldValue => (400, "Bad Request", "http1.invalid_characters"),
            HeadError::Target => (400, "Bad Request", "http1.invalid_url"),
            _ => (400, "Bad Request", "http1.codec_error"),
        }
    }
}

/// Where the search for the end of a head goes on when more bytes have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScan {
    at: usize,
}

/// The length of the head, with its empty line; `None`: not all of it is here.
pub fn find_head_end(
    scan: &mut HeadScan,
    bytes: &[u8],
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    while let Some(n) = memchr::memchr(b'\n', &bytes[scan.at..]) {
        let end = scan.at + n + 1;
        if end > limits.bytes_max {
            return Err(HeadError::TooLarge);
        }
        //= rfc9112#2.2: a recipient may take a bare LF as a line end; we do not
        if end < 2 || bytes[end - 2] != b'\r' {
            return Err(HeadError::BareLineFeed);
        }
        if end >= 4 && &bytes[end - 4..end] == b"\r\n\r\n" {
            return Ok(Some(end));
        }
        scan.at = end;
    }
    if bytes.len() > limits.bytes_max { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// How many bytes of empty lines stand before a request. //= rfc9112#2.2
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    at
}

/// A request's head, and what its framing fields said.
#[derive(Debug)]
pub struct DecodedRequest {
    pub head: RequestHead,
    pub framing: Framing,
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// Asks for another protocol, and names it in `upgrade`.
    pub upgrade: bool,
}

/// A response's head, and what its framing fields said.
#[derive(Debug)]
pub struct DecodedResponse {
    pub head: ResponseHead,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// What of the request decides how its response is framed.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestKind {
    pub head: bool,
    pub upgrade: bool,
}

/// Lines of a head: each without its CR LF, as a range.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Lines<'_> {
    fn next(&mut self) -> Option<(usize, usize)> {
        let start = self.at;
        let end = start + memchr::memchr(b'\n', &self.bytes[start..])?;
        self.at = end + 1;
        (end > start + 1).then_some((start, end - 1))
    }
}

/// Parses the head that `find_head_end` delimited.
pub fn decode_request(block: Chunk, limits: &HeadLimits) -> Result<DecodedRequest, HeadError> {
    let (start_line, fields) = read_fields(block, limits)?;
    let line = fields.received_bytes(start_line);
    let mut parts = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::StartLine);
    };
    if !METHODS.contains(&method) {
        return Err(HeadError::Method);
    }
    let version = match version {
        b"HTTP/1.1" => Version::H11,
        b"HTTP/1.0" => Version::H10,
        _ => return Err(HeadError::Version),
    };
    if target.is_empty() || !target.iter().all(|b| (0x21..0x7f).contains(b)) {
        return Err(HeadError::Target);
    }
    let connect = method == b"CONNECT";
    let method_at = (start_line.0, start_line.0 + method.len());
    let target_at = (method_at.1 + 1, method_at.1 + 1 + target.len());
    let form = target_form(target, connect, limits)?;
    let marks = Marks::of(&fields);
    let framing = request_framing(&marks, &fields, limits)?;
    if version == Version::H10 && !limits.accept_http_10 {
        return Err(HeadError::LowVersion);
    }
    let keep_alive = if version == Version::H11 { !marks.close } else { marks.keep_alive };
    let mut head = RequestHead::received(version, fields, method_at, target_at);
    match form {
        Form::Origin => {}
        Form::Absolute { authority, path } => {
            let shift = |(a, b): (usize, usize)| (target_at.0 + a, target_at.0 + b);
            head.set_authority_received(shift(authority));
            if path.0 == path.1 { head.set_path(b"/") } else { head.set_path_received(shift(path)) }
        }
        Form::Authority => {
            head.set_authority_received(target_at);
        }
    }
    head.take_host();
    let upgrade = marks.upgrade && version == Version::H11;
    let expect_continue =
        head.fields.get(HeaderId::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    Ok(DecodedRequest { head, framing, keep_alive, expect_continue, upgrade })
}

enum Form {
    Origin,
    Absolute { authority: (usize, usize), path: (usize, usize) },
    Authority,
}

//= rfc9112#3.2
fn target_form(target: &[u8], connect: bool, limits: &HeadLimits) -> Result<Form, HeadError> {
    if connect {
        return Ok(Form::Authority);
    }
    if target[0] == b'/' || target == b"*" {
        return Ok(Form::Origin);
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|s| target.len() > s.len() && target[..s.len()].eq_ignore_ascii_case(s));
    match scheme {
        Some(scheme) if limits.allow_absolute_url => {
            let rest = &target[scheme.len()..];
            let authority = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
            if authority == 0 {
                return Err(HeadError::Target);
            }
            let split = scheme.len() + authority;
            Ok(Form::Absolute { authority: (scheme.len(), split), path: (split, target.len()) })
        }
        _ => Err(HeadError::Target),
    }
}

/// Parses the head of a response that `find_head_end` delimited.
pub fn decode_response(
    block: Chunk,
    request: RequestKind,
    limits: &HeadLimits,
) -> Result<DecodedResponse, HeadError> {
    let (start_line, fields) = read_fields(block, limits)?;
    let line = fields.received_bytes(start_line);
    let version = match line.get(..9) {
        //= envoy: a response that says HTTP/2.0 is read as 1.1
        Some(b"HTTP/1.1 " | b"HTTP/2.0 ") => Version::H11,
        Some(b"HTTP/1.0 ") => Version::H10,
        _ => return Err(HeadError::Version),
    };
    let digits = line.get(9..12).ok_or(HeadError::Status)?;
    let separated = line.len() == 12 || line[12] == b' ';
    if !separated || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Status);
    }
    let status = digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0'));
    if !(100..=599).contains(&status) {
        return Err(HeadError::Status);
    }
    let marks = Marks::of(&fields);
    let framing = response_framing(status, request, &marks, &fields, limits)?;
    let keep_alive = if version == Version::H11 { !marks.close } else { marks.keep_alive };
    Ok(DecodedResponse { head: ResponseHead { version, status, fields }, framing, keep_alive })
}

/// What the connection's own fields say.
#[derive(Debug, Default)]
struct Marks {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    lengths: u32,
    codings: u32,
}

impl Marks {
    fn of(fields: &Fields) -> Marks {
        let mut marks = Marks::default();
        let mut names_upgrade = false;
        for (id, _, value) in fields.iter() {
            match id {
                HeaderId::Connection => {
                    for token in value.split(|&b| b == b',') {
                        let token = token.trim_ascii();
                        marks.close |= token.eq_ignore_ascii_case(b"close");
                        marks.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                        marks.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                //= envoy: shouldCloseConnection
                HeaderId::ProxyConnection => marks.close |= value.trim_ascii().eq_ignore_ascii_case(b"close"),
                HeaderId::Upgrade => names_upgrade = true,
                HeaderId::ContentLength => marks.lengths += 1,
                HeaderId::TransferEncoding => marks.codings += 1,
                _ => {}
            }
        }
        marks.upgrade &= names_upgrade;
        marks
    }
}

//= rfc9112#6.3
fn request_framing(marks: &Marks, fields: &Fields, limits: &HeadLimits) -> Result<Framing, HeadError> {
    match (marks.codings, marks.lengths) {
        (0, 0) => Ok(Framing::None),
        (0, _) => Ok(match content_length(fields)? {
            0 => Framing::None,
            n => Framing::Length(n),
        }),
        (_, 1..) if !limits.allow_chunked_length => Err(HeadError::LengthAndCoding),
        _ => chunked(fields).map(|()| Framing::Chunked),
    }
}

//= rfc9112#6.3
fn response_framing(
    status: u16,
    request: RequestKind,
    marks: &Marks,
    fields: &Fields,
    limits: &HeadLimits,
) -> Result<Framing, HeadError> {
    if status == 101 {
        // Only this request's own upgrade may switch the connection.
        return if request.upgrade { Ok(Framing::UntilClose) } else { Err(HeadError::UnexpectedUpgrade) };
    }
    let framing = match (marks.codings, marks.lengths) {
        (0, 0) => Framing::UntilClose,
        (0, _) => Framing::Length(content_length(fields)?),
        (_, 1..) if !limits.allow_chunked_length => return Err(HeadError::LengthAndCoding),
        _ => chunked(fields).map(|()| Framing::Chunked)?,
    };
    let bodiless = request.head || status < 200 || status == 204 || status == 304;
    Ok(match framing {
        _ if bodiless => Framing::None,
        Framing::Length(0) => Framing::None,
        other => other,
    })
}

/// One `Content-Length`, of digits only. //= rfc9110#8.6
fn content_length(fields: &Fields) -> Result<u64, HeadError> {
    let mut all = fields.all(HeaderId::ContentLength);
    let (Some(value), None) = (all.next(), all.next()) else { return Err(HeadError::ContentLength) };
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLength);
    }
    Ok(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// One `Transfer-Encoding`, which is `chunked` and nothing else. //= rfc9112#6.1
fn chunked(fields: &Fields) -> Result<(), HeadError> {
    let mut all = fields.all(HeaderId::TransferEncoding);
    match (all.next(), all.next()) {
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(HeadError::TransferCoding),
    }
}

/// Reads the lines: the range of the start line, and the fields.
fn read_fields(block: Chunk, limits: &HeadLimits) -> Result<((usize, usize), Fields), HeadError> {
    let view = block.clone();
    let mut lines = Lines { bytes: &view, at: 0 };
    let start_line = lines.next().ok_or(HeadError::StartLine)?;
    if view[start_line.0..start_line.1].contains(&b'\r') {
        return Err(HeadError::BareCarriageReturn);
    }
    let mut fields = Fields::new(block);
    while let Some((start, end)) = lines.next() {
        read_field(&mut fields, &view, start, end)?;
        if fields.len() > limits.fields_max {
            return Err(HeadError::TooManyFields);
        }
    }
    Ok((start_line, fields))
}

/// One field line. //= rfc9112#5
pub(super) fn read_field(
    fields: &mut Fields,
    bytes: &[u8],
    start: usize,
    end: usize,
) -> Result<(), HeadError> {
    let line = &bytes[start..end];
    if matches!(line[0], b' ' | b'\t') {
        return Err(HeadError::Folded); //= rfc9112#5.2
    }
    let colon = memchr::memchr(b':', line).ok_or(HeadError::FieldName)?;
    if colon == 0 || !line[..colon].iter().all(|&b| is_token(b)) {
        return Err(HeadError::FieldName);
    }
    let mut value = (colon + 1, line.len());
    while value.0 < value.1 && matches!(line[value.0], b' ' | b'\t') {
        value.0 += 1;
    }
    while value.1 > value.0 && matches!(line[value.1 - 1], b' ' | b'\t') {
        value.1 -= 1;
    }
    //= rfc9110#5.5
    let clean = line[value.0..value.1].iter().all(|&b| (b >= b' ' && b != 0x7f) || b == b'\t');
    if !clean {
        return Err(HeadError::FieldValue);
    }
    fields.push_received((start, start + colon), (start + value.0, start + value.1));
    Ok(())
}

/// Whether a byte may stand in a field name. //= rfc9110#5.6.2
pub(crate) fn is_token(b: u8) -> bool {
    TOKEN[usize::from(b)]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        table[b] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        b += 1;
    }
    table
};

/// Methods that are taken. envoy: http_protocol_options.allow_custom_methods is off
const METHODS: &[&[u8]] = &[
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"PATCH",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"M-SEARCH",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<DecodedRequest, HeadError> {
        let limits = HeadLimits::default();
        let end = find_head_end(&mut HeadScan::default(), text.as_bytes(), &limits)?.expect("a whole head");
        decode_request(Chunk::copy_from(&text.as_bytes()[..end]), &limits)
    }

    fn response(text: &str, kind: RequestKind) -> Result<DecodedResponse, HeadError> {
        let limits = HeadLimits::default();
        let end = find_head_end(&mut HeadScan::default(), text.as_bytes(), &limits)?.expect("a whole head");
        decode_response(Chunk::copy_from(&text.as_bytes()[..end]), kind, &limits)
    }

    #[test]
    fn good_requests() {
        let r =
            request("POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-Y:  z \r\n\r\n").expect("good");
        assert_eq!(
            (r.head.method(), r.head.path(), r.head.authority()),
            (&b"POST"[..], &b"/a?b"[..], Some(&b"x"[..]))
        );
        assert_eq!((r.framing, r.keep_alive), (Framing::Length(3), true));
        assert_eq!((r.head.fields.get_named(b"x-y"), r.head.fields.len()), (Some(&b"z"[..]), 2));
        let r =
            request("GET http://h:1/p?q HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n").expect("good");
        assert_eq!(
            (r.head.authority(), r.head.path(), r.keep_alive),
            (Some(&b"h:1"[..]), &b"/p?q"[..], false)
        );
        let r = request("GET http://h HTTP/1.1\r\n\r\n").expect("good");
        assert_eq!((r.head.authority(), r.head.path()), (Some(&b"h"[..]), &b"/"[..]));
        let r = request("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\n")
            .expect("good");
        assert_eq!((r.head.authority(), r.upgrade), (Some(&b"a,b"[..]), true));
        let r = request("CONNECT h:80 HTTP/1.1\r\nHost: z\r\n\r\n").expect("good");
        assert_eq!(r.head.authority(), Some(&b"h:80"[..]));
    }

    #[test]
    fn bad_requests() {
        let cases = [
            ("GET  / HTTP/1.1\r\n\r\n", HeadError::StartLine),
            ("GET /\r\n\r\n", HeadError::StartLine),
            ("get / HTTP/1.1\r\n\r\n", HeadError::Method),
            ("GET x HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET /\x01 HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET / HTTP/1.2\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.0\r\n\r\n", HeadError::LowVersion),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", HeadError::BareLineFeed),
            ("GET / HTTP/1.1\rx\r\n\r\n", HeadError::BareCarriageReturn),
            ("GET / HTTP/1.1\r\na: b\rc\r\n\r\n", HeadError::FieldValue),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", HeadError::FieldName),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", HeadError::FieldName),
            ("GET / HTTP/1.1\r\nab\r\n\r\n", HeadError::FieldName),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", HeadError::Folded),
            ("GET / HTTP/1.1\r\na: b\0c\r\n\r\n", HeadError::FieldValue),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n", HeadError::ContentLength),
            (
                "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::LengthAndCoding,
            ),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HeadError::TransferCoding),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::TransferCoding,
            ),
        ];
        for (text, error) in cases {
            assert_eq!(request(text).expect_err(text), error, "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(request(&many).expect_err("too many"), HeadError::TooManyFields);
        let long = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(61 * 1024));
        let scanned = find_head_end(&mut HeadScan::default(), long.as_bytes(), &HeadLimits::default());
        assert_eq!(scanned, Err(HeadError::TooLarge));
    }

    #[test]
    fn framing_of_responses() {
        let get = RequestKind::default();
        let framing = |text: &str, kind| response(text, kind).map(|r| (r.framing, r.keep_alive));
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", get),
            Ok((Framing::Length(5), true))
        );
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", get), Ok((Framing::UntilClose, true)));
        assert_eq!(framing("HTTP/1.1 204\r\n\r\n", get), Ok((Framing::None, true)));
        assert_eq!(framing("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", get), Ok((Framing::None, false)));
        let head = RequestKind { head: true, upgrade: false };
        assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", head), Ok((Framing::None, true)));
        assert_eq!(framing("HTTP/1.1 101 Go\r\n\r\n", get), Err(HeadError::UnexpectedUpgrade));
        assert_eq!(framing("HTTP/1.1 2000 OK\r\n\r\n", get), Err(HeadError::Status));
        assert_eq!(framing("HTTP/1.1 600 OK\r\n\r\n", get), Err(HeadError::Status));
        assert_eq!(framing("ICY 200 OK\r\n\r\n", get), Err(HeadError::Version));
    }

    #[test]
    fn a_head_is_found_byte_by_byte() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut scan = HeadScan::default();
        for n in 0..28 {
            let found = find_head_end(&mut scan, &text[..n], &HeadLimits::default()).expect("clean");
            assert_eq!(found, (n >= 27).then_some(27), "{n} bytes");
        }
    }
}
