//! What is fuzzed of the codec: any bytes, in any pieces, give the same; what is written reads back; and what we
//! forward is what was received, as a second reader (`oracle`) sees it.
//!
//! Each function panics where that does not hold. Its bytes begin with two of set-up: [`Setup`].

use std::net::{IpAddr, Ipv4Addr};

use selvedge_runtime::{BlockMut, Budget, Chunk, Chunks};

use super::body::{BodyDecoder, BodyError, BodyEvent};
use super::encode::{encode_request, encode_response, frame, frame_response, last_chunk};
use super::head::{EmptyLines, HeadGather, HeadLimits, HeadScan, Underscores, find_head_end};
use super::oracle::{self, Read, Reading};
use super::request::{DecodedRequest, check_start, decode_request};
use super::response::{DecodedResponse, RequestKind, decode_response};
use crate::http::edge::{Carrier, EdgePolicy, ServerHeader, Signature, request_in, response_out};
use crate::http::header_id::{JOINED_IN_REQUEST, JOINED_IN_RESPONSE};
use crate::http::hop_by_hop::{strip_request, strip_response};
use crate::http::message::{Fields, Framing, HeaderId, Trailers, Version};
use crate::http::path;

/// How the codec is configured, and in which pieces the rest of the bytes come.
#[derive(Debug, Clone, Copy)]
struct Setup {
    bits: u8,
    /// 0: one byte each.
    pieces: u8,
}

impl Setup {
    fn read(data: &[u8]) -> Option<(Setup, &[u8])> {
        let (setup, text) = data.split_first_chunk::<2>()?;
        Some((Setup { bits: setup[0], pieces: setup[1] }, text))
    }

    fn bit(self, n: u32) -> bool {
        self.bits >> n & 1 == 1
    }

    fn limits(self) -> HeadLimits {
        HeadLimits {
            bytes_max: if self.bit(0) { 60 * 1024 } else { 256 },
            fields_max: if self.bit(0) { 100 } else { 4 },
            accept_http_10: self.bit(1),
            allow_chunked_length: self.bit(2),
            allow_absolute_url: self.bit(3),
            underscores: match self.bits >> 4 & 3 {
                0 | 1 => Underscores::Allow,
                2 => Underscores::Reject,
                _ => Underscores::Drop,
            },
        }
    }

    /// Where the pieces of `length` bytes end; the last one ends there.
    fn cuts(self, length: usize) -> impl Iterator<Item = usize> {
        let (mut state, mut at) = (u32::from(self.pieces), 0);
        std::iter::from_fn(move || {
            if at >= length {
                return None;
            }
            let size = if self.pieces == 0 { 1 } else { 1 + (state >> 24) as usize % 24 };
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            at = (at + size).min(length);
            Some(at)
        })
    }
}

/// A budget that no input of a fuzzer uses up.
fn budget() -> Budget {
    Budget::new(usize::MAX)
}

/// Names in lower case and values, without `transfer-encoding`, which is written anew.
fn list(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    let own = fields.iter().filter(|(id, _, _)| *id != HeaderId::TransferEncoding);
    own.map(|(_, name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
}

/// Heads of requests.
pub fn request(data: &[u8]) {
    let Some((setup, text)) = Setup::read(data) else { return };
    let limits = setup.limits();
    let whole = find_head_end(&mut HeadScan::default(), text, &limits);
    let (mut scan, mut found, mut early) = (HeadScan::default(), Ok(None), Ok(()));
    for cut in setup.cuts(text.len()) {
        found = find_head_end(&mut scan, &text[..cut], &limits);
        if found != Ok(None) {
            break;
        }
        early = early.and_then(|()| check_start(&mut scan, &text[..cut], &limits));
    }
    assert_eq!(found, whole, "pieces do not matter");
    let Ok(Some(end)) = whole else { return };
    let Ok(decoded) = decode_request(Chunk::copy_from(&text[..end]), &limits) else { return };
    assert_eq!(early, Ok(()), "a good head is not refused before it is whole");
    if path::fault(decoded.head.path()).is_none() || decoded.head.is_method(b"CONNECT") {
        reads_back(&decoded, limits);
    }
}

/// What is written of a head means what the head means.
fn reads_back(first: &DecodedRequest, mut limits: HeadLimits) {
    (limits.bytes_max, limits.fields_max) = (usize::MAX, usize::MAX);
    let mut out = BlockMut::unbudgeted(256);
    encode_request(&first.head, first.framing, first.upgrade, &mut out);
    let again = decode_request(out.freeze(), &limits).expect("what we write we can read");
    let told = |r: &DecodedRequest| {
        let head = &r.head;
        let authority = head.authority().unwrap_or_default().to_vec();
        (head.method().to_vec(), head.path().to_vec(), authority, list(&head.fields))
    };
    assert_eq!(told(&again), told(first));
    assert!(first.upgrade || again.framing == first.framing, "{:?} {:?}", again.framing, first.framing);
}

/// Heads of responses, interim ones first.
pub fn response(data: &[u8]) {
    let Some((setup, text)) = Setup::read(data) else { return };
    let (limits, budget) = (setup.limits(), budget());
    let kind = RequestKind { head: setup.bit(6), upgrade: setup.bit(7) };
    // The heads up to the first that is refused, and whether one was.
    let gather = |cuts: &mut dyn Iterator<Item = usize>| {
        let (mut gather, mut heads, mut from) = (HeadGather::default(), Vec::new(), 0);
        for cut in cuts {
            let mut bytes = Chunk::copy_from(&text[from..cut]);
            from = cut;
            while !bytes.is_empty() {
                let head = match gather.end(&mut bytes, &limits, &budget) {
                    Ok(Some(end)) => bytes.split_to(end),
                    Ok(None) => break,
                    Err(_) => return (heads, true),
                };
                match decode_response(head, kind, &limits) {
                    Ok(decoded) => heads.push(decoded),
                    Err(_) => return (heads, true),
                }
            }
        }
        (heads, false)
    };
    let told = |r: &DecodedResponse| (r.head.status, r.framing, list(&r.head.fields));
    let all = |heads: &[DecodedResponse]| heads.iter().map(told).collect::<Vec<_>>();
    let (heads, refused) = gather(&mut std::iter::once(text.len()));
    let (again, refused_again) = gather(&mut setup.cuts(text.len()));
    assert_eq!((all(&again), refused_again), (all(&heads), refused), "pieces do not matter");
    for decoded in heads {
        let mut out = BlockMut::unbudgeted(256);
        encode_response(&decoded.head, decoded.head.version, decoded.framing, &mut out);
        let limits = HeadLimits { bytes_max: usize::MAX, fields_max: usize::MAX, ..limits };
        let again = decode_response(out.freeze(), kind, &limits).expect("what we write we can read");
        assert_eq!(told(&again), told(&decoded));
    }
}

/// A body as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    end: BodyEnd,
}

/// How the reading of a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    /// After so many bytes of the input.
    Whole(usize),
    NeedsMore,
    Refused(BodyError),
}

/// Reads a body in pieces; what belongs to the next message is left alone.
fn read_body(decoder: &mut BodyDecoder, text: &[u8], cuts: impl Iterator<Item = usize>) -> Body {
    let (mut data, mut from) = (Vec::new(), 0);
    // An empty piece is a piece too.
    for cut in std::iter::once(0).chain(cuts) {
        let mut input = Chunk::copy_from(&text[from..cut]);
        from = cut;
        loop {
            let end = match decoder.decode(&mut input) {
                Ok(BodyEvent::NeedMore) => break,
                Ok(BodyEvent::Data(part)) => {
                    data.extend_from_slice(&part);
                    continue;
                }
                Ok(BodyEvent::End(trailers)) => {
                    let trailers = trailers.map(|t| list(&t.0)).unwrap_or_default();
                    return Body { data, trailers, end: BodyEnd::Whole(cut - input.len()) };
                }
                Err(error) => BodyEnd::Refused(error),
            };
            return Body { data, trailers: Vec::new(), end };
        }
    }
    Body { data, trailers: Vec::new(), end: BodyEnd::NeedsMore }
}

/// Bodies in their framings: pieces do not matter, and what is written reads back.
pub fn body(data: &[u8]) {
    let Some((setup, text)) = Setup::read(data) else { return };
    let framing = match setup.bits & 3 {
        0 | 1 => Framing::Chunked,
        2 => Framing::Length(u64::from(setup.bits >> 2)),
        _ => Framing::UntilClose,
    };
    let decoder = || {
        let mut decoder = BodyDecoder::new(framing);
        if setup.bit(7) {
            decoder.bound_trailers(64, 3);
        }
        decoder
    };
    let whole = read_body(&mut decoder(), text, std::iter::once(text.len()));
    let pieces = read_body(&mut decoder(), text, setup.cuts(text.len()));
    assert_eq!(pieces, whole, "pieces do not matter");
    let (mut out, budget) = (Chunks::new(), budget());
    let mut from = 0;
    for cut in setup.cuts(whole.data.len()) {
        frame(Framing::Chunked, Chunk::copy_from(&whole.data[from..cut]), &mut out, &budget);
        from = cut;
    }
    let mut trailers = Fields::default();
    whole.trailers.iter().for_each(|(name, value)| trailers.append_named(name, value));
    last_chunk(Some(&Trailers(trailers)), &mut out, &budget);
    let written = out.gather(&budget);
    let again = read_body(&mut BodyDecoder::new(Framing::Chunked), &written, setup.cuts(written.len()));
    let expected = Body { end: BodyEnd::Whole(written.len()), ..whole };
    assert_eq!(again, expected, "what is written reads back");
}

/// Messages that one connection carries at most here.
const MESSAGES: usize = 8;
const HOP_BY_HOP: [&[u8]; 4] = [b"connection", b"keep-alive", b"proxy-connection", b"upgrade"];

/// Requests of one connection, forwarded over one connection: the upstream reads what the client wrote.
pub fn forward_request(data: &[u8]) {
    let Some((setup, text)) = Setup::read(data) else { return };
    let (limits, budget) = (setup.limits(), budget());
    let (mut at, mut sent) = (0, Chunks::new());
    let (mut expected, mut open) = (Vec::new(), false);
    while expected.len() < MESSAGES {
        let Ok(skipped) = EmptyLines::default().skip(&text[at..]) else { break };
        at += skipped;
        let found = find_head_end(&mut HeadScan::default(), &text[at..], &limits);
        let Ok(Some(end)) = found else { break };
        let Ok(mut request) = decode_request(Chunk::copy_from(&text[at..at + end]), &limits) else { break };
        if !admit(&mut request, setup) {
            break;
        }
        let mut block = BlockMut::unbudgeted(256);
        encode_request(&request.head, request.framing, false, &mut block);
        sent.push(block.freeze());
        let rest = &text[at + end..];
        let body = read_body(&mut BodyDecoder::new(request.framing), rest, setup.cuts(rest.len()));
        frame(request.framing, Chunk::copy_from(&body.data), &mut sent, &budget);
        let received = oracle::request(&text[at..], Reading::Received);
        let BodyEnd::Whole(length) = body.end else {
            // What we refuse another may take.
            let refused = matches!(body.end, BodyEnd::Refused(_));
            let whole = matches!(received, Read::Whole(_));
            assert!(refused || !whole, "the client's request is whole: {received:?}");
            open = true;
            break;
        };
        let trailers = if setup.bit(6) { body.trailers } else { Vec::new() };
        if request.framing == Framing::Chunked {
            let mut fields = Fields::default();
            trailers.iter().for_each(|(name, value)| fields.append_named(name, value));
            last_chunk(setup.bit(6).then_some(&Trailers(fields)), &mut sent, &budget);
        }
        let Read::Whole(received) = received else { panic!("we take what another does not: {received:?}") };
        assert_eq!(received.length, end + length, "where the client's request ends");
        assert_eq!((&*received.start[0], &received.body), (request.head.method(), &body.data));
        expected.push((request.head, received.body, trailers));
        at += end + length;
        if !request.keep_alive {
            break;
        }
    }
    let sent = sent.gather(&budget);
    let mut at = 0;
    for (head, body, trailers) in expected {
        let read = oracle::request(&sent[at..], Reading::Sent);
        let Read::Whole(read) = read else { panic!("the upstream does not read a request: {read:?}") };
        assert_eq!((&*read.start[0], &*read.start[1]), (head.method(), head.path()));
        let hosts: Vec<_> = read.values(b"host").collect();
        assert_eq!(hosts, [head.authority().unwrap_or_default()]);
        let ends_here = |(name, _): &&(Vec<u8>, Vec<u8>)| HOP_BY_HOP.contains(&name.as_slice());
        assert_eq!(read.fields.iter().find(ends_here), None, "it ends at this hop");
        assert_eq!((&read.body, &read.trailers), (&body, &trailers));
        at += read.length;
    }
    let rest = oracle::request(&sent[at..], Reading::Sent);
    assert_eq!(rest, Read::Partial, "nothing whole may follow");
    assert_eq!(open, at < sent.len(), "a broken request stays visibly broken");
}

/// What the connection manager does to a head that is forwarded; false: it answers itself.
fn admit(request: &mut DecodedRequest, setup: Setup) -> bool {
    let head = &mut request.head;
    head.fields.join_repeated(JOINED_IN_REQUEST);
    let forwards = head.authority().is_some()
        && !request.upgrade
        && !head.is_method(b"CONNECT")
        && path::fault(head.path()).is_none();
    if !forwards {
        return false;
    }
    strip_request(&mut head.fields, false);
    let policy =
        EdgePolicy { use_remote_address: setup.bit(7), via: (*b"v").into(), ..EdgePolicy::default() };
    let peer = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    request_in(head, &policy, &Carrier { peer, host_address: "127.0.0.1", random: [1, 2] });
    true
}

/// A response, forwarded: the client reads what the upstream wrote, and sees it when that is not all.
pub fn forward_response(data: &[u8]) {
    let Some((setup, text)) = Setup::read(data) else { return };
    let limits = HeadLimits { underscores: Underscores::Allow, ..setup.limits() };
    let (old, closes) = (setup.bit(4), setup.bit(5));
    let kind = RequestKind { head: setup.bit(6), upgrade: false };
    let budget = budget();
    let mut at = 0;
    let (response, end) = loop {
        let found = find_head_end(&mut HeadScan::default(), &text[at..], &limits);
        let Ok(Some(end)) = found else { return };
        let head = Chunk::copy_from(&text[at..at + end]);
        let Ok(response) = decode_response(head, kind, &limits) else { return };
        if response.head.status >= 200 {
            break (response, end);
        }
        at += end;
    };
    let mut head = response.head;
    head.fields.join_repeated(JOINED_IN_RESPONSE);
    strip_response(&mut head.fields, false);
    let (name, server) = (&b"envoy"[..], ServerHeader::Overwrite);
    response_out(&mut head.fields, Signature { name, server, via: b"", date: b"now", request_id: None });
    let given = match response.framing {
        Framing::UntilClose => Framing::Chunked,
        framing => framing,
    };
    let framed = frame_response(&mut head, given, kind.head, old);
    let mut block = BlockMut::unbudgeted(256);
    encode_response(&head, if old { Version::H10 } else { Version::H11 }, framed.named, &mut block);
    let mut sent = Chunks::from(block.freeze());
    let rest = &text[at + end..];
    let mut decoder = BodyDecoder::new(response.framing);
    let body = read_body(&mut decoder, rest, setup.cuts(rest.len()));
    frame(framed.body, Chunk::copy_from(&body.data), &mut sent, &budget);
    let whole = match body.end {
        BodyEnd::Whole(_) => true,
        BodyEnd::NeedsMore => decoder.ends_with_connection() && closes,
        BodyEnd::Refused(_) => false,
    };
    if whole && framed.body == Framing::Chunked {
        last_chunk(None, &mut sent, &budget);
    }
    let received = oracle::response(&text[at..], Reading::Received, kind.head);
    let read = oracle::response(&sent.gather(&budget), Reading::Sent, kind.head);
    if !whole {
        // What we refuse another may take.
        let lasts = decoder.ends_with_connection() || matches!(body.end, BodyEnd::Refused(_));
        assert!(
            lasts || !matches!(received, Read::Whole(_)),
            "the upstream's response is whole: {received:?}"
        );
        // A client of HTTP/1.0 is told by the way in which the connection ends.
        let told = framed.body != Framing::UntilClose;
        assert!(!told || read == Read::Partial, "a broken response stays visibly broken: {read:?}");
        return;
    }
    let Read::Whole(received) = received else { panic!("we take what another does not: {received:?}") };
    let Read::Whole(read) = read else { panic!("the client does not read the response: {read:?}") };
    if let BodyEnd::Whole(length) = body.end {
        assert_eq!(received.length, end + length, "where the upstream's response ends");
    }
    assert_eq!((&received.start[1], &received.body), (&read.start[1], &read.body));
    assert_eq!(read.body, body.data);
    assert_eq!(read.until_close, framed.body == Framing::UntilClose);
}
