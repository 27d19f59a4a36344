//! Text of scenarios and transcripts: escapes, what is volatile (the one place), and readable differences.

use std::fmt::Write as _;
use std::net::UdpSocket;

use regex::bytes::Regex;

/// `|` is CRLF; `\r \n \t \0 \s \| \\ \xHH`, and `\rep(N,text)`, N times the text, where `#` is its number.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '|']) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let newline = rest[at..].starts_with('|');
        rest = &rest[at + 1..];
        if newline {
            out.extend_from_slice(b"\r\n");
            continue;
        }
        if let Some(tail) = rest.strip_prefix("rep(") {
            let (count, tail) = tail.split_once(',').expect("\\rep(N,c)");
            let (what, tail) = tail.split_once(')').expect("\\rep(N,c)");
            let what = unescape(what);
            for number in 0..count.parse::<usize>().expect("\\rep(N,c)") {
                if what.contains(&b'#') {
                    out.extend_from_slice(
                        String::from_utf8_lossy(&what).replace('#', &number.to_string()).as_bytes(),
                    );
                } else {
                    out.extend_from_slice(&what);
                }
            }
            rest = tail;
            continue;
        }
        let code = rest.chars().next().expect("an escape");
        rest = &rest[code.len_utf8()..];
        match code {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            's' => out.push(b' '),
            '|' => out.push(b'|'),
            '\\' => out.push(b'\\'),
            'x' => {
                out.push(u8::from_str_radix(&rest[..2], 16).expect("\\xHH"));
                rest = &rest[2..];
            }
            other => panic!("no such escape: \\{other}"),
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// Bytes as one printable line; long runs of one byte are folded.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let run = bytes[at..].iter().take_while(|b| **b == byte).count();
        let shown = match byte {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0x20..=0x7e => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        if run >= 24 {
            let _ = write!(out, "\\rep({run},{shown})");
            at += run;
        } else {
            out.push_str(&shown);
            at += 1;
        }
    }
    out
}

/// Replaces what differs from run to run. `names` are addresses and paths of this run, longest first.
pub struct Normaliser {
    names: Vec<(String, String)>,
    rules: Vec<(Regex, &'static str)>,
}

impl Normaliser {
    pub fn new(mut names: Vec<(String, String)>) -> Normaliser {
        names.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        let rules = [
            (
                r"(?i)(date|last-modified): [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT",
                "$1: <date>",
            ),
            (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
            (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
            (r"(?i)(x-envoy-upstream-service-time: )\d+", "$1<ms>"),
            (r"\bdur=(\d+|-)", "dur=<ms>"),
            (r#""dur":(\d+|"-")"#, r#""dur":<ms>"#),
            // The durations of the default access-log format.
            (r#"(\[<time>\] ".*" \d+ \S+ \d+ \d+) \d+ \d+ ""#, "$1 <ms> <ms> \""),
            (r#"(\[<time>\] ".*" \d+ \S+ \d+ \d+) \d+ - ""#, "$1 <ms> - \""),
            (r"127\.0\.0\.1:([1-9]\d{3,4})\b", "127.0.0.1:<port>"),
            (r#"("port_value": )[1-9]\d{3,4}\b"#, "$1<port>"),
            (r"127\.0\.0\.1_([1-9]\d{3,4})\b", "127.0.0.1_<port>"),
            (r"(?m)^(\[[^\]]*\]){3,4} (\[[^\]]*:\d+\] )?", "<log> "),
            (r"\b[0-9a-f]{40}/1\.\d+\.\d+/[A-Za-z]+/[A-Z]+/[A-Za-z]+", "<version>"),
        ];
        let mut rules: Vec<_> = rules.map(|(from, to)| (Regex::new(from).expect("a rule"), to)).into();
        // For a client on loopback Envoy tells the address of the machine instead.
        let machine = UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("192.0.2.1:9").and(s.local_addr()));
        let machine = machine.map_or("127.0.0.1".to_owned(), |a| a.ip().to_string().replace('.', r"\."));
        let told = format!(r"(?m)(x-forwarded-for: (?:.*,)?)({machine}|127\.0\.0\.1)$");
        rules.push((Regex::new(&told).expect("a rule"), "$1<machine>"));
        let told = format!(r#"(<ms>|-) "({machine}|127\.0\.0\.1)""#);
        rules.push((Regex::new(&told).expect("a rule"), "$1 \"<machine>\""));
        Normaliser { names, rules }
    }

    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, name) in &self.names {
            text = text.replace(value, name);
        }
        let mut bytes = text.into_bytes();
        for (rule, to) in &self.rules {
            bytes = rule.replace_all(&bytes, to.as_bytes()).into_owned();
        }
        String::from_utf8(bytes).expect("text stays text")
    }
}

/// Both sides, line by line: `-` is expected and missing, `+` is there and unexpected.
pub fn diff(expected: &str, got: &str) -> String {
    let a: Vec<&str> = expected.lines().collect();
    let b: Vec<&str> = got.lines().collect();
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] =
                if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = String::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            let _ = writeln!(out, "      {}", a[i]);
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            let _ = writeln!(out, "    - {}", a[i]);
            i += 1;
        } else {
            let _ = writeln!(out, "    + {}", b[j]);
            j += 1;
        }
    }
    out
}

#[test]
fn escapes_go_both_ways() {
    assert_eq!(unescape(r"a\r\n\x00\rep(3,b)\\"), b"a\r\n\0bbb\\");
    assert_eq!(escape(b"a\r\n\0b\\"), r"a\r\n\x00b\\");
    assert_eq!(escape(&[b'x'; 40]), r"\rep(40,x)");
}

#[test]
fn volatile_parts_are_named() {
    let names = vec![("127.0.0.1:4711".to_owned(), "<a>".to_owned())];
    let got = Normaliser::new(names)
        .apply("date: Tue, 24 Nov 2026 14:12:50 GMT\nto 127.0.0.1:4711 from 127.0.0.1:50123 and 127.0.0.1:1");
    assert_eq!(got, "date: <date>\nto <a> from 127.0.0.1:<port> and 127.0.0.1:1");
}

#[test]
fn differences_show_both_sides() {
    assert_eq!(diff("a\nb\nc\n", "a\nx\nc\n"), "      a\n    - b\n    + x\n      c\n");
}
