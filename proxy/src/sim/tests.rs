//! Seeds that once failed, fresh ones, and that one seed is one run.

use selvedge_runtime::{Mutation, Trap};

use super::Simulator;

const KNOWN: &str = include_str!("seeds.txt");

/// Fresh seeds of one test run; `selvedge-sim` runs as many as you like.
const FRESH: u64 = 60;

#[track_caller]
fn check(simulator: &Simulator, seed: u64) -> u64 {
    let outcome = simulator.run(seed, None);
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    outcome.requests
}

fn known() -> Vec<u64> {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let number = line.split(' ').next().and_then(|n| n.parse().ok());
            number.unwrap_or_else(|| panic!("seeds.txt: {line:?} does not begin with a seed"))
        })
        .collect()
}

#[test]
fn seeds_that_found_something_find_it_no_more() {
    let simulator = Simulator::default();
    let known = known();
    assert!(!known.is_empty(), "seeds.txt names no seed");
    let requests: u64 = known.into_iter().map(|seed| check(&simulator, seed)).sum();
    assert!(requests > 0, "nothing was asked for");
}

#[test]
fn fresh_seeds_find_nothing() {
    let simulator = Simulator::default();
    let first = selvedge_runtime::rng::seed() >> 16;
    let requests: u64 = (first..first + FRESH).map(|seed| check(&simulator, seed)).sum();
    assert!(requests > FRESH, "from seed {first} on only {requests} requests");
}

#[test]
fn one_seed_is_one_run() {
    let simulator = Simulator::default();
    for seed in 0..8 {
        let (first, again) = (simulator.run(seed, None), simulator.run(seed, None));
        assert_eq!((first.trace, first.events), (again.trace, again.events), "seed {seed}");
    }
    assert_ne!(simulator.run(1, None).trace, simulator.run(2, None).trace);
}

/// Each planted bug, and within how many seeds it must be found.
const PLANTED: [(Mutation, u64); 5] = [
    (Mutation::LostWake, 600),
    (Mutation::DoubleCompletion, 50),
    (Mutation::ShortChunk, 50),
    (Mutation::LeakedBuffer, 50),
    (Mutation::LateCompletion, 100),
];

#[test]
fn planted_bugs_are_found() {
    assert_eq!(PLANTED.map(|(mutation, _)| mutation), Mutation::ALL);
    let mut late = Vec::new();
    for (mutation, within) in PLANTED {
        let simulator = Simulator::default().planting(mutation);
        let found = (0..within).find(|seed| !simulator.run(*seed, None).violations.is_empty());
        late.extend(found.is_none().then_some((mutation, within)));
    }
    assert!(late.is_empty(), "not found within so many seeds: {late:?}");
}

/// Where a request passes.
const PLACES: [&str; 14] = [
    "admit",
    "request head",
    "request body",
    "request encoding",
    "response head",
    "response body",
    "response encoding",
    "route",
    "pool take",
    "pool wait",
    "pool connect",
    "pool give",
    "reaper",
    "access log",
];

/// Whatever else goes wrong at the same time: a panic is one panic, and nothing leaks, hangs or is mixed up.
#[test]
fn a_panic_leaves_nothing_behind() {
    for place in PLACES {
        let trap = Trap::at(place);
        let simulator = Simulator::default().trapped(trap);
        let (mut sprung, mut seed) = (0, 0);
        while sprung < 4 {
            assert!(seed < 100, "only {sprung} of {seed} seeds come by {place}");
            seed += 1;
            trap.arm();
            let outcome = simulator.run(seed, None);
            if trap.is_armed() {
                assert!(outcome.violations.is_empty(), "{place}, seed {seed}: {:#?}", outcome.violations);
                continue;
            }
            sprung += 1;
            // The line of the log that was being written is lost.
            let line = place == "access log";
            let lost = |v: &str| line && (v.ends_with("the log says []") || v.contains(" lines written "));
            let bearable = |v: &&String| v.ends_with(": 1 panics") || v.contains("on a calm day") || lost(v);
            let other: Vec<_> = outcome.violations.iter().filter(|v| !bearable(v)).collect();
            assert!(other.is_empty(), "{place}, seed {seed}: {other:#?}");
            assert!(outcome.violations.iter().any(|v| v.ends_with(": 1 panics")), "{place}, seed {seed}");
        }
    }
}
