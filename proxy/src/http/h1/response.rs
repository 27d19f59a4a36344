//! A response's head: the status, and how its body is framed.

use selvedge_runtime::Chunk;

use super::head::{HeadError, HeadLimits, Lines, Marks, chunked, content_length, read_fields};
use crate::http::message::{Fields, Framing, HeaderId, ResponseHead, Version};
use crate::http::validate::is_value;

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

/// Parses the head of a response that `find_head_end` delimited.
pub fn decode_response(
    block: Chunk,
    request: RequestKind,
    limits: &HeadLimits,
) -> Result<DecodedResponse, HeadError> {
    let mut lines = Lines::of(&block);
    let (_, line_end) = lines.next().ok_or(HeadError::StartLine)?;
    let line = &block[..line_end];
    let mut fields = read_fields(&block, lines, limits, &mut 0)?;
    //= rfc9112#4: what follows the status is text
    if !line.iter().all(|&b| is_value(b)) {
        return Err(HeadError::Characters);
    }
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
    marks.drop_overridden_length(&mut fields);
    let keep_alive = if version == Version::H11 { !marks.close } else { marks.keep_alive };
    Ok(DecodedResponse { head: ResponseHead { version, status, fields }, framing, keep_alive })
}

//= rfc9112#6.3
fn response_framing(
    status: u16,
    request: RequestKind,
    marks: &Marks,
    fields: &Fields,
    limits: &HeadLimits,
) -> Result<Framing, HeadError> {
    //= rfc9110#15.2, rfc9112#6.1: such a response has no body, and says nothing of one
    if (status < 200 || status == 204) && (marks.codings > 0 || says_length(fields)) {
        return Err(HeadError::BodyWithoutPlace);
    }
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

/// Whether it says a length other than zero. //= envoy: http1.content_length_not_allowed
fn says_length(fields: &Fields) -> bool {
    fields.all(HeaderId::ContentLength).any(|value| value != b"0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::head::{HeadScan, find_head_end};

    fn response(text: &str, kind: RequestKind) -> Result<DecodedResponse, HeadError> {
        let limits = HeadLimits::default();
        let end = find_head_end(&mut HeadScan::default(), text.as_bytes(), &limits)?.expect("a whole head");
        decode_response(Chunk::copy_from(&text.as_bytes()[..end]), kind, &limits)
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
        for text in [
            "HTTP/1.1 204 N\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 204 N\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 C\r\ncontent-length: 00\r\n\r\n",
            "HTTP/1.1 101 S\r\ncontent-length: 1\r\n\r\n",
        ] {
            let upgrade = RequestKind { head: false, upgrade: true };
            assert_eq!(framing(text, upgrade), Err(HeadError::BodyWithoutPlace), "{text:?}");
        }
        assert_eq!(framing("HTTP/1.1 204 N\r\ncontent-length: 0\r\n\r\n", get), Ok((Framing::None, true)));
        assert_eq!(framing("HTTP/1.1 200 O\0K\r\n\r\n", get), Err(HeadError::Characters));
        assert_eq!(framing("HTTP/1.1 2000 OK\r\n\r\n", get), Err(HeadError::Status));
        assert_eq!(framing("HTTP/1.1 600 OK\r\n\r\n", get), Err(HeadError::Status));
        assert_eq!(framing("ICY 200 OK\r\n\r\n", get), Err(HeadError::Version));
    }
}
