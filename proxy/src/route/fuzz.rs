//! What is fuzzed of the choice of a route: the indices find what a scan of the list finds.
//!
//! The scan reads the words of the API itself, and shares no code with the matchers and the indices.

use std::sync::{Arc, OnceLock};

use ::regex::bytes::Regex;
use selvedge_runtime::fuzz::Bytes;

use super::matchers::{
    Fraction, HeaderMatcher, HeaderRule, PathMatch, QueryMatcher, RouteMatch, StringMatcher, Subject,
};
use super::pick::{DomainIndex, PathIndex, PickInput, pick};
use super::table::{Action, Direct, Mutations, PerFilter, RequireTls, Route, RouteTable, VirtualHost};
use crate::config::regex;
use crate::http::message::RequestHead;

/// What a pattern means: whether it matches a whole path.
type Meaning = fn(&str) -> bool;

/// Patterns, and what each of them means.
pub(crate) const PATTERNS: [(&str, Meaning); 4] = [
    ("/a.*", |path| path.starts_with("/a")),
    ("/(a|b)*", |path| path[1..].bytes().all(|b| b == b'a' || b == b'b')),
    ("/[^/]*/b", |path| path.ends_with("/b") && path.matches('/').count() == 2),
    (".*", |_| true),
];

/// Compiled once: that costs more than all the rest.
static COMPILED: OnceLock<Vec<Regex>> = OnceLock::new();

fn patterns() -> Vec<Regex> {
    PATTERNS.iter().map(|(pattern, _)| regex::whole(pattern).expect("a pattern")).collect()
}

/// A table, some requests, and some domains with the names that are looked for.
pub fn choice(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    if bytes.flag() {
        let mut domains: Vec<String> = (0..bytes.below(12)).map(|_| domain(&mut bytes)).collect();
        domains.sort();
        domains.dedup();
        let domains: Vec<(String, u32)> = domains.into_iter().zip(0..).collect();
        while !bytes.is_empty() {
            check_host(&domains, &bytes.text(b"abAB.", 6));
        }
        return;
    }
    let rules: Vec<Rule> = (0..bytes.below(40)).map(|_| rule(&mut bytes)).collect();
    let table = compile(&rules);
    while !bytes.is_empty() {
        check_in(&table, &rules, &asking(&mut bytes));
    }
}

fn domain(bytes: &mut Bytes<'_>) -> String {
    let name = bytes.text(b"ab.", 3);
    match bytes.below(3) {
        0 if !name.is_empty() => name,
        1 => format!("*{name}"),
        _ => format!("{name}*"),
    }
}

fn rule(bytes: &mut Bytes<'_>) -> Rule {
    let path = match bytes.below(8) {
        0 | 1 => Path::Exact(format!("/{}", bytes.text(b"ab/", 4))),
        2..=4 => Path::Prefix(format!("/{}", bytes.text(b"ab/", 4))),
        5 | 6 => Path::Segments(format!("/{}", bytes.text(b"aAb", 3))),
        _ => Path::Regex(bytes.below(PATTERNS.len())),
    };
    let bits = bytes.byte();
    let bit = |n: u32| bits >> n & 1 == 1;
    Rule {
        path,
        ignore_case: bit(0),
        header: bit(1).then(|| (bytes.text(b"xy", 1), bit(2))).filter(|(name, _)| !name.is_empty()),
        query: bit(3).then(|| bytes.one_of(&["p", "q"]).to_owned()),
        fraction: bit(4).then(|| u64::from(bits >> 5) % 3),
    }
}

fn asking(bytes: &mut Bytes<'_>) -> Asking {
    let headers = ["x", "y"].map(|name| (name.to_owned(), bytes.text(b"12", 1)));
    Asking {
        path: format!("/{}", bytes.text(b"aAb/", 6)),
        query: bytes.text(b"pq", 1),
        headers: headers.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
        random: u64::from(bytes.byte()),
    }
}

/// One route of a random table, written so that the reference below can read it without the code under test.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) path: Path,
    pub(crate) ignore_case: bool,
    pub(crate) header: Option<(String, bool)>,
    pub(crate) query: Option<String>,
    pub(crate) fraction: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Path {
    Exact(String),
    Prefix(String),
    Segments(String),
    /// By its number in the list of patterns.
    Regex(usize),
}

impl Rule {
    fn compile(&self) -> RouteMatch {
        let ignore_case = self.ignore_case;
        let bytes = |text: &String| text.as_bytes().into();
        RouteMatch {
            path: match &self.path {
                Path::Exact(path) => PathMatch::Exact { path: bytes(path), ignore_case },
                Path::Prefix(prefix) => PathMatch::Prefix { prefix: bytes(prefix), ignore_case },
                Path::Segments(prefix) => PathMatch::SeparatedPrefix { prefix: bytes(prefix), ignore_case },
                Path::Regex(n) => PathMatch::Regex(COMPILED.get_or_init(patterns)[*n].clone()),
            },
            headers: self
                .header
                .iter()
                .map(|(name, invert)| HeaderMatcher {
                    subject: Subject::Field(bytes(name)),
                    rule: HeaderRule::Text(StringMatcher::Exact { text: (*b"1").into(), ignore_case: false }),
                    invert: *invert,
                    missing_is_empty: false,
                })
                .collect(),
            query: self
                .query
                .iter()
                .map(|name| QueryMatcher { name: bytes(name), value: None, present: true })
                .collect(),
            fraction: self.fraction.map(|numerator| Fraction { numerator, denominator: 2 }),
            grpc_only: false,
        }
    }

    /// The reference: what the words of the API say, without an index and without the matchers.
    fn fits(&self, request: &Asking) -> bool {
        let fold = |text: &str| if self.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let path = fold(&request.path);
        let path_fits = match &self.path {
            Path::Exact(own) => path == fold(own),
            Path::Prefix(own) => path.starts_with(&fold(own)),
            Path::Segments(own) => path == fold(own) || path.starts_with(&format!("{}/", fold(own))),
            Path::Regex(n) => PATTERNS[*n].1(&request.path),
        };
        let header_fits = self.header.as_ref().is_none_or(|(name, invert)| {
            let value = request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            value.is_some_and(|v| (v == "1") != *invert)
        });
        let query_fits = self.query.as_ref().is_none_or(|name| request.query.contains(name.as_str()));
        let fraction_fits = self.fraction.is_none_or(|numerator| request.random % 2 < numerator);
        path_fits && header_fits && query_fits && fraction_fits
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) path: String,
    /// Names of parameters without values.
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) random: u64,
}

fn host(matchers: impl Iterator<Item = RouteMatch>) -> VirtualHost {
    let routes: Vec<Route> = matchers.map(route).collect();
    VirtualHost {
        name: Arc::from("host"),
        paths: PathIndex::new(routes.iter().map(|r| &r.matcher.path)),
        routes,
        require_tls: RequireTls::None,
        mutations: Mutations::default(),
        per_filter: PerFilter::default(),
    }
}

fn route(matcher: RouteMatch) -> Route {
    Route {
        name: Arc::from(""),
        matcher,
        action: Action::Direct(Direct { status: 200, body: Arc::from(&b""[..]) }),
        mutations: Mutations::default(),
        per_filter: PerFilter::default(),
    }
}

fn table(hosts: Vec<VirtualHost>, domains: Vec<(String, u32)>) -> RouteTable {
    RouteTable {
        name: Arc::from("table"),
        hosts,
        domains: DomainIndex::new(domains),
        ignore_port_in_host: false,
        mutations: Mutations::default(),
        most_specific_wins: false,
        per_filter: PerFilter::default(),
    }
}

fn input(random: u64) -> PickInput {
    PickInput { random, https: false, internal: false }
}

fn compile(rules: &[Rule]) -> RouteTable {
    table(vec![host(rules.iter().map(Rule::compile))], vec![("*".to_owned(), 0)])
}

/// The winner is that of a scan.
#[cfg(test)]
pub(crate) fn check_route(rules: &[Rule], asked: &Asking) {
    check_in(&compile(rules), rules, asked);
}

fn check_in(table: &RouteTable, rules: &[Rule], asked: &Asking) {
    let question = if asked.query.is_empty() { "" } else { "?" };
    let target = format!("{}{question}{}", asked.path, asked.query);
    let mut head = RequestHead::new(b"GET", b"h", target.as_bytes());
    for (name, value) in &asked.headers {
        head.fields.append_named(name.as_bytes(), value.as_bytes());
    }
    let found = pick(table, &head, input(asked.random)).ok();
    let routes = &table.hosts[0].routes;
    let found = found.map(|p| routes.iter().position(|r| std::ptr::eq(r, p.route)).expect("its own"));
    assert_eq!(found, rules.iter().position(|r| r.fits(asked)), "{asked:?} {rules:?}");
}

/// The virtual host is that of a scan.
pub(crate) fn check_host(domains: &[(String, u32)], name: &str) {
    let folded = name.to_ascii_lowercase();
    let longest = |fits: &dyn Fn(&str) -> Option<usize>| {
        let fitting = domains.iter().filter_map(|(d, i)| Some((fits(d)?, *i)));
        fitting.max_by_key(|(length, _)| *length).map(|(_, i)| i)
    };
    let exact = longest(&|d| (d == folded).then_some(0));
    let suffix = longest(&|d| {
        let rest = d.strip_prefix('*').filter(|r| !r.is_empty())?;
        (folded.len() > rest.len() && folded.ends_with(rest)).then_some(rest.len())
    });
    let prefix = longest(&|d| {
        let rest = d.strip_suffix('*').filter(|r| !r.is_empty() && !d.starts_with('*'))?;
        (folded.len() > rest.len() && folded.starts_with(rest)).then_some(rest.len())
    });
    let any = longest(&|d| (d == "*").then_some(0));
    let found = DomainIndex::new(domains.to_vec()).find(name.as_bytes());
    assert_eq!(found, exact.or(suffix).or(prefix).or(any), "{name:?} {domains:?}");
}
