//! The index against a scan of the list, and what the index costs.

use std::cell::Cell;
use std::sync::Arc;

use ::regex::bytes::Regex;
use proptest::prelude::*;

use super::*;
use crate::config::regex;
use crate::http::message::HeaderId;
use crate::route::matchers::{
    Fraction, HeaderMatcher, HeaderRule, QueryMatcher, RouteMatch, StringMatcher, Subject,
};
use crate::route::table::{Action, Direct, PerFilter};

/// One route of a random table, written so that the reference below can read it without the code under test.
#[derive(Debug, Clone)]
struct Rule {
    path: Path,
    ignore_case: bool,
    header: Option<(String, bool)>,
    query: Option<String>,
    fraction: Option<u64>,
}

#[derive(Debug, Clone)]
enum Path {
    Exact(String),
    Prefix(String),
    Segments(String),
    Regex(String),
}

fn rule() -> impl Strategy<Value = Rule> {
    let path = prop_oneof![
        "/[ab/]{0,4}".prop_map(Path::Exact),
        "/[ab/]{0,4}".prop_map(Path::Prefix),
        "/[aA]{1,2}(/b)?".prop_map(Path::Segments),
        prop_oneof![Just("/a.*"), Just("/(a|b)*"), Just("/[^/]*/b"), Just(".*")]
            .prop_map(|r| Path::Regex(r.to_owned())),
    ];
    let header = prop::option::weighted(0.3, ("[xy]", any::<bool>()));
    let query = prop::option::weighted(0.2, "[pq]");
    let fraction = prop::option::weighted(0.2, 0_u64..=2);
    (path, prop::bool::weighted(0.3), header, query, fraction).prop_map(
        |(path, ignore_case, header, query, fraction)| Rule { path, ignore_case, header, query, fraction },
    )
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
                Path::Regex(pattern) => PathMatch::Regex(regex::whole(pattern).expect("a pattern")),
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
            Path::Regex(pattern) => {
                let whole = Regex::new(&format!("^(?:{pattern})$")).expect("a pattern");
                whole.is_match(request.path.as_bytes())
            }
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
struct Asking {
    path: String,
    /// Names of parameters without values.
    query: String,
    headers: Vec<(String, String)>,
    random: u64,
}

fn asking() -> impl Strategy<Value = Asking> {
    let headers = (prop::option::of("[12]"), prop::option::of("[12]"));
    ("/[aAb/]{0,6}", "[pq]{0,1}", headers, any::<u64>()).prop_map(|(path, query, (x, y), random)| {
        let headers = [("x", x), ("y", y)];
        let headers =
            headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        Asking { path, query, headers, random }
    })
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_winner_is_that_of_a_scan(rules in prop::collection::vec(rule(), 0..40), asked in prop::collection::vec(asking(), 1..12)) {
        let table = table(vec![host(rules.iter().map(Rule::compile))], vec![("*".to_owned(), 0)]);
        for asked in &asked {
            let question = if asked.query.is_empty() { "" } else { "?" };
            let target = format!("{}{question}{}", asked.path, asked.query);
            let mut head = RequestHead::new(b"GET", b"h", target.as_bytes());
            for (name, value) in &asked.headers {
                head.fields.append_named(name.as_bytes(), value.as_bytes());
            }
            let found = pick(&table, &head, input(asked.random)).ok();
            let found = found.map(|p| table.hosts[0].routes.iter().position(|r| std::ptr::eq(r, p.route)).expect("its own"));
            prop_assert_eq!(found, rules.iter().position(|r| r.fits(asked)), "{:?}", asked);
        }
    }

    #[test]
    fn the_host_is_that_of_a_scan(domains in prop::collection::btree_set("(\\*?[ab.]{1,3}|[ab.]{1,3}\\*|\\*)", 0..12), name in "[abAB.]{0,6}") {
        let domains: Vec<(String, u32)> = domains.into_iter().zip(0..).collect();
        let folded = name.to_ascii_lowercase();
        let longest = |fits: &dyn Fn(&str) -> Option<usize>| {
            domains.iter().filter_map(|(d, i)| Some((fits(d)?, *i))).max_by_key(|(length, _)| *length).map(|(_, i)| i)
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
        let found = DomainIndex::new(domains.clone()).find(name.as_bytes());
        prop_assert_eq!(found, exact.or(suffix).or(prefix).or(any), "{:?}", domains);
    }
}

/// What the choice among 10,000 prefix routes costs: how many routes are tried. Halving finds the candidates, so the
/// last route costs what the first does.
#[test]
fn the_last_of_many_costs_what_the_first_does() {
    const ROUTES: usize = 10_000;
    let path = |n: usize| format!("/service-{n}/");
    let rules: Vec<PathMatch> = (0..ROUTES)
        .map(|n| PathMatch::Prefix { prefix: path(n).as_bytes().into(), ignore_case: false })
        .collect();
    let index = PathIndex::new(rules.iter());
    let tried = |n: usize| {
        let path = format!("{}item", path(n));
        let tried = Cell::new(0_usize);
        let found = index.first(path.as_bytes(), ROUTES, |i| {
            tried.set(tried.get() + 1);
            rules[i].fits(path.as_bytes())
        });
        assert_eq!(found, Some(n));
        tried.get()
    };
    for n in [0, 1, ROUTES / 2, ROUTES - 1] {
        assert_eq!(tried(n), 1, "route {n}");
    }
}

#[test]
fn deep_nesting_falls_back_to_a_scan() {
    let rules: Vec<PathMatch> = (0..2 * LISTS_MAX)
        .map(|n| PathMatch::Prefix {
            prefix: "/".repeat(2 * LISTS_MAX - n).as_bytes().into(),
            ignore_case: false,
        })
        .collect();
    let index = PathIndex::new(rules.iter());
    let path = "/".repeat(2 * LISTS_MAX + 1);
    let first_that = |wanted: usize| index.first(path.as_bytes(), rules.len(), |i| i >= wanted);
    assert_eq!((first_that(0), first_that(40), first_that(99)), (Some(0), Some(40), None));
}

#[test]
fn ports_are_told_from_addresses() {
    for (authority, host) in [
        ("a:80", "a"),
        ("a", "a"),
        ("a:b", "a:b"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
        ("a:", "a"),
    ] {
        assert_eq!(without_port(authority.as_bytes()), host.as_bytes(), "{authority}");
    }
}

#[test]
fn one_of_several_values_is_enough() {
    let mut head = RequestHead::new(b"GET", b"h", b"/");
    head.fields.append_named(b"a", b"v");
    head.fields.append_named(b"a", b"w");
    head.fields.append(HeaderId::Accept, b"x");
    let fits = |name: &str, value: &str, invert: bool| {
        let text = StringMatcher::Exact { text: value.as_bytes().into(), ignore_case: false };
        let subject = Subject::Field(name.as_bytes().into());
        HeaderMatcher { subject, rule: HeaderRule::Text(text), invert, missing_is_empty: false }
            .fits(&head, false)
    };
    assert!(fits("a", "v", false) && fits("a", "w", false) && !fits("a", "v,w", false));
    assert!(
        !fits("a", "w", true) && fits("a", "x", true) && fits("accept", "x", false) && !fits("b", "x", true)
    );
}
