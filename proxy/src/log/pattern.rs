//! The form of a log line: spdlog's patterns, with Envoy's two additions.
//!
//! Pure. A letter that means nothing is written as it stands.

use std::fmt::Write;

use selvedge_runtime::WallTime;

use super::Level;
use crate::access_log::dates::Civil;

/// What a line is made of.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub at: WallTime,
    pub level: Level,
    pub component: &'a str,
    pub text: &'a str,
    pub file: &'a str,
    pub line: u32,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { letter: char, pad: Option<Pad> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pad {
    side: Side,
    width: usize,
    truncate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The field stands at the right.
    Right,
    Left,
    Centre,
}

/// The widest padding that spdlog knows.
const WIDTH_MAX: usize = 64;
const LETTERS: &str = "vtPnlLaAbBcCdDeEfFgHhiIjmMoOpPrRsSTxXuUyYz+@#!^$_%";

impl Pattern {
    pub fn compile(text: &str) -> Pattern {
        let mut parts: Vec<Part> = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let mut ahead = rest.clone();
            let pad = padding(&mut ahead);
            let Some(letter) = ahead.next() else {
                // A percent sign that ends the pattern stands for nothing.
                break;
            };
            rest = ahead;
            match letter {
                '%' => literal.push('%'),
                // The limits of the coloured part; there are no colours.
                '^' | '$' => {}
                letter if LETTERS.contains(letter) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Field { letter, pad });
                }
                letter => literal.extend(['%', letter]),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Pattern(parts)
    }

    pub fn format(&self, line: &Line<'_>) -> String {
        let mut out = String::new();
        let mut field = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { letter, pad: None } => write_field(&mut out, *letter, line),
                Part::Field { letter, pad: Some(pad) } => {
                    field.clear();
                    write_field(&mut field, *letter, line);
                    pad.write(&mut out, &field);
                }
            }
        }
        out
    }
}

/// `-8`, `=8`, `8`, each with `!` behind it to truncate.
fn padding(chars: &mut std::str::Chars<'_>) -> Option<Pad> {
    let mut ahead = chars.clone();
    let side = match ahead.clone().next() {
        Some('-') => Side::Left,
        Some('=') => Side::Centre,
        _ => Side::Right,
    };
    if side != Side::Right {
        ahead.next();
    }
    let mut width = 0usize;
    let mut digits = 0;
    while let Some(digit) = ahead.clone().next().and_then(|c| c.to_digit(10)) {
        width = (width * 10 + digit as usize).min(WIDTH_MAX);
        digits += 1;
        ahead.next();
    }
    if digits == 0 {
        return None;
    }
    let truncate = ahead.clone().next() == Some('!');
    if truncate {
        ahead.next();
    }
    *chars = ahead;
    Some(Pad { side, width, truncate })
}

impl Pad {
    fn write(self, out: &mut String, field: &str) {
        let width = self.width;
        let length = field.chars().count();
        if self.truncate && length > width {
            out.extend(field.chars().take(width));
            return;
        }
        let _infallible = match self.side {
            Side::Right => write!(out, "{field:>width$}"),
            Side::Left => write!(out, "{field:<width$}"),
            Side::Centre => write!(out, "{field:^width$}"),
        };
    }
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
#[rustfmt::skip]
const MONTHS: [&str; 12] = ["January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December"];

//= envoy: --log-format, "All letters of spdlog, and %_ and %j"
fn write_field(out: &mut String, letter: char, line: &Line<'_>) {
    let seconds = line.at.seconds();
    let c = Civil::of(seconds);
    let nanos = line.at.0 % 1_000_000_000;
    let month = MONTHS[usize::try_from(c.month).unwrap_or(1).clamp(1, 12) - 1];
    // The first day of 1970 was a Thursday.
    let day = DAYS[usize::try_from((seconds / 86_400 + 4) % 7).unwrap_or(0)];
    let hour12 = (c.hour + 11) % 12 + 1;
    let half = if c.hour < 12 { "AM" } else { "PM" };
    let name = line.file.rsplit('/').next().unwrap_or(line.file);
    let _infallible = match letter {
        'v' => write!(out, "{}", line.text),
        '_' => write!(out, "{}", line.text.replace('\n', "\\n")),
        'j' => write!(out, "{}", json_escaped(line.text)),
        't' => write!(out, "{}", thread_id()),
        'P' => write!(out, "{}", std::process::id()),
        'n' => write!(out, "{}", line.component),
        'l' => write!(out, "{}", line.level.name()),
        'L' => write!(out, "{}", line.level.name()[..1].to_ascii_uppercase()),
        'a' => write!(out, "{}", &day[..3]),
        'A' => write!(out, "{day}"),
        'b' | 'h' => write!(out, "{}", &month[..3]),
        'B' => write!(out, "{month}"),
        'c' => write!(
            out,
            "{} {} {} {:02}:{:02}:{:02} {}",
            &day[..3],
            &month[..3],
            c.day,
            c.hour,
            c.minute,
            c.second,
            c.year
        ),
        'C' => write!(out, "{:02}", c.year % 100),
        'Y' => write!(out, "{:04}", c.year),
        'D' | 'x' => write!(out, "{:02}/{:02}/{:02}", c.month, c.day, c.year % 100),
        'm' => write!(out, "{:02}", c.month),
        'd' => write!(out, "{:02}", c.day),
        'H' => write!(out, "{:02}", c.hour),
        'I' => write!(out, "{hour12:02}"),
        'M' => write!(out, "{:02}", c.minute),
        'S' => write!(out, "{:02}", c.second),
        'e' => write!(out, "{:03}", nanos / 1_000_000),
        'f' => write!(out, "{:06}", nanos / 1000),
        'F' => write!(out, "{nanos:09}"),
        'E' => write!(out, "{seconds}"),
        'p' => write!(out, "{half}"),
        'r' => write!(out, "{hour12:02}:{:02}:{:02} {half}", c.minute, c.second),
        'R' => write!(out, "{:02}:{:02}", c.hour, c.minute),
        'T' | 'X' => write!(out, "{:02}:{:02}:{:02}", c.hour, c.minute, c.second),
        'z' => write!(out, "+00:00"),
        'g' => write!(out, "{}", line.file),
        's' => write!(out, "{name}"),
        '#' => write!(out, "{}", line.line),
        '@' => write!(out, "{}:{}", line.file, line.line),
        '+' => write!(
            out,
            "[{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}] [{}] [{}] [{name}:{}] {}",
            c.year,
            c.month,
            c.day,
            c.hour,
            c.minute,
            c.second,
            nanos / 1_000_000,
            line.component,
            line.level.name(),
            line.line,
            line.text
        ),
        // `!` (function), and elapsed times, which we do not keep.
        _ => Ok(()),
    };
}

/// The kernel's number of this thread.
fn thread_id() -> String {
    let link = std::fs::read_link("/proc/thread-self").ok();
    let number = link.as_ref().and_then(|l| l.file_name()).and_then(|n| n.to_str());
    number.map_or_else(|| std::process::id().to_string(), str::to_owned)
}

fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Escapes of C, for a line that must stay one line: trailing blanks stay as they are.
//= envoy: --log-format-escaped
pub(super) fn c_escaped(line: &str) -> String {
    let body = line.trim_end();
    let mut out = String::with_capacity(line.len());
    for b in body.bytes() {
        match b {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' | b'\'' | b'\\' => out.extend(['\\', char::from(b)]),
            0x20..0x7f => out.push(char::from(b)),
            _ => {
                let _infallible = write!(out, "\\{b:03o}");
            }
        }
    }
    out.push_str(&line[body.len()..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, expected: &str) {
        let line = Line {
            // 2026-11-24 15:29:26.770123456, a Tuesday
            at: WallTime(1_795_534_166_770_123_456),
            level: Level::Warning,
            component: "main",
            text: "a \"b\"\nc",
            file: "proxy/src/server.rs",
            line: 12,
        };
        assert_eq!(Pattern::compile(pattern).format(&line), expected, "{pattern}");
    }

    #[test]
    fn patterns() {
        check(
            "[%Y-%m-%d %T.%e][%l][%n] [%g:%#] %v",
            "[2026-11-24 15:29:26.770][warning][main] [proxy/src/server.rs:12] a \"b\"\nc",
        );
        check(
            "%a %A %b %B %C %D %H %I %p %r %R %f %F %E",
            "Tue Tuesday Nov November 26 11/24/26 15 03 PM 03:29:26 PM 15:29 770123 770123456 1795534166",
        );
        check("%L%^%v%$ %q %% %_ %j", "Wa \"b\"\nc %q % a \"b\"\\nc a \\\"b\\\"\\nc");
        check("[%8n][%-8n][%=8n][%2!n][%8", "[    main][main    ][  main  ][ma][");
        check("%s %@ %z", "server.rs proxy/src/server.rs:12 +00:00");
        check("end%", "end");
    }

    #[test]
    fn escapes_of_c() {
        assert_eq!(c_escaped("a\"b'\\\n\té\n"), "a\\\"b\\'\\\\\\n\\t\\303\\251\n");
    }
}
