//! Body framing: received chunks in, body chunks out; strict, and without a copy.
//!
//! Invariant: the decoder has no edge from "body pending" to "next head": it says `End` exactly once, and leaves
//! what follows in the input.

use selvedge_runtime::Chunk;

use super::head::{HeadError, Lines, split_field};
use crate::http::message::{Fields, Framing, HeaderId, Trailers};

/// Bytes of chunk extensions that one message may carry.
pub const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a chunk-size line without its extensions: 16 hex digits.
const SIZE_DIGITS_MAX: u32 = 16;
/// Bytes of all trailers, and their number, where no configuration bounds them.
pub const TRAILER_BYTES_MAX: usize = 60 * 1024;
const TRAILER_FIELDS_MAX: usize = 1024;

/// Why a body was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    ChunkSize,
    ChunkEnd,
    Extensions,
    Trailers,
    TrailersTooLarge,
    TooManyTrailers,
}

impl BodyError {
    /// The status, its body and the response code details of the answer to a request with this fault.
    pub fn answer(self) -> (u16, &'static str, &'static str) {
        match self {
            BodyError::TrailersTooLarge => HeadError::TooLarge.answer(),
            BodyError::TooManyTrailers => HeadError::TooManyFields.answer(),
            _ => (400, "Bad Request", "http1.codec_error"),
        }
    }
}

/// What a piece of input held.
#[derive(Debug)]
pub enum BodyEvent {
    /// All input is taken; more is needed.
    NeedMore,
    Data(Chunk),
    /// The message is over; the rest of the input belongs to the next.
    End(Option<Trailers>),
}

#[derive(Debug)]
enum State {
    /// Bytes that are still to come; `u64::MAX` for ever.
    Plain(u64),
    Size {
        value: u64,
        digits: u32,
        extension: bool,
        carriage: bool,
    },
    Data(u64),
    DataEnd(u8),
    Trailer(Vec<u8>),
    Done,
}

#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    extension_bytes: usize,
    trailer_bytes_max: usize,
    trailer_fields_max: usize,
    until_close: bool,
}

impl BodyDecoder {
    pub fn new(framing: Framing) -> BodyDecoder {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(n) => State::Plain(n),
            Framing::Chunked => State::Size { value: 0, digits: 0, extension: false, carriage: false },
            Framing::UntilClose => State::Plain(u64::MAX),
        };
        BodyDecoder {
            state,
            extension_bytes: 0,
            trailer_bytes_max: TRAILER_BYTES_MAX,
            trailer_fields_max: TRAILER_FIELDS_MAX,
            until_close: framing == Framing::UntilClose,
        }
    }

    /// Trailers are bounded as the head was. //= envoy: max_request_headers_kb, max_headers_count
    pub fn bound_trailers(&mut self, bytes_max: usize, fields_max: usize) {
        self.trailer_bytes_max = bytes_max;
        self.trailer_fields_max = fields_max;
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the end of the connection is the end of this body.
    pub fn ends_with_connection(&self) -> bool {
        self.until_close
    }

    /// Bytes that surely come, when the length is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Plain(n) if !self.until_close => Some(n),
            State::Data(n) => Some(n),
            _ => None,
        }
    }

    /// Takes from `input` what makes the next event.
    pub fn decode(&mut self, input: &mut Chunk) -> Result<BodyEvent, BodyError> {
        loop {
            match &mut self.state {
                State::Done => return Ok(BodyEvent::End(None)),
                State::Plain(0) => self.state = State::Done,
                State::Data(0) => self.state = State::DataEnd(0),
                _ if input.is_empty() => return Ok(BodyEvent::NeedMore),
                State::Plain(left) | State::Data(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    if !self.until_close {
                        *left -= n as u64;
                    }
                    let data = input.split_to(n);
                    // The end of a body of known length is told with its last bytes' successor call.
                    return Ok(BodyEvent::Data(data));
                }
                State::Size { .. } => self.read_size(input)?,
                State::DataEnd(seen) => {
                    //= rfc9112#7.1: chunk-data CRLF, no byte more
                    if input[0] != [b'\r', b'\n'][usize::from(*seen)] {
                        return Err(BodyError::ChunkEnd);
                    }
                    input.advance(1);
                    *seen += 1;
                    if *seen == 2 {
                        self.state = State::Size { value: 0, digits: 0, extension: false, carriage: false };
                    }
                }
                State::Trailer(_) => {
                    if let Some(trailers) = self.read_trailers(input)? {
                        self.state = State::Done;
                        return Ok(BodyEvent::End(trailers));
                    }
                }
            }
        }
    }

    /// chunk-size [ chunk-ext ] CRLF. //= rfc9112#7.1
    fn read_size(&mut self, input: &mut Chunk) -> Result<(), BodyError> {
        let State::Size { value, digits, extension, carriage } = &mut self.state else { return Ok(()) };
        let mut taken = 0;
        let mut finished = None;
        for &b in input.iter() {
            taken += 1;
            if *carriage {
                if b != b'\n' || *digits == 0 {
                    return Err(BodyError::ChunkSize);
                }
                finished = Some(*value);
                break;
            }
            match b {
                b'\r' => *carriage = true,
                _ if *extension => {
                    self.extension_bytes += 1;
                    if self.extension_bytes > EXTENSION_BYTES_MAX || (b < b' ' && b != b'\t') || b == 0x7f {
                        return Err(BodyError::Extensions);
                    }
                }
                b';' if *digits > 0 => *extension = true,
                _ => {
                    let digit = (b as char).to_digit(16).ok_or(BodyError::ChunkSize)?;
                    *digits += 1;
                    if *digits > SIZE_DIGITS_MAX || *value >> 59 != 0 {
                        return Err(BodyError::ChunkSize);
                    }
                    *value = *value << 4 | u64::from(digit);
                }
            }
        }
        input.advance(taken);
        match finished {
            Some(0) => self.state = State::Trailer(Vec::new()),
            Some(size) => self.state = State::Data(size),
            None => {}
        }
        Ok(())
    }

    /// Field lines up to an empty line. `Some`: they are over.
    fn read_trailers(&mut self, input: &mut Chunk) -> Result<Option<Option<Trailers>>, BodyError> {
        let State::Trailer(lines) = &mut self.state else { return Ok(None) };
        let mut taken = 0;
        let mut over = false;
        for &b in input.iter() {
            taken += 1;
            if b == b'\n' && lines.last() != Some(&b'\r') {
                return Err(BodyError::Trailers);
            }
            lines.push(b);
            if lines.len() > self.trailer_bytes_max {
                return Err(BodyError::TrailersTooLarge);
            }
            if *lines == b"\r\n" || lines.ends_with(b"\r\n\r\n") {
                over = true;
                break;
            }
        }
        input.advance(taken);
        if !over {
            return Ok(None);
        }
        let text = std::mem::take(lines);
        if text == b"\r\n" {
            return Ok(Some(None));
        }
        let fields = trailer_fields(&text, self.trailer_fields_max)?;
        Ok(Some(Some(Trailers(fields))))
    }
}

fn trailer_fields(text: &[u8], most: usize) -> Result<Fields, BodyError> {
    let mut fields = Fields::new(Chunk::copy_from(text));
    let mut lines = Lines::of(text);
    let mut count = 0;
    while let Some((start, end)) = lines.next() {
        let (id, name, value) = split_field(text, start, end).map_err(|_| BodyError::Trailers)?;
        count += 1;
        if count > most {
            return Err(BodyError::TooManyTrailers);
        }
        //= rfc9110#6.5.1: what frames or routes a message never stands behind it
        if !matches!(id, HeaderId::ContentLength | HeaderId::TransferEncoding | HeaderId::Host) {
            fields.push_received(id, name, value);
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `text` in pieces of `step` bytes: the body, whether it ended, and what was left.
    fn decode(framing: Framing, text: &[u8], step: usize) -> Result<(Vec<u8>, bool, usize), BodyError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut body, mut taken) = (Vec::new(), 0);
        for piece in text.chunks(step) {
            let mut input = Chunk::copy_from(piece);
            loop {
                match decoder.decode(&mut input)? {
                    BodyEvent::NeedMore => break,
                    BodyEvent::Data(data) => body.extend_from_slice(&data),
                    BodyEvent::End(_) => {
                        return Ok((body, true, text.len() - taken - (piece.len() - input.len())));
                    }
                }
            }
            taken += piece.len();
        }
        let mut nothing = Chunk::copy_from(b"");
        let ended = matches!(decoder.decode(&mut nothing)?, BodyEvent::End(_));
        Ok((body, ended, 0))
    }

    #[test]
    fn whole_and_in_pieces() {
        for step in [1, 2, 3, 7, 100] {
            type Case<'a> = (Framing, &'a [u8], (&'a [u8], bool, usize));
            let cases: &[Case<'_>] = &[
                (Framing::Length(5), b"hello", (b"hello", true, 0)),
                (Framing::Length(6), b"hello", (b"hello", false, 0)),
                (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n", (b"hello", true, 0)),
                (Framing::Chunked, b"2;a=b\r\nhe\r\n03\r\nllo\r\n0\r\nX: y\r\n\r\n", (b"hello", true, 0)),
                (Framing::Chunked, b"5\r\nhel", (b"hel", false, 0)),
                (Framing::UntilClose, b"hello", (b"hello", false, 0)),
            ];
            for (framing, text, (body, ended, left)) in cases {
                assert_eq!(
                    decode(*framing, text, step),
                    Ok((body.to_vec(), *ended, *left)),
                    "{framing:?} {step}"
                );
            }
        }
        assert_eq!(decode(Framing::Chunked, b"1\r\na\r\n0\r\n\r\nGET /", 100), Ok((b"a".to_vec(), true, 5)));
        assert_eq!(decode(Framing::Length(1), b"aGET /", 100), Ok((b"a".to_vec(), true, 5)));
    }

    #[test]
    fn bad_chunks_are_refused() {
        let cases: &[(&[u8], BodyError)] = &[
            (b"5\r\nhello!!!\r\n0\r\n\r\n", BodyError::ChunkEnd),
            (b"5\nhello\r\n", BodyError::ChunkSize),
            (b"\r\n", BodyError::ChunkSize),
            (b"g\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"0x5\r\n", BodyError::ChunkSize),
            (b" 5\r\n", BodyError::ChunkSize),
            (b"5 \r\n", BodyError::ChunkSize),
            (b"ffffffffffffffff\r\n", BodyError::ChunkSize),
            (b"5\r\nhello\n", BodyError::ChunkEnd),
            (b"1;a\0\r\n", BodyError::Extensions),
            (b"0\r\nbad\r\n\r\n", BodyError::Trailers),
            (b"0\r\na: b\n\r\n", BodyError::Trailers),
        ];
        for (text, error) in cases {
            for step in [1, 100] {
                assert_eq!(decode(Framing::Chunked, text, step), Err(*error), "{}", text.escape_ascii());
            }
        }
        let long = [b"1;".to_vec(), vec![b'x'; EXTENSION_BYTES_MAX + 1]].concat();
        assert_eq!(decode(Framing::Chunked, &long, 4096), Err(BodyError::Extensions));
    }
}
