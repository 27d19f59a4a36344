//! A request's head: the method, the target in its four forms, and how the body is framed.
//!
//! The framing is decided here, once. Strict: one space stands between the parts of the request line.

use selvedge_runtime::Chunk;

use super::head::{
    HeadError, HeadLimits, HeadScan, Lines, Marks, Range, chunked, content_length, read_fields,
};
use crate::http::hop_by_hop::strip_nominated;
use crate::http::message::{Fields, Framing, HeaderId, RequestHead, Version};
use crate::http::validate::{host_and_port, is_authority, is_forbidden, is_token, is_user_info};

/// A request's head, and what its framing fields said.
#[derive(Debug)]
pub struct DecodedRequest {
    pub head: RequestHead,
    pub framing: Framing,
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// Asks for another protocol, and names it in `upgrade`.
    pub upgrade: bool,
    /// Fields that `headers_with_underscores_action` took away.
    pub dropped: u32,
}

/// Parses the head that `find_head_end` delimited.
pub fn decode_request(block: Chunk, limits: &HeadLimits) -> Result<DecodedRequest, HeadError> {
    let mut lines = Lines::of(&block);
    let (_, line_end) = lines.next().ok_or(HeadError::StartLine)?;
    let line = StartLine::read(&block[..line_end], limits)?;
    let mut dropped = 0;
    let mut fields = read_fields(&block, lines, limits, &mut dropped)?;
    let marks = Marks::of(&fields);
    let framing = request_framing(&marks, &fields, limits)?;
    marks.drop_overridden_length(&mut fields);
    //= envoy: a wish for HTTP/2 on this connection is ignored
    let asks_h2c = fields.get(HeaderId::Upgrade).is_some_and(|v| v.eq_ignore_ascii_case(b"h2c"));
    if asks_h2c && marks.upgrade {
        fields.remove_named(b"http2-settings");
    }
    let upgrade = marks.upgrade && !asks_h2c;
    //= envoy: what an upgrade names passes with it
    if fields.contains(HeaderId::Connection) && !upgrade && !strip_nominated(&mut fields) {
        return Err(HeadError::Nominated);
    }
    //= rfc9112#6.1: HTTP/1.0 knows no transfer coding, so such a message may have been tampered with
    if line.version == Version::H10 {
        if !limits.accept_http_10 {
            return Err(HeadError::LowVersion);
        }
        if marks.codings > 0 {
            return Err(HeadError::TransferCoding);
        }
    }
    let keep_alive = !marks.close && (line.version == Version::H11 || marks.keep_alive);
    let mut head = RequestHead::received(line.version, fields, line.method, line.path);
    if let Some(authority) = line.authority {
        head.set_authority_received(authority);
    }
    if line.path.0 == line.path.1 && line.form == Form::Absolute {
        head.set_path(b"/");
    }
    let by_url = line.authority.is_some();
    head.take_host();
    if !by_url && !head.authority().is_none_or(is_authority) {
        return Err(HeadError::Authority);
    }
    Ok(DecodedRequest {
        head,
        framing,
        keep_alive,
        expect_continue: marks.expect_continue,
        //= rfc9110#7.8: a server ignores `upgrade` of HTTP/1.0
        upgrade: upgrade && line.version == Version::H11,
        dropped,
    })
}

/// Refuses a head as soon as its first line is over, when that line is wrong; at its first byte when it begins no method.
pub fn check_start(scan: &mut HeadScan, bytes: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    if scan.start_checked {
        return Ok(());
    }
    if !scan.has_start_line() {
        let begins = bytes.first().is_none_or(|b| METHODS.iter().any(|method| method[0] == *b));
        return if begins { Ok(()) } else { Err(HeadError::Method) };
    }
    scan.start_checked = true;
    let (_, end) = Lines::of(bytes).next().ok_or(HeadError::StartLine)?;
    StartLine::read(&bytes[..end], limits).map(|_| ())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A path, or what stands where one should.
    Origin,
    Absolute,
    Authority,
}

/// The parts of a request line, as places in it.
#[derive(Debug)]
struct StartLine {
    method: Range,
    form: Form,
    path: Range,
    authority: Option<Range>,
    version: Version,
}

impl StartLine {
    /// Reads a line without its line end. //= rfc9112#3
    fn read(line: &[u8], limits: &HeadLimits) -> Result<StartLine, HeadError> {
        let method_end = memchr::memchr(b' ', line).unwrap_or(line.len());
        let method = &line[..method_end];
        if !METHODS.contains(&method) {
            return Err(method_fault(line));
        }
        let start = (method_end + 1).min(line.len());
        let end = memchr::memchr(b' ', &line[start..]).map_or(line.len(), |n| start + n);
        let target = &line[start..end];
        let tail = line.get(end + 1..);
        if target.is_empty() || !target.iter().all(|b| (0x21..0x7f).contains(b)) {
            return Err(target_fault(line));
        }
        let connect = method == b"CONNECT";
        let version = read_version(tail)?;
        let (form, path, authority) = read_target(target, connect, method == b"OPTIONS", limits)?;
        let shift = |(a, b): Range| (start + a, start + b);
        Ok(StartLine {
            method: (0, method_end),
            form,
            path: shift(path),
            authority: authority.map(shift),
            version,
        })
    }
}

#[cold]
fn method_fault(line: &[u8]) -> HeadError {
    // envoy: a first byte that begins no method ends the matter, whatever follows
    match line.first() {
        Some(&b) if is_token(b) && line.iter().any(|&b| is_forbidden(b)) => HeadError::Characters,
        _ => HeadError::Method,
    }
}

#[cold]
fn target_fault(line: &[u8]) -> HeadError {
    if line.iter().any(|&b| is_forbidden(b)) { HeadError::Characters } else { HeadError::Target }
}

/// `HTTP/1.1` or `HTTP/1.0`. A line without a version is older than both.
fn read_version(tail: Option<&[u8]>) -> Result<Version, HeadError> {
    match tail {
        Some(b"HTTP/1.1") => Ok(Version::H11),
        Some(b"HTTP/1.0") => Ok(Version::H10),
        //= envoy: every other version counts as a low one
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(HeadError::LowVersion)
        }
        Some(b"") | None => Err(HeadError::LowVersion),
        Some(other) if other.iter().any(|&b| is_forbidden(b)) => Err(HeadError::Characters),
        Some(_) => Err(HeadError::Version),
    }
}

/// The form of the target; its path and its authority as places in it. //= rfc9112#3.2
fn read_target(
    target: &[u8],
    connect: bool,
    options: bool,
    limits: &HeadLimits,
) -> Result<(Form, Range, Option<Range>), HeadError> {
    let whole = (0, target.len());
    if connect {
        // A tunnel has no path.
        return match host_and_port(target) {
            Some(true) => Ok((Form::Authority, (0, 0), Some(whole))),
            _ => Err(HeadError::Url),
        };
    }
    if target[0] == b'/' {
        return Ok((Form::Origin, whole, None));
    }
    if target == b"*" {
        let taken = options || !limits.allow_absolute_url;
        return if taken { Ok((Form::Origin, whole, None)) } else { Err(HeadError::Url) };
    }
    let scheme = memchr::memmem::find(target, b"://").ok_or(HeadError::Target)?;
    if scheme == 0 || !target[..scheme].iter().all(u8::is_ascii_alphabetic) {
        return Err(HeadError::Target);
    }
    if !limits.allow_absolute_url {
        return Ok((Form::Origin, whole, None));
    }
    if ![&b"http"[..], b"https"].iter().any(|s| target[..scheme].eq_ignore_ascii_case(s)) {
        return Err(HeadError::Scheme);
    }
    let start = scheme + 3;
    let rest = &target[start..];
    let end = start + rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = &target[start..end];
    //= envoy: user and password are dropped
    let host = match memchr::memrchr(b'@', authority) {
        Some(n) if is_user_info(&authority[..n]) => start + n + 1,
        Some(_) => return Err(HeadError::Url),
        None => start,
    };
    host_and_port(&target[host..end]).ok_or(HeadError::Url)?;
    if target.get(end) == Some(&b'#') {
        return Err(HeadError::Target);
    }
    Ok((Form::Absolute, (end, target.len()), Some((host, end))))
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
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"QUERY",
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
    use crate::http::h1::head::find_head_end;

    fn request(text: &str) -> Result<DecodedRequest, HeadError> {
        let limits = HeadLimits::default();
        let end = find_head_end(&mut HeadScan::default(), text.as_bytes(), &limits)?.expect("a whole head");
        decode_request(Chunk::copy_from(&text.as_bytes()[..end]), &limits)
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
            ("GET  / HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET /\r\n\r\n", HeadError::LowVersion),
            ("GET\r\n\r\n", HeadError::Target),
            ("get / HTTP/1.1\r\n\r\n", HeadError::Method),
            ("GET x HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET /\x01 HTTP/1.1\r\n\r\n", HeadError::Characters),
            ("GET / HTTP/1.2\r\n\r\n", HeadError::LowVersion),
            ("GET / HTTP/1.11\r\n\r\n", HeadError::Version),
            ("GET / http/1.1\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.1 \r\n\r\n", HeadError::Version),
            ("GET * HTTP/1.1\r\n\r\n", HeadError::Url),
            ("GET ftp://a HTTP/1.1\r\n\r\n", HeadError::Scheme),
            ("GET http:///x HTTP/1.1\r\n\r\n", HeadError::Url),
            ("GET http://a#x HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET http:/a HTTP/1.1\r\n\r\n", HeadError::Target),
            ("CONNECT a HTTP/1.1\r\n\r\n", HeadError::Url),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HeadError::Authority),
            ("GET / HTTP/1.0\r\n\r\n", HeadError::LowVersion),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", HeadError::BareLineFeed),
            ("GET / HTTP/1.1\rx\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.1\r\na: b\rc\r\n\r\n", HeadError::BareCarriageReturn),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", HeadError::FieldName),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", HeadError::FieldName),
            ("GET / HTTP/1.1\r\nab\r\n\r\n", HeadError::FieldName),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", HeadError::Folded),
            ("GET / HTTP/1.1\r\na: b\0c\r\n\r\n", HeadError::Characters),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", HeadError::ContentLength),
            ("GET / HTTP/1.0\r\nConnection: :path\r\n\r\n", HeadError::Nominated),
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
}
