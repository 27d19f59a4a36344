//! Heads as they arrive: finds the end of one, then reads its lines, strictly.
//!
//! Requests and responses are read by the same code: an upstream is an attacker too. Opens nothing, keeps nothing;
//! bytes in, fields or one exact cause out. What a start line may be is not decided here.

use selvedge_runtime::{BlockMut, Budget, Chunk};

use crate::http::message::{Fields, HeaderId};
use crate::http::validate::{is_forbidden, is_token, is_value};

/// A place in a head: its first byte, and the one behind its last.
pub(super) type Range = (usize, usize);

/// Bounds of a head, and what the configuration lets pass.
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
    pub underscores: Underscores,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            bytes_max: 60 * 1024,
            fields_max: 100,
            accept_http_10: false,
            allow_chunked_length: false,
            allow_absolute_url: true,
            underscores: Underscores::Allow,
        }
    }
}

/// What becomes of field names with underscores. envoy: headers_with_underscores_action
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The field is dropped.
    Drop,
}

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    TooLarge,
    TooManyFields,
    StartLine,
    Method,
    Target,
    Url,
    Scheme,
    Authority,
    Version,
    LowVersion,
    BareLineFeed,
    BareCarriageReturn,
    /// A control character, wherever.
    Characters,
    FieldName,
    Underscore,
    Folded,
    ContentLength,
    LengthAndCoding,
    TransferCoding,
    /// `Connection` names what no client may remove.
    Nominated,
    Status,
    /// A response that has no body says how long it is.
    BodyWithoutPlace,
    UnexpectedUpgrade,
}

impl HeadError {
    /// The status, its body and the response code details of the answer to a request with this fault.
    //= envoy: response code details, observed on 1.40.0
    pub fn answer(self) -> (u16, &'static str, &'static str) {
        let bad = |details| (400, "Bad Request", details);
        match self {
            HeadError::TooLarge => (431, "Request Header Fields Too Large", "http1.headers_too_large"),
            HeadError::TooManyFields => (431, "Request Header Fields Too Large", "http1.too_many_headers"),
            HeadError::LowVersion => (426, "Upgrade Required", "low_version"),
            HeadError::TransferCoding => (501, "Not Implemented", "http1.invalid_transfer_encoding"),
            HeadError::LengthAndCoding => bad("http1.content_length_and_chunked_not_allowed"),
            HeadError::Characters => bad("http1.invalid_characters"),
            HeadError::Nominated => bad("http1.connection_header_rejected"),
            HeadError::Underscore => bad("http1.unexpected_underscore"),
            HeadError::Url => bad("http1.invalid_url"),
            HeadError::Scheme => bad("http1.invalid_scheme"),
            HeadError::Authority => bad("http.invalid_authority"),
            _ => bad("http1.codec_error"),
        }
    }

    /// Whether the head breaks the grammar, rather than asks for what is not served.
    pub fn is_grammar(self) -> bool {
        !matches!(self, HeadError::LowVersion | HeadError::Authority)
    }
}

/// Where the search for the end of a head goes on when more bytes have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScan {
    /// Where the line begins that is not over yet.
    line: usize,
    /// Where bytes begin that no search has seen.
    fresh: usize,
    pub(super) start_checked: bool,
}

impl HeadScan {
    /// Whether the start line is over.
    pub(super) fn has_start_line(self) -> bool {
        self.line > 0
    }
}

/// The length of the head, with its empty line; `None`: not all of it is here. Looks at each byte once.
pub fn find_head_end(
    scan: &mut HeadScan,
    bytes: &[u8],
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    while let Some(n) = memchr::memchr(b'\n', &bytes[scan.fresh..]) {
        let end = scan.fresh + n + 1;
        if end > limits.bytes_max {
            return Err(HeadError::TooLarge);
        }
        //= rfc9112#2.2: a recipient may take a bare LF as a line end; we do not
        if end < 2 || bytes[end - 2] != b'\r' {
            return Err(HeadError::BareLineFeed);
        }
        if end == scan.line + 2 {
            return Ok(Some(end));
        }
        (scan.line, scan.fresh) = (end, end);
    }
    scan.fresh = bytes.len();
    if bytes.len() > limits.bytes_max { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// Gathers a response's head that comes in pieces, in one block.
#[derive(Debug, Default)]
pub struct HeadGather {
    scan: HeadScan,
    partial: Option<BlockMut>,
}

impl HeadGather {
    /// The length of the head once it is whole: `bytes` begin with it then, and the next head may follow.
    pub fn end(
        &mut self,
        bytes: &mut Chunk,
        limits: &HeadLimits,
        budget: &Budget,
    ) -> Result<Option<usize>, HeadError> {
        let Some(mut block) = self.partial.take() else {
            let end = find_head_end(&mut self.scan, bytes, limits)?;
            if end.is_some() {
                self.scan = HeadScan::default();
            } else if !bytes.is_empty() {
                let mut block = BlockMut::with_capacity(bytes.len() * 2, budget);
                block.extend_from_slice(bytes);
                self.keep(block)?;
            }
            return Ok(end);
        };
        block.extend_from_slice(bytes);
        let end = find_head_end(&mut self.scan, &block, limits)?;
        if end.is_none() {
            self.keep(block)?;
        } else {
            self.scan = HeadScan::default();
            *bytes = block.freeze();
        }
        Ok(end)
    }

    /// Waits for more, unless this is no head whatever follows.
    fn keep(&mut self, block: BlockMut) -> Result<(), HeadError> {
        if !block.iter().zip(b"HTTP/").all(|(b, expected)| b == expected) {
            return Err(HeadError::Version);
        }
        self.partial = Some(block);
        Ok(())
    }

    /// Whether a part of a head is here.
    pub fn has_begun(&self) -> bool {
        self.partial.is_some()
    }
}

/// Empty lines that stand before a request, in whatever pieces they come. //= rfc9112#2.2
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyLines {
    /// A line has begun with the last byte.
    half: bool,
}

impl EmptyLines {
    /// How many bytes of them stand first.
    pub fn skip(&mut self, bytes: &[u8]) -> Result<usize, HeadError> {
        let mut at = 0;
        while let Some(&b) = bytes.get(at) {
            match (self.half, b) {
                (false, b'\r') => self.half = true,
                (true, b'\n') => self.half = false,
                (true, _) => return Err(HeadError::BareCarriageReturn),
                (false, _) => break,
            }
            at += 1;
        }
        Ok(at)
    }
}

/// Lines of a head: each without its CR LF, as a range.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Lines<'a> {
        Lines { bytes, at: 0 }
    }

    pub(super) fn next(&mut self) -> Option<Range> {
        let start = self.at;
        let end = start + memchr::memchr(b'\n', &self.bytes[start..])?;
        self.at = end + 1;
        (end > start + 1).then_some((start, end - 1))
    }
}

/// What the connection's own fields say.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    pub(super) expect_continue: bool,
    pub(super) lengths: u32,
    pub(super) codings: u32,
}

impl Marks {
    pub(super) fn of(fields: &Fields) -> Marks {
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
                //= envoy: the old name means the same
                HeaderId::ProxyConnection => marks.close |= value.trim_ascii().eq_ignore_ascii_case(b"close"),
                HeaderId::Upgrade => names_upgrade = true,
                HeaderId::Expect => marks.expect_continue = value.eq_ignore_ascii_case(b"100-continue"),
                HeaderId::ContentLength => marks.lengths += 1,
                HeaderId::TransferEncoding => marks.codings += 1,
                _ => {}
            }
        }
        marks.upgrade &= names_upgrade;
        marks
    }

    /// A length beside a transfer coding, where that is let pass, says nothing and goes no further.
    //= rfc9112#6.3: such a field is removed before the message is forwarded
    pub(super) fn drop_overridden_length(&self, fields: &mut Fields) {
        if self.codings > 0 && self.lengths > 0 {
            fields.remove(HeaderId::ContentLength);
        }
    }
}

/// One `Content-Length`, of digits only. //= rfc9110#8.6
pub(super) fn content_length(fields: &Fields) -> Result<u64, HeadError> {
    let mut all = fields.all(HeaderId::ContentLength);
    let (Some(value), None) = (all.next(), all.next()) else { return Err(HeadError::ContentLength) };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLength);
    }
    let number = value.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')));
    number.ok_or(HeadError::ContentLength)
}

/// One `Transfer-Encoding`, which is `chunked` and nothing else. //= rfc9112#6.1
pub(super) fn chunked(fields: &Fields) -> Result<(), HeadError> {
    let mut all = fields.all(HeaderId::TransferEncoding);
    match (all.next(), all.next()) {
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(HeadError::TransferCoding),
    }
}

/// Reads the lines behind the start line. Those that the configuration drops are counted.
pub(super) fn read_fields(
    block: &Chunk,
    mut lines: Lines<'_>,
    limits: &HeadLimits,
    dropped: &mut u32,
) -> Result<Fields, HeadError> {
    let mut fields = Fields::new(block.clone());
    while let Some((start, end)) = lines.next() {
        let (id, name, value) = split_field(block, start, end)?;
        if limits.underscores != Underscores::Allow && block[name.0..name.1].contains(&b'_') {
            if limits.underscores == Underscores::Reject {
                return Err(HeadError::Underscore);
            }
            *dropped += 1;
            continue;
        }
        fields.push_received(id, name, value);
        if fields.len() > limits.fields_max {
            return Err(HeadError::TooManyFields);
        }
    }
    Ok(fields)
}

/// The name, known or not, and the value of one field line. //= rfc9112#5
pub(super) fn split_field(
    bytes: &[u8],
    start: usize,
    end: usize,
) -> Result<(HeaderId, Range, Range), HeadError> {
    let line = &bytes[start..end];
    let colon = memchr::memchr(b':', line).unwrap_or(0);
    let id = HeaderId::of(&line[..colon]);
    // The letters of a known name need no second look.
    if colon == 0 || (!id.is_exact() && !line[..colon].iter().all(|&b| is_token(b))) {
        return Err(name_fault(line));
    }
    let mut value = (colon + 1, line.len());
    while value.0 < value.1 && matches!(line[value.0], b' ' | b'\t') {
        value.0 += 1;
    }
    while value.1 > value.0 && matches!(line[value.1 - 1], b' ' | b'\t') {
        value.1 -= 1;
    }
    // Every byte is looked at, whatever came before: the loop runs on many bytes at once.
    if !line[value.0..value.1].iter().fold(true, |clean, &b| clean & is_value(b)) {
        let forbidden = line[value.0..value.1].iter().any(|&b| is_forbidden(b));
        return Err(if forbidden { HeadError::Characters } else { HeadError::BareCarriageReturn });
    }
    Ok((id, (start, start + colon), (start + value.0, start + value.1)))
}

#[cold]
fn name_fault(line: &[u8]) -> HeadError {
    match line.first() {
        _ if line.iter().any(|&b| is_forbidden(b)) => HeadError::Characters,
        Some(b' ' | b'\t') => HeadError::Folded, //= rfc9112#5.2
        _ => HeadError::FieldName,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_gathered_from_any_pieces() {
        let text = b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\na: b\r\n\r\nrest";
        let budget = Budget::new(1 << 20);
        for step in 1..text.len() {
            let (mut gather, mut heads) = (HeadGather::default(), Vec::new());
            let mut rest = Vec::new();
            for piece in text.chunks(step) {
                let mut bytes = Chunk::copy_from(piece);
                while heads.len() < 2 {
                    let end = gather.end(&mut bytes, &HeadLimits::default(), &budget).expect("clean");
                    let Some(end) = end else { break };
                    heads.push(bytes.split_to(end).to_vec());
                }
                if heads.len() == 2 {
                    rest.extend_from_slice(&bytes);
                }
            }
            assert_eq!(heads.concat(), text[..text.len() - 4], "in pieces of {step}");
            assert!(!gather.has_begun(), "in pieces of {step}");
            assert_eq!(rest, b"rest", "in pieces of {step}");
        }
    }

    #[test]
    fn what_begins_no_head_is_not_waited_for() {
        let budget = Budget::new(1 << 20);
        for (pieces, waits) in [
            (&["H"][..], true),
            (&["HT", "TP/1"], true),
            (&["hello"], false),
            (&["HTT", "X"], false),
            (&["\x15\x03\x01"], false),
        ] {
            let mut gather = HeadGather::default();
            let ends = pieces
                .iter()
                .map(|p| gather.end(&mut Chunk::copy_from(p.as_bytes()), &HeadLimits::default(), &budget));
            let last = ends.last().expect("a piece");
            assert_eq!(last, if waits { Ok(None) } else { Err(HeadError::Version) }, "{pieces:?}");
        }
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
