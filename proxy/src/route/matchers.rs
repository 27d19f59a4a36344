//! Path, header and query matchers. Pure.

use regex::bytes::Regex;

use crate::http::message::{Fields, HeaderId, RequestHead};

/// All that a route asks of a request.
#[derive(Debug)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub headers: Box<[HeaderMatcher]>,
    pub query: Box<[QueryMatcher]>,
    /// Share of requests: the stream's random number decides.
    pub fraction: Option<Fraction>,
    pub grpc_only: bool,
}

/// What a route asks of the path, without its query.
#[derive(Debug, Clone)]
pub enum PathMatch {
    Exact {
        path: Box<[u8]>,
        ignore_case: bool,
    },
    Prefix {
        prefix: Box<[u8]>,
        ignore_case: bool,
    },
    /// The prefix, at its end or before a `/`.
    SeparatedPrefix {
        prefix: Box<[u8]>,
        ignore_case: bool,
    },
    /// Anchored at both ends.
    Regex(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u64,
    pub denominator: u64,
}

#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    pub subject: Subject,
    pub rule: HeaderRule,
    pub invert: bool,
    pub missing_is_empty: bool,
}

/// Which part of the head a matcher looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Method,
    Path,
    Authority,
    Scheme,
    /// In lower case.
    Field(Box<[u8]>),
}

#[derive(Debug, Clone)]
pub enum HeaderRule {
    Present(bool),
    Range { start: i64, end: i64 },
    Text(StringMatcher),
}

#[derive(Debug, Clone)]
pub struct QueryMatcher {
    pub name: Box<[u8]>,
    /// `None`: only its presence counts.
    pub value: Option<StringMatcher>,
    /// Whether it shall be present.
    pub present: bool,
}

/// A `StringMatcher`.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    Exact {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    Prefix {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    Suffix {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    Contains {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    /// Anchored at both ends.
    Regex(Regex),
}

/// What matchers may ask of a request besides its head.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub random: u64,
    pub https: bool,
}

impl RouteMatch {
    /// Whether the request fits. `path` is the head's path without query and fragment.
    pub fn fits(&self, path: &[u8], head: &RequestHead, asked: Asked) -> bool {
        self.path.fits(path)
            && self.fraction.is_none_or(|f| f.takes(asked.random))
            && (!self.grpc_only || is_grpc(head))
            && self.headers.iter().all(|m| m.fits(head, asked.https))
            && self.query.iter().all(|m| m.fits(head.path()))
    }
}

impl Fraction {
    //= envoy: runtime_fraction
    pub fn takes(self, random: u64) -> bool {
        random % self.denominator.max(1) < self.numerator
    }
}

impl PathMatch {
    pub fn fits(&self, path: &[u8]) -> bool {
        match self {
            PathMatch::Exact { path: own, ignore_case } => equal(path, own, *ignore_case),
            PathMatch::Prefix { prefix, ignore_case } => starts(path, prefix, *ignore_case),
            PathMatch::SeparatedPrefix { prefix, ignore_case } => {
                starts(path, prefix, *ignore_case) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Regex(regex) => regex.is_match(path),
        }
    }

    /// How many bytes of a fitting path the rule stands for: what a prefix rewrite replaces.
    pub fn matched_len(&self, path: &[u8]) -> usize {
        match self {
            PathMatch::Prefix { prefix, .. } | PathMatch::SeparatedPrefix { prefix, .. } => prefix.len(),
            PathMatch::Exact { .. } | PathMatch::Regex(_) => path.len(),
        }
    }
}

impl HeaderMatcher {
    pub fn fits(&self, head: &RequestHead, https: bool) -> bool {
        match &self.subject {
            Subject::Method => self.judge(Some(head.method())),
            Subject::Path => self.judge(Some(head.path())),
            Subject::Authority => self.judge(head.authority()),
            Subject::Scheme => self.judge(Some(if https { b"https" } else { b"http" })),
            Subject::Field(name) => self.fits_fields(&head.fields, name),
        }
    }

    /// The same for fields alone, as in the filter of a log over a response.
    //= envoy: of several fields of one name, one that fits is enough
    pub fn fits_fields(&self, fields: &Fields, name: &[u8]) -> bool {
        let mut all = fields.all_named(name);
        let first = all.next();
        match self.rule {
            HeaderRule::Present(_) => self.judge(first),
            _ if first.is_none() => self.judge(None),
            _ => first.into_iter().chain(all).any(|value| self.rule_fits(value)) != self.invert,
        }
    }

    fn judge(&self, value: Option<&[u8]>) -> bool {
        if let HeaderRule::Present(wanted) = self.rule {
            let present = value.is_some() || self.missing_is_empty;
            return (present == wanted) != self.invert;
        }
        let value = match value {
            Some(value) => value,
            None if self.missing_is_empty => b"",
            //= envoy: a rule about a value does not fit a missing field, not even inverted
            None => return false,
        };
        self.rule_fits(value) != self.invert
    }

    fn rule_fits(&self, value: &[u8]) -> bool {
        match &self.rule {
            HeaderRule::Present(wanted) => *wanted,
            HeaderRule::Range { start, end } => number(value).is_some_and(|n| n >= *start && n < *end),
            HeaderRule::Text(text) => text.fits(value),
        }
    }
}

impl QueryMatcher {
    //= envoy: the first parameter of that name counts; nothing is decoded
    pub fn fits(&self, path: &[u8]) -> bool {
        let Some(at) = memchr::memchr(b'?', path) else { return !self.present };
        for parameter in path[at + 1..].split(|b| *b == b'&') {
            let (name, value) = match memchr::memchr(b'=', parameter) {
                Some(at) => (&parameter[..at], &parameter[at + 1..]),
                None => (parameter, &b""[..]),
            };
            if name == &*self.name {
                return self.value.as_ref().map_or(self.present, |m| m.fits(value));
            }
        }
        !self.present
    }
}

impl StringMatcher {
    pub fn fits(&self, value: &[u8]) -> bool {
        match self {
            StringMatcher::Exact { text, ignore_case } => equal(value, text, *ignore_case),
            StringMatcher::Prefix { text, ignore_case } => starts(value, text, *ignore_case),
            StringMatcher::Suffix { text, ignore_case } => match value.len().checked_sub(text.len()) {
                Some(at) => equal(&value[at..], text, *ignore_case),
                None => false,
            },
            StringMatcher::Contains { text, ignore_case: false } => {
                memchr::memmem::find(value, text).is_some()
            }
            StringMatcher::Contains { text, ignore_case: true } => {
                text.is_empty() || value.windows(text.len()).any(|w| w.eq_ignore_ascii_case(text))
            }
            StringMatcher::Regex(regex) => regex.is_match(value),
        }
    }
}

/// The part of a path that rules look at.
pub fn without_query(path: &[u8]) -> &[u8] {
    match memchr::memchr2(b'?', b'#', path) {
        Some(end) => &path[..end],
        None => path,
    }
}

pub fn is_grpc(head: &RequestHead) -> bool {
    let Some(kind) = head.fields.get(HeaderId::ContentType) else { return false };
    //= envoy: a parameter makes it another type
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

fn equal(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

fn starts(text: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    text.get(..prefix.len()).is_some_and(|head| equal(head, prefix, ignore_case))
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}
