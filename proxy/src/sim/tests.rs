//! Seeds that once failed, fresh ones, and that one seed is one run.

use std::collections::BTreeMap;

use selvedge_runtime::sim::allocations::Counting;
use selvedge_runtime::{Mutation, Trap, memory};

use super::{Outcome, Simulator, ledger, seeds};

/// The unit tests of this crate run over it, so that the simulator's memory is counted.
#[global_allocator]
static ALLOCATOR: Counting<memory::Allocator> = Counting(memory::ALLOCATOR);

const KNOWN: &str = include_str!("seeds.txt");

/// Fresh seeds of one test run; `selvedge-sim` runs as many as you like.
const FRESH: u64 = 60;

#[track_caller]
fn check(simulator: &Simulator, seed: u64) -> Outcome {
    let outcome = simulator.run(seed, None);
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    outcome
}

#[test]
fn seeds_that_found_something_find_it_no_more() {
    let simulator = Simulator::default();
    let known = seeds::parse("proxy/src/sim/seeds.txt", KNOWN).unwrap_or_else(|why| panic!("{why}"));
    for seed in known {
        assert!(check(&simulator, seed).requests > 0, "seed {seed}: nothing was asked for");
    }
}

/// They find nothing, although all that may go wrong does.
#[test]
fn fresh_seeds_find_nothing() {
    let simulator = Simulator::default();
    let first = selvedge_runtime::rng::seed() >> 16;
    let (mut requests, mut tally) = (0, BTreeMap::new());
    for seed in first..first + FRESH {
        let outcome = check(&simulator, seed);
        requests += outcome.requests;
        outcome.tally.iter().for_each(|(what, times)| *tally.entry(*what).or_insert(0) += times);
    }
    assert!(requests > 20 * FRESH, "from seed {first} on only {requests} requests");
    let mut all: Vec<&str> =
        selvedge_runtime::sim::HAPPENINGS.into_iter().chain(ledger::HAPPENINGS).collect();
    all.sort_unstable();
    let happened: Vec<&str> = tally.keys().copied().collect();
    assert_eq!(happened, all, "from seed {first} on");
}

#[test]
fn one_seed_is_one_run() {
    let simulator = Simulator::default();
    for seed in 0..8 {
        let (first, again) = (simulator.run(seed, None), simulator.run(seed, None));
        assert_eq!((first.trace, first.events), (again.trace, again.events), "seed {seed}");
        assert_eq!(first.tally, again.tally, "seed {seed}");
    }
    assert_ne!(simulator.run(1, None).trace, simulator.run(2, None).trace);
}

/// Each planted bug, within how many seeds it must be found, and the first that finds it: looked at first, so that
/// the test is short while that holds.
const PLANTED: [(Mutation, u64, u64); 7] = [
    (Mutation::LostWake, 2_000, 196),
    (Mutation::DoubleCompletion, 50, 0),
    (Mutation::ShortChunk, 50, 0),
    (Mutation::LeakedBuffer, 50, 1),
    (Mutation::LateCompletion, 100, 4),
    (Mutation::EarlyTimer, 50, 0),
    (Mutation::DeadReuse, 400, 7),
];

#[test]
fn planted_bugs_are_found() {
    assert_eq!(PLANTED.map(|(mutation, ..)| mutation), Mutation::ALL);
    let mut late = Vec::new();
    for (mutation, within, first) in PLANTED {
        assert!(first < within && within <= 2_000, "{mutation:?}");
        let simulator = Simulator::default().planting(mutation);
        let finds = |seed: &u64| !simulator.run(*seed, None).violations.is_empty();
        match [first].into_iter().chain(0..within).find(finds) {
            Some(seed) if seed == first => {}
            Some(seed) => eprintln!("{mutation:?} is found by seed {seed}, no more by {first}"),
            None => late.push((mutation, within)),
        }
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
            let missing = ["the log says []", " lines written ", " has 0 lines in the log"];
            let lost = |v: &str| line && missing.iter().any(|text| v.contains(text));
            let told = |v: &str| v.ends_with(": 1 panics") || v.contains("a task panicked: planted in ");
            // What was to be counted next is not, and a calm day is over.
            let uncounted =
                |v: &str| v.ends_with(" were counted") || (place == "admit" && v.ends_with(" counted"));
            let bearable = |v: &&String| told(v) || v.contains("on a calm day") || lost(v) || uncounted(v);
            let other: Vec<_> = outcome.violations.iter().filter(|v| !bearable(v)).collect();
            assert!(other.is_empty(), "{place}, seed {seed}: {other:#?}");
            assert!(outcome.violations.iter().any(|v| v.ends_with(": 1 panics")), "{place}, seed {seed}");
        }
    }
}
