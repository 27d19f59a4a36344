//! A second reader of HTTP/1.1, for tests: says what a careful peer makes of bytes.
//!
//! Invariant: it shares no code with the codec, and takes a message whole or not at all. Slow and plain on purpose.
//! It knows no configuration and no limits.

/// How the bytes are held to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What anybody may send us and we may take: chunk extensions, white space around values, HTTP/1.0.
    Received,
    /// What we send: none of it.
    Sent,
}

/// Names and values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// One message as a peer understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The start line in its three parts.
    pub start: [Vec<u8>; 3],
    /// Names in lower case.
    pub fields: Pairs,
    pub body: Vec<u8>,
    pub trailers: Pairs,
    /// Bytes of it, first to last.
    pub length: usize,
    /// Its end is the end of the connection.
    pub until_close: bool,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    Whole(Message),
    /// More is needed.
    Partial,
    Bad(&'static str),
}

/// Unwinds the reader: not whole, or wrong.
enum Stop {
    Partial,
    Bad(&'static str),
}

impl Message {
    pub fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_slice())
    }
}

/// Reads a request.
pub fn request(bytes: &[u8], reading: Reading) -> Read {
    answer(Reader { bytes, at: 0, reading }.message(|_| Some(false)))
}

/// Reads the response to a request.
pub fn response(bytes: &[u8], reading: Reading, to_head: bool) -> Read {
    answer(Reader { bytes, at: 0, reading }.message(|start| {
        let status = &start[1];
        let bodiless = to_head || status[0] == b'1' || status == b"204" || status == b"304";
        (!bodiless).then_some(true)
    }))
}

fn answer(result: Result<Message, Stop>) -> Read {
    match result {
        Ok(message) => Read::Whole(message),
        Err(Stop::Partial) => Read::Partial,
        Err(Stop::Bad(why)) => Read::Bad(why),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    reading: Reading,
}

impl Reader<'_> {
    /// `body` says whether there may be one, and whether it may last until the connection closes.
    fn message(&mut self, body: impl Fn(&[Vec<u8>; 3]) -> Option<bool>) -> Result<Message, Stop> {
        let line = self.line()?;
        let response = line.starts_with(b"HTTP/");
        let mut parts = line.splitn(3, |b| *b == b' ').map(<[u8]>::to_vec);
        let mut part = || parts.next().unwrap_or_default();
        let start = [part(), part(), part()];
        self.check_start(&start, response)?;
        let fields = self.fields()?;
        let mut message =
            Message { start, fields, body: Vec::new(), trailers: Vec::new(), length: 0, until_close: false };
        if let Some(endless) = body(&message.start) {
            self.body(&mut message, endless)?;
        }
        message.length = self.at;
        Ok(message)
    }

    fn check_start(&self, start: &[Vec<u8>; 3], response: bool) -> Result<(), Stop> {
        let known = |version: &[u8]| {
            version == b"HTTP/1.1" || version == b"HTTP/1.0" || (response && version == b"HTTP/2.0")
        };
        let visible = |part: &[u8]| !part.is_empty() && part.iter().all(|b| (0x21..0x7f).contains(b));
        if response {
            let digits = start[1].len() == 3 && start[1].iter().all(u8::is_ascii_digit);
            let plain = start[2].iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\t');
            let strict = self.reading == Reading::Received || plain;
            return if known(&start[0]) && digits && strict { Ok(()) } else { Err(Stop::Bad("status line")) };
        }
        if !visible(&start[0]) || !visible(&start[1]) || !known(&start[2]) {
            return Err(Stop::Bad("request line"));
        }
        Ok(())
    }

    /// A line without its CR LF, which is the only thing that ends one.
    fn line(&mut self) -> Result<Vec<u8>, Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else { return Err(Stop::Partial) };
        let Some(line) = rest[..end].strip_suffix(b"\r") else { return Err(Stop::Bad("bare line feed")) };
        if line.contains(&b'\r') || line.contains(&0) {
            return Err(Stop::Bad("carriage return or null in a line"));
        }
        self.at += end + 1;
        Ok(line.to_vec())
    }

    fn fields(&mut self) -> Result<Pairs, Stop> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let Some(colon) = line.iter().position(|b| *b == b':') else {
                return Err(Stop::Bad("a field without a colon"));
            };
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
            if name.is_empty() || !name.iter().all(token) {
                return Err(Stop::Bad("a field's name"));
            }
            let value = match self.reading {
                Reading::Received => trim(value),
                Reading::Sent => {
                    if name.iter().any(u8::is_ascii_uppercase) {
                        return Err(Stop::Bad("a field's name is not in lower case"));
                    }
                    let Some(value) = value.strip_prefix(b" ") else {
                        return Err(Stop::Bad("no space before a value"));
                    };
                    if trim(value) != value {
                        return Err(Stop::Bad("white space around a value"));
                    }
                    value
                }
            };
            if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
                return Err(Stop::Bad("a control character in a value"));
            }
            fields.push((name.to_ascii_lowercase(), value.to_vec()));
        }
    }

    fn body(&mut self, message: &mut Message, endless: bool) -> Result<(), Stop> {
        let codings: Vec<_> = message.values(b"transfer-encoding").map(<[u8]>::to_ascii_lowercase).collect();
        let lengths: Vec<_> = message.values(b"content-length").map(<[u8]>::to_vec).collect();
        if !codings.is_empty() {
            if codings != [b"chunked"] {
                return Err(Stop::Bad("transfer coding"));
            }
            if self.reading == Reading::Sent && !lengths.is_empty() {
                return Err(Stop::Bad("a length beside a transfer coding"));
            }
            return self.chunks(message);
        }
        match lengths.as_slice() {
            [] if endless => {
                message.until_close = true;
                message.body = self.take(self.bytes.len() - self.at)?;
            }
            [] => {}
            [digits] => {
                let text = std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
                let Some(length) = text.and_then(|t| t.parse::<usize>().ok()) else {
                    return Err(Stop::Bad("length"));
                };
                message.body = self.take(length)?;
            }
            _ => return Err(Stop::Bad("several lengths")),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<Vec<u8>, Stop> {
        let end = self.at.saturating_add(n);
        let Some(part) = self.bytes.get(self.at..end) else { return Err(Stop::Partial) };
        self.at = end;
        Ok(part.to_vec())
    }

    fn chunks(&mut self, message: &mut Message) -> Result<(), Stop> {
        loop {
            let line = self.line()?;
            let mut parts = line.splitn(2, |b| *b == b';');
            let digits = parts.next().unwrap_or_default();
            if parts.next().is_some() && self.reading == Reading::Sent {
                return Err(Stop::Bad("a chunk extension"));
            }
            let text = std::str::from_utf8(digits).ok();
            let text = text.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_hexdigit()));
            let Some(size) = text.and_then(|t| usize::from_str_radix(t, 16).ok()) else {
                return Err(Stop::Bad("a chunk's size"));
            };
            if size == 0 {
                message.trailers = self.fields()?;
                return Ok(());
            }
            message.body.extend(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(Stop::Bad("no line end behind a chunk"));
            }
        }
    }
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |n| n + 1);
    &value[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the second reader refuses: that it can tell good from bad at all.
    #[test]
    fn reads_whole_messages_and_refuses_twisted_ones() {
        let post = "POST /x HTTP/1.1\r\nhost: a\r\n";
        let read = |rest: &str| request([post, rest].concat().as_bytes(), Reading::Sent);
        let Read::Whole(message) = read("content-length: 3\r\n\r\nabcGET") else { panic!("a whole message") };
        assert_eq!((&*message.body, message.length), (&b"abc"[..], post.len() + 24));
        let Read::Whole(message) = read("transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\na: b\r\n\r\n")
        else {
            panic!("a whole message")
        };
        assert_eq!((&*message.body, message.trailers.len()), (&b"hi"[..], 1));
        assert_eq!(read("content-length: 3\r\n\r\nab"), Read::Partial);
        assert_eq!(read("transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"), Read::Partial);
        for (rest, why) in [
            ("content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "a length beside a transfer coding"),
            ("content-length: 3\r\ncontent-length: 3\r\n\r\n", "several lengths"),
            ("content-length: +3\r\n\r\n", "length"),
            ("transfer-encoding: gzip\r\n\r\n", "transfer coding"),
            ("a: b\rc\r\n\r\n", "carriage return or null in a line"),
            ("a : b\r\n\r\n", "a field's name"),
            (" a: b\r\n\r\n", "a field's name"),
            ("a: b \r\n\r\n", "white space around a value"),
            ("a: b\n\r\n", "bare line feed"),
            ("transfer-encoding: chunked\r\n\r\n2;x\r\n", "a chunk extension"),
            ("transfer-encoding: chunked\r\n\r\n2\r\nhi!!", "no line end behind a chunk"),
        ] {
            assert_eq!(read(rest), Read::Bad(why), "{rest:?}");
        }
    }
}
