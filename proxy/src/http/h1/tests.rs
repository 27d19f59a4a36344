//! Properties of the codec as a whole: pieces do not matter, no bytes panic, what is written reads back.

use proptest::collection::vec;
use proptest::prelude::*;
use selvedge_runtime::{BlockMut, Chunk};

use super::body::{BodyDecoder, BodyEvent};
use super::encode::{encode_chunk_size, encode_last_chunk, encode_request};
use super::head::{HeadError, HeadLimits, HeadScan, find_head_end};
use super::request::{check_start, decode_request};
use super::response::{RequestKind, decode_response};
use crate::http::message::{Framing, RequestHead};

/// The end of the head in `text` that comes in pieces of these sizes.
fn scan(text: &[u8], sizes: &[usize]) -> Result<Option<usize>, HeadError> {
    let (limits, mut scan, mut at) = (HeadLimits::default(), HeadScan::default(), 0usize);
    for size in sizes.iter().chain([&usize::MAX]) {
        at = at.saturating_add(*size).min(text.len());
        if let Some(end) = find_head_end(&mut scan, &text[..at], &limits)? {
            return Ok(Some(end));
        }
        check_start(&mut scan, &text[..at], &limits)?;
    }
    Ok(None)
}

/// The body in `text`, and whether it ended; `Err` where it is refused.
fn body(text: &[u8], sizes: &[usize]) -> Result<(Vec<u8>, bool, usize), super::body::BodyError> {
    let (mut decoder, mut out, mut at) = (BodyDecoder::new(Framing::Chunked), Vec::new(), 0usize);
    for size in sizes.iter().chain([&usize::MAX]) {
        let end = at.saturating_add(*size).min(text.len());
        let mut input = Chunk::copy_from(&text[at..end]);
        loop {
            match decoder.decode(&mut input)? {
                BodyEvent::NeedMore => break,
                BodyEvent::Data(data) => out.extend_from_slice(&data),
                BodyEvent::End(_) => return Ok((out, true, end - input.len())),
            }
        }
        at = end;
    }
    Ok((out, false, at))
}

/// Bytes that look like messages often enough to get far.
fn almost_http() -> impl Strategy<Value = Vec<u8>> {
    let words =
        ["GET ", "/", "HTTP/1.1", "\r\n", "Host: h", "X: ", "3", ";a", "0", "\r", "\n", "abc", ":", " "];
    let word = prop_oneof![
        8 => (0..words.len()).prop_map(move |i| words[i].as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn pieces_of_a_body_do_not_matter(text in almost_http(), sizes in vec(1usize..9, 0..24)) {
        prop_assert_eq!(body(&text, &sizes), body(&text, &[]));
    }

    #[test]
    fn pieces_of_a_good_head_do_not_matter(
        values in vec("[ -~]{0,12}", 0..6),
        sizes in vec(1usize..9, 0..24),
    ) {
        let fields: String = values.iter().map(|v| format!("x-a: {v}\r\n")).collect();
        let text = format!("POST /x?y HTTP/1.1\r\nHost: h\r\n{fields}\r\nrest").into_bytes();
        let end = text.len() - 4;
        prop_assert_eq!(scan(&text, &sizes), Ok(Some(end)));
        let read = decode_request(Chunk::copy_from(&text[..end]), &HeadLimits::default());
        prop_assert_eq!(read.expect("a good head").head.fields.len(), values.len());
    }

    #[test]
    fn no_bytes_panic(text in prop_oneof![almost_http(), vec(any::<u8>(), 0..200)]) {
        let limits = HeadLimits::default();
        let whole = [&text[..], b"\r\n\r\n"].concat();
        if let Ok(Some(end)) = scan(&whole, &[1, 2, 3]) {
            let head = Chunk::copy_from(&whole[..end]);
            let request = decode_request(head.clone(), &limits);
            let response = decode_response(head, RequestKind::default(), &limits);
            prop_assert!(request.is_err() || response.is_err(), "no text is both");
        }
    }

    #[test]
    fn what_is_written_reads_back(
        path in "/[!-\"$-~]{0,20}",
        fields in vec(("[a-z!#$%&'*+.^_`|~0-9-]{1,12}", "([!-~]([ -~]{0,10}[!-~])?)?"), 0..8),
        data in vec(any::<u8>(), 1..64),
    ) {
        let mut head = RequestHead::new(b"POST", b"h.test", path.as_bytes());
        let framing = ["host", "content-length", "transfer-encoding"];
        let fields: Vec<_> = fields.into_iter().filter(|(name, _)| !framing.contains(&&**name)).collect();
        for (name, value) in &fields {
            head.fields.append_named(name.as_bytes(), value.as_bytes());
        }
        let mut out = BlockMut::unbudgeted(256);
        encode_request(&head, Framing::Chunked, false, &mut out);
        let mut space = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut space);
        let status = parsed.parse(&out).expect("an independent parser takes it");
        prop_assert_eq!(status, httparse::Status::Complete(out.len()));
        prop_assert_eq!((parsed.method, parsed.path), (Some("POST"), Some(&*path)));
        let got: Vec<_> = parsed.headers.iter().map(|h| (h.name.to_owned(), h.value.to_vec())).collect();
        let mut expected = vec![("host".to_owned(), b"h.test".to_vec())];
        expected.extend(fields.iter().map(|(n, v)| (n.clone(), v.clone().into_bytes())));
        expected.push(("transfer-encoding".to_owned(), b"chunked".to_vec()));
        prop_assert_eq!(got, expected);
        let mut chunked = BlockMut::unbudgeted(256);
        encode_chunk_size(data.len(), &mut chunked);
        chunked.extend_from_slice(&data);
        chunked.extend_from_slice(b"\r\n");
        encode_last_chunk(None, &mut chunked);
        prop_assert_eq!(body(&chunked, &[]), Ok((data, true, chunked.len())));
    }
}
