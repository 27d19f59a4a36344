//! The index against a scan of the list, and what the index costs.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::http::message::HeaderId;
use crate::route::fuzz::{Asking, PATTERNS, Path, Rule, check_host, check_route};
use crate::route::matchers::{HeaderMatcher, HeaderRule, StringMatcher, Subject};

fn rule() -> impl Strategy<Value = Rule> {
    let path = prop_oneof![
        "/[ab/]{0,4}".prop_map(Path::Exact),
        "/[ab/]{0,4}".prop_map(Path::Prefix),
        "/[aA]{1,2}(/b)?".prop_map(Path::Segments),
        (0..PATTERNS.len()).prop_map(Path::Regex),
    ];
    let header = prop::option::weighted(0.3, ("[xy]", any::<bool>()));
    let query = prop::option::weighted(0.2, "[pq]");
    let fraction = prop::option::weighted(0.2, 0_u64..=2);
    (path, prop::bool::weighted(0.3), header, query, fraction).prop_map(
        |(path, ignore_case, header, query, fraction)| Rule { path, ignore_case, header, query, fraction },
    )
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_winner_is_that_of_a_scan(rules in prop::collection::vec(rule(), 0..40), asked in prop::collection::vec(asking(), 1..12)) {
        asked.iter().for_each(|asked| check_route(&rules, asked));
    }

    #[test]
    fn the_host_is_that_of_a_scan(domains in prop::collection::btree_set("(\\*?[ab.]{1,3}|[ab.]{1,3}\\*|\\*)", 0..12), name in "[abAB.]{0,6}") {
        let domains: Vec<(String, u32)> = domains.into_iter().zip(0..).collect();
        check_host(&domains, &name);
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
