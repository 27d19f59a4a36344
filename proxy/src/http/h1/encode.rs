//! Messages to bytes. Framing fields are written from the decision, never copied; names leave in lower case.

use selvedge_runtime::{BlockMut, Budget, Chunk, Chunks};

use crate::http::message::{Fields, Framing, HeaderId, RequestHead, ResponseHead, Trailers, Version};

/// A request as it goes upstream.
pub fn encode_request(head: &RequestHead, framing: Framing, upgrade: bool, out: &mut BlockMut) {
    out.extend_from_slice(head.method());
    out.push(b' ');
    if head.is_method(b"CONNECT") {
        out.extend_from_slice(head.authority().unwrap_or_default());
    } else {
        out.extend_from_slice(head.path());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(head.authority().unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    encode_fields(&head.fields, out);
    if framing == Framing::Chunked && !upgrade {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// A response as it goes downstream, in the version that the client speaks.
pub fn encode_response(head: &ResponseHead, version: Version, framing: Framing, out: &mut BlockMut) {
    out.extend_from_slice(version.text().as_bytes());
    out.push(b' ');
    out.extend_from_slice(&digits3(head.status));
    out.push(b' ');
    out.extend_from_slice(reason(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    encode_fields(&head.fields, out);
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(0) if !head.fields.contains(HeaderId::ContentLength) => {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn digits3(status: u16) -> [u8; 3] {
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    [digit(status / 100), digit(status / 10), digit(status)]
}

/// Every field but `transfer-encoding`, which belongs to the connection.
fn encode_fields(fields: &Fields, out: &mut BlockMut) {
    for (id, name, value) in fields.iter() {
        if id == HeaderId::TransferEncoding {
            continue;
        }
        if id.is_exact() {
            out.extend_from_slice(id.name().as_bytes());
        } else {
            let start = out.len();
            out.extend_from_slice(name);
            out[start..].make_ascii_lowercase();
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

/// How the client learns where a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framed {
    /// What the head says.
    pub named: Framing,
    /// How the body is written.
    pub body: Framing,
}

/// Decides how a response is framed for the client: `body` as the upstream framed it, `old` where the client speaks
/// HTTP/1.0.
//= envoy: StreamEncoderImpl::encodeHeadersBase
pub fn frame_response(head: &mut ResponseHead, body: Framing, to_head: bool, old: bool) -> Framed {
    let body = if old && body == Framing::Chunked { Framing::UntilClose } else { body };
    let mut named = body;
    if head.status < 200 || head.status == 204 {
        head.fields.remove(HeaderId::ContentLength);
    } else if body == Framing::None && head.status != 304 && !head.fields.contains(HeaderId::ContentLength) {
        // A response to HEAD has no body to frame, and says how one would be.
        named = match (to_head, old) {
            (true, true) => Framing::UntilClose,
            (true, false) => Framing::Chunked,
            (false, _) => Framing::Length(0),
        };
    }
    Framed { named, body }
}

/// Body bytes in the framing of the message they go into.
pub fn frame(framing: Framing, data: Chunk, out: &mut Chunks, budget: &Budget) {
    if framing != Framing::Chunked {
        out.push(data);
        return;
    }
    if data.is_empty() {
        return;
    }
    let mut size = BlockMut::with_capacity(18, budget);
    encode_chunk_size(data.len(), &mut size);
    out.push(size.freeze());
    out.push(data);
    out.push(Chunk::from_static(b"\r\n"));
}

/// The end of a chunked body.
pub fn last_chunk(trailers: Option<&Trailers>, out: &mut Chunks, budget: &Budget) {
    if trailers.is_none() {
        out.push(Chunk::from_static(b"0\r\n\r\n"));
        return;
    }
    let mut block = BlockMut::with_capacity(256, budget);
    encode_last_chunk(trailers, &mut block);
    out.push(block.freeze());
}

/// The line before a chunk's data.
pub fn encode_chunk_size(len: usize, out: &mut BlockMut) {
    let mut text = [0u8; 18];
    let mut at = 16;
    let mut left = len;
    loop {
        at -= 1;
        text[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    text[16..].copy_from_slice(b"\r\n");
    out.extend_from_slice(&text[at..]);
}

/// The last chunk and the trailers.
pub fn encode_last_chunk(trailers: Option<&Trailers>, out: &mut BlockMut) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        encode_fields(&trailers.0, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Decimal digits of a number, into a buffer of the caller.
pub fn decimal(mut n: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(n % 10).unwrap_or(0);
        n /= 10;
        if n == 0 {
            return &buffer[at..];
        }
    }
}

/// The reason phrase of a status, as Envoy writes it. Unknown ones are `Unknown`.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        //= envoy: CodeUtility::toString
        599 => "Last Unassigned Server Error Code",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_leave_in_lower_case_with_our_framing() {
        let mut head = RequestHead::new(b"GET", b"a.b", b"/x");
        head.fields.append_named(b"X-Mixed", b"Value");
        head.fields.append(HeaderId::TransferEncoding, b"smuggled");
        let mut out = BlockMut::unbudgeted(64);
        encode_request(&head, Framing::Chunked, false, &mut out);
        assert_eq!(
            &*out,
            b"GET /x HTTP/1.1\r\nhost: a.b\r\nx-mixed: Value\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let mut out = BlockMut::unbudgeted(64);
        for n in [0usize, 15, 16, 4096, 0xabc_def0] {
            encode_chunk_size(n, &mut out);
        }
        assert_eq!(&*out, b"0\r\nf\r\n10\r\n1000\r\nabcdef0\r\n");
        assert_eq!(decimal(u64::MAX, &mut [0; 20]), b"18446744073709551615");
    }
}
