//! RE2 patterns, translated to the `regex` crate or refused as RE2 refuses them.
//!
//! Invariant: what this accepts means what it means in Envoy's RE2 (bytes as Latin-1, Perl classes in ASCII,
//! leftmost-first); a compiled program is bounded. Every literal is written as an escape, so that no character can gain a meaning
//! that RE2 does not give it (`&&`, `--`, nested `[`).
//= envoy: safe_regex, google_re2

use regex::bytes::{Regex, RegexBuilder};

/// RE2's bound of counted repetitions, nested ones multiplied.
const REPEAT_MAX: u32 = 1000;
/// Bytes of one compiled program. RE2 spends at most 8 MiB on a pattern, two thirds of it on programs.
const PROGRAM_BYTES_MAX: usize = 4 << 20;
/// Nesting of groups; RE2 refuses at 1,000.
const DEPTH_MAX: u32 = 250;
const PATTERN_BYTES_MAX: usize = 64 << 10;

/// Compiles a pattern that must match the whole text, as every `safe_regex` of a matcher.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    build(&format!(r"\A(?:{})\z", translate(pattern)?), pattern)
}

/// Compiles a pattern that is searched for, as in rewrites.
pub fn search(pattern: &str) -> Result<Regex, String> {
    build(&translate(pattern)?, pattern)
}

fn build(translated: &str, pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(translated)
        .unicode(false)
        .size_limit(PROGRAM_BYTES_MAX)
        .dfa_size_limit(PROGRAM_BYTES_MAX)
        .nest_limit(DEPTH_MAX * 2)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "pattern too large - compile failed".to_owned(),
            _ => format!("invalid regex: {pattern}"),
        })
}

/// The pattern in the words of the `regex` crate.
pub fn translate(pattern: &str) -> Result<String, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err("pattern too large - compile failed".to_owned());
    }
    // envoy: RE2::Latin1: every byte is a character
    let latin: String = pattern.bytes().map(char::from).collect();
    let mut t = Translator {
        all: &latin,
        at: 0,
        out: String::with_capacity(pattern.len() * 2),
        groups: vec![Group::default()],
        folds: false,
        beyond_ascii: false,
    };
    t.run()?;
    if t.folds && t.beyond_ascii {
        return Err(format!("case-insensitive matching beyond ASCII is not implemented: {pattern}"));
    }
    Ok(t.out)
}

/// What is known of one open group.
#[derive(Debug, Default, Clone, Copy)]
struct Group {
    /// The largest product of counted repetitions inside.
    product: u32,
    /// That of the last atom; `None`: nothing here to repeat.
    atom: Option<u32>,
    /// Where the operator begins that ended just before.
    operator: Option<usize>,
}

struct Translator<'p> {
    all: &'p str,
    at: usize,
    out: String,
    groups: Vec<Group>,
    /// Some part ignores case.
    folds: bool,
    beyond_ascii: bool,
}

impl<'p> Translator<'p> {
    fn rest(&self) -> &'p str {
        &self.all[self.at..]
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn top(&mut self) -> &mut Group {
        self.groups.last_mut().expect("the outermost group stays")
    }

    fn atom(&mut self, product: u32) {
        let top = self.top();
        top.product = top.product.max(product);
        top.atom = Some(product);
        top.operator = None;
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.rest().chars().next() {
            match c {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => {
                    self.at += 1;
                    self.out.push('|');
                    let top = self.top();
                    (top.atom, top.operator) = (None, None);
                }
                '[' => self.class()?,
                '*' | '+' | '?' => self.operator(1, None)?,
                '{' => match counted(self.rest()) {
                    Some((length, low, high)) => {
                        if low > REPEAT_MAX || high.is_some_and(|h| h > REPEAT_MAX || h < low) {
                            let text = &self.rest()[..length];
                            return Err(format!("invalid repetition size: {text}"));
                        }
                        self.operator(length, Some(high.unwrap_or(low)))?;
                    }
                    None => {
                        self.at += 1;
                        self.literal('{');
                    }
                },
                '\\' => self.escape()?,
                '^' | '$' | '.' => {
                    self.at += 1;
                    self.out.push(c);
                    self.atom(1);
                }
                _ => {
                    self.at += c.len_utf8();
                    self.literal(c);
                }
            }
        }
        if self.groups.len() > 1 {
            return Err(format!("missing ): {}", self.all));
        }
        Ok(())
    }

    fn literal(&mut self, c: char) {
        self.beyond_ascii |= !c.is_ascii();
        push_literal(&mut self.out, c);
        self.atom(1);
    }

    fn open(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let opened = if !rest.starts_with("(?") {
            self.at += 1;
            self.out.push('(');
            true
        } else if rest.starts_with("(?P<") || rest.starts_with("(?<") {
            self.named()?;
            true
        } else {
            self.flags()?
        };
        if opened {
            if self.groups.len() > DEPTH_MAX as usize {
                return Err("expression nests too deeply".to_owned());
            }
            self.groups.push(Group::default());
        }
        Ok(())
    }

    fn named(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let start = if rest.starts_with("(?P<") { 4 } else { 3 };
        if start == 3 && (rest.starts_with("(?<=") || rest.starts_with("(?<!")) {
            return Err(format!("invalid perl operator: {}", &rest[..4]));
        }
        let Some(end) = rest.find('>') else {
            return Err(format!("invalid named capture group: {rest}"));
        };
        let name = &rest[start..end];
        let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good {
            return Err(format!("invalid named capture group: {}", &rest[..=end]));
        }
        self.at += end + 1;
        // Groups are used by number only.
        self.out.push('(');
        Ok(())
    }

    /// `(?flags)` or `(?flags:`; whether a group was opened.
    fn flags(&mut self) -> Result<bool, String> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let (mut i, mut negated, mut any_after_minus) = (2, false, true);
        // RE2 takes a flag twice, and the last word counts.
        let (mut on, mut off) = (String::new(), String::new());
        loop {
            match bytes.get(i) {
                Some(flag @ (b'i' | b'm' | b's' | b'U')) => {
                    any_after_minus = true;
                    let flag_char = char::from(*flag);
                    on.retain(|f| f != flag_char);
                    off.retain(|f| f != flag_char);
                    if negated { &mut off } else { &mut on }.push(flag_char);
                    self.folds |= *flag == b'i' && !negated;
                }
                Some(b'-') if !negated => (negated, any_after_minus) = (true, false),
                Some(b')' | b':') if any_after_minus => break,
                None => return Err(format!("invalid perl operator: {rest}")),
                Some(_) => {
                    let end =
                        rest.char_indices().nth(rest[..i].chars().count() + 1).map_or(rest.len(), |(e, _)| e);
                    return Err(format!("invalid perl operator: {}", &rest[..end]));
                }
            }
            i += 1;
        }
        let group = bytes[i] == b':';
        if i > 2 || group {
            let minus = if off.is_empty() { "" } else { "-" };
            self.out.push_str(&format!("(?{on}{minus}{off}{}", &rest[i..=i]));
        }
        self.at += i + 1;
        if !group {
            let top = self.top();
            (top.atom, top.operator) = (None, None);
        }
        Ok(group)
    }

    fn close(&mut self) -> Result<(), String> {
        if self.groups.len() == 1 {
            return Err(format!("unexpected ): {}", self.all));
        }
        let inner = self.groups.pop().expect("more than the outermost");
        self.at += 1;
        self.out.push(')');
        self.atom(inner.product.max(1));
        Ok(())
    }

    /// A repetition of `length` bytes; `count` of a counted one.
    fn operator(&mut self, length: usize, count: Option<u32>) -> Result<(), String> {
        let (begin, rest) = (self.at, self.rest());
        let lazy = rest.as_bytes().get(length) == Some(&b'?');
        let end = begin + length + usize::from(lazy);
        let text = &self.all[begin..end];
        let top = *self.top();
        if let Some(previous) = top.operator {
            return Err(format!("bad repetition operator: {}", &self.all[previous..end]));
        }
        let Some(product) = top.atom else {
            return Err(format!("no argument for repetition operator: {}", &self.all[begin..begin + length]));
        };
        let product = product.saturating_mul(count.unwrap_or(1).max(1));
        if product > REPEAT_MAX {
            return Err(format!("invalid repetition size: {text}"));
        }
        self.out.push_str(text);
        self.at = end;
        self.atom(product);
        self.top().operator = Some(begin);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let Some(c) = rest[1..].chars().next() else {
            return Err("trailing \\".to_owned());
        };
        let plain = match c {
            'A' => r"\A",
            'z' => r"\z",
            'b' => r"\b",
            'B' => r"\B",
            'C' => r"(?s:.)",
            _ => "",
        };
        if !plain.is_empty() {
            self.at += 2;
            self.out.push_str(plain);
            self.atom(1);
            return Ok(());
        }
        if c == 'Q' {
            self.at += 2;
            return self.quoted();
        }
        if let Some(class) = perl_class(c) {
            self.at += 2;
            self.out.push_str(&format!("[{class}]"));
            self.atom(1);
            return Ok(());
        }
        if matches!(c, 'p' | 'P') {
            let text = self.unicode_class()?;
            self.out.push_str(&format!("[{text}]"));
            self.atom(1);
            return Ok(());
        }
        let c = self.escaped_char()?;
        self.literal(c);
        Ok(())
    }

    fn quoted(&mut self) -> Result<(), String> {
        while !self.rest().is_empty() {
            if self.rest().starts_with(r"\E") {
                self.at += 2;
                return Ok(());
            }
            let c = self.take().expect("not empty");
            self.literal(c);
        }
        Ok(())
    }

    /// `\pN`, `\p{Name}`, `\P…`, `\p{^…}`: its Latin-1 characters, for the inside of a class.
    fn unicode_class(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let mut negated = rest.as_bytes()[1] == b'P';
        let (mut name, length) = match rest[2..].chars().next() {
            Some('{') => match rest.find('}') {
                Some(end) => (&rest[3..end], end + 1),
                None => return Err(format!("invalid character class range: {rest}")),
            },
            Some(c) => (&rest[2..2 + c.len_utf8()], 2 + c.len_utf8()),
            None => return Err(format!("invalid character class range: {rest}")),
        };
        let bad = || format!("invalid character class range: {}", &rest[..length]);
        if let Some(inner) = name.strip_prefix('^') {
            (name, negated) = (inner, !negated);
        }
        // RE2 knows categories of one or two letters and scripts, in their exact case.
        let category = name.len() <= 2 && name.starts_with(|c: char| "CLMNPSZ".contains(c));
        let script = name.len() > 2
            && name.split('_').all(|part| {
                let mut chars = part.chars();
                chars.next().is_some_and(|c| c.is_ascii_uppercase()) && chars.all(|c| c.is_ascii_lowercase())
            });
        let class = if name == "Any" {
            "(?s:.)".to_owned()
        } else if category && name.bytes().skip(1).all(|b| b.is_ascii_lowercase()) {
            format!(r"\p{{gc={name}}}")
        } else if script {
            format!(r"\p{{sc={name}}}")
        } else {
            return Err(bad());
        };
        let class = Regex::new(&format!("^{class}$")).map_err(|_| bad())?;
        self.at += length;
        let mut text = String::new();
        for c in (0..=u8::MAX).map(char::from) {
            if class.is_match(c.encode_utf8(&mut [0; 4]).as_bytes()) != negated {
                push_literal(&mut text, c);
            }
        }
        // None of them: a class that matches nothing.
        Ok(if text.is_empty() { r"[^\x00-\xFF]".to_owned() } else { text })
    }

    /// A backslash and what stands for one character.
    fn escaped_char(&mut self) -> Result<char, String> {
        let begin = self.at;
        self.at += 1;
        let Some(c) = self.take() else { return Err("trailing \\".to_owned()) };
        let bad = |to: usize| Err(format!("invalid escape sequence: {}", &self.all[begin..to]));
        let found = match c {
            '1'..='7' if !self.rest().starts_with(|d: char| d.is_digit(8)) => return bad(self.at),
            '0'..='7' => {
                let mut value = c.to_digit(8).expect("octal");
                for _ in 0..2 {
                    let Some(d) = self.rest().chars().next().and_then(|d| d.to_digit(8)) else { break };
                    value = value * 8 + d;
                    self.at += 1;
                }
                u8::try_from(value).ok().map(char::from)
            }
            'x' => return self.hex(begin),
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        };
        match found {
            Some(c) => Ok(c),
            None => bad(self.at),
        }
    }

    fn hex(&mut self, begin: usize) -> Result<char, String> {
        let rest = self.rest();
        let (digits, length) = if let Some(inner) = rest.strip_prefix('{') {
            match inner.find('}') {
                Some(end) => (&inner[..end], end + 2),
                None => return Err(format!("invalid escape sequence: {}", &self.all[begin..])),
            }
        } else {
            let length = rest.chars().take(2).map(char::len_utf8).sum::<usize>();
            (&rest[..length], length)
        };
        let to = (self.at + length).min(self.all.len());
        let bad = || format!("invalid escape sequence: {}", &self.all[begin..to]);
        let braced = rest.starts_with('{');
        if digits.is_empty()
            || (!braced && digits.len() != 2)
            || !digits.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(bad());
        }
        let value = u32::from_str_radix(digits, 16).map_err(|_| bad())?;
        let c = u8::try_from(value).map(char::from).map_err(|_| bad())?;
        self.at += length;
        Ok(c)
    }

    fn class(&mut self) -> Result<(), String> {
        let begin = self.at;
        let missing = format!("missing ]: {}", &self.all[begin..]);
        self.at += 1;
        self.out.push('[');
        if self.rest().starts_with('^') {
            self.at += 1;
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else { return Err(missing) };
            if c == ']' && !first {
                break;
            }
            first = false;
            if rest.starts_with("[:")
                && let Some(length) = rest[2..].find(":]")
            {
                self.posix_class(2 + length)?;
                continue;
            }
            if c == '\\'
                && let Some(next) = rest[1..].chars().next()
            {
                if let Some(class) = perl_class(next) {
                    self.at += 2;
                    self.out.push_str(&if class.starts_with('^') {
                        format!("[{class}]")
                    } else {
                        class.to_owned()
                    });
                    continue;
                }
                if matches!(next, 'p' | 'P') {
                    let text = self.unicode_class()?;
                    self.out.push_str(&text);
                    continue;
                }
            }
            self.range(&missing)?;
        }
        self.at += 1;
        self.out.push(']');
        self.atom(1);
        Ok(())
    }

    fn posix_class(&mut self, end: usize) -> Result<(), String> {
        let text = &self.rest()[..end + 2];
        let name = text[2..end].strip_prefix('^').unwrap_or(&text[2..end]);
        if !POSIX.contains(&name) {
            return Err(format!("invalid character class range: {text}"));
        }
        self.out.push_str(text);
        self.at += end + 2;
        Ok(())
    }

    fn range(&mut self, missing: &str) -> Result<(), String> {
        let begin = self.at;
        let low = self.class_char(missing)?;
        let rest = self.rest();
        let high = if rest.starts_with('-') && !rest[1..].starts_with(']') && rest.len() > 1 {
            self.at += 1;
            let high = self.class_char(missing)?;
            if high < low {
                return Err(format!("invalid character class range: {}", &self.all[begin..self.at]));
            }
            high
        } else {
            low
        };
        self.beyond_ascii |= !high.is_ascii();
        push_literal(&mut self.out, low);
        if high != low {
            self.out.push('-');
            push_literal(&mut self.out, high);
        }
        Ok(())
    }

    fn class_char(&mut self, missing: &str) -> Result<char, String> {
        if self.rest().starts_with('\\') {
            return self.escaped_char();
        }
        self.take().ok_or_else(|| missing.to_owned())
    }
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || c == '/' || c == '_' {
        out.push(c);
    } else {
        out.push_str(&format!("\\x{:02X}", u32::from(c)));
    }
}

fn perl_class(c: char) -> Option<&'static str> {
    Some(match c {
        'd' => "0-9",
        'D' => "^0-9",
        's' => r"\t\n\x0C\r\x20",
        'S' => r"^\t\n\x0C\r\x20",
        'w' => "0-9A-Za-z_",
        'W' => "^0-9A-Za-z_",
        _ => return None,
    })
}

/// `{n}`, `{n,}` or `{n,m}`: its length and bounds. Anything else is a literal brace.
fn counted(text: &str) -> Option<(usize, u32, Option<u32>)> {
    let end = text.find('}')?;
    let inner = &text[1..end];
    let number = |digits: &str| -> Option<u32> {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let canonical = digits.len() == 1 || !digits.starts_with('0');
        // RE2: beyond nine digits it is no number.
        (plain && canonical && digits.len() <= 9).then(|| digits.parse().ok()).flatten()
    };
    match inner.split_once(',') {
        None => number(inner).map(|n| (end + 1, n, Some(n))),
        Some((low, "")) => number(low).map(|n| (end + 1, n, None)),
        Some((low, high)) => Some((end + 1, number(low)?, Some(number(high)?))),
    }
}

const POSIX: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

#[cfg(test)]
#[path = "regex_tests.rs"]
mod tests;
