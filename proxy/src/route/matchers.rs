//! Path, header and query matchers. Pure.

use regex::bytes::Regex;

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
    /// `None`: to be present is enough.
    pub value: Option<StringMatcher>,
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
