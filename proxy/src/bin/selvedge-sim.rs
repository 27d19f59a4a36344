//! Runs the proxy on simulated networks, seed after seed; a seed that fails is named and can be run again.
//!
//! ```text
//! selvedge-sim --seeds 10000        that many seeds, from 0 on
//! selvedge-sim --seeds 10000 --from 5000
//! selvedge-sim --seed 4711          one seed, its configuration and each event
//! selvedge-sim --file seeds.txt     seeds that once failed
//! ```
//! With the cargo feature `mutations` also `--plant NAME`: a bug to be found, of `selvedge_runtime::Mutation`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a program that speaks on stdout and tells how long it took"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use selvedge::log::{self, Level};
use selvedge::sim::command::{self, Command, USAGE, Work};
use selvedge::sim::draw::Scenario;
use selvedge::sim::{Outcome, Simulator, seeds};
use selvedge_runtime::memory;
use selvedge_runtime::sim::allocations::Counting;

#[global_allocator]
static ALLOCATOR: Counting<memory::Allocator> = Counting(memory::ALLOCATOR);

/// Seeds after which a sweep says how far it is.
const PROGRESS: u64 = 500;

fn main() -> ExitCode {
    // What the proxy says to its operator a million times over.
    log::set_level(Level::Off);
    let words: Vec<String> = std::env::args().skip(1).collect();
    match command::parse(&words).map_err(|why| format!("{why}; {USAGE}")).and_then(run) {
        Ok(found) => ExitCode::from(u8::from(found)),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// Does what is asked for; the answer is whether something was found.
fn run(command: Command) -> Result<bool, String> {
    let mut simulator = Simulator::default();
    if let Some(name) = &command.plant {
        simulator = plant(simulator, name)?;
    }
    match command.work {
        Work::Replay(seed) => Ok(replay(&simulator, seed)),
        Work::Sweep { from, seeds } => Ok(sweep(&simulator, from..from + seeds, seeds)),
        Work::File(path) => {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
            let all = seeds::parse(&path, &text)?;
            let count = all.len() as u64;
            Ok(sweep(&simulator, all.into_iter(), count))
        }
    }
}

#[cfg(feature = "mutations")]
fn plant(simulator: Simulator, name: &str) -> Result<Simulator, String> {
    let all = selvedge_runtime::Mutation::ALL;
    let known = all.into_iter().find(|m| format!("{m:?}") == name);
    known.map(|m| simulator.planting(m)).ok_or_else(|| format!("--plant {name}: none of {all:?}"))
}

#[cfg(not(feature = "mutations"))]
fn plant(_: Simulator, name: &str) -> Result<Simulator, String> {
    Err(format!("--plant {name}: built without the feature `mutations`"))
}

fn replay(simulator: &Simulator, seed: u64) -> bool {
    let scenario = Scenario::new(seed);
    println!("{}", scenario.bootstrap);
    println!("{:#?}", Scenario { bootstrap: String::new(), ..scenario });
    let outcome = simulator.run(seed, Some(Box::new(|line| println!("{line}"))));
    println!("{outcome:#?}");
    !outcome.violations.is_empty()
}

/// What came of all seeds so far.
#[derive(Debug, Default)]
struct Sum {
    failed: u64,
    requests: u64,
    responses: u64,
    events: u64,
    /// How often what has happened, and in how many seeds.
    tally: BTreeMap<&'static str, (u64, u64)>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.requests += outcome.requests;
        self.responses += outcome.responses;
        self.events += outcome.events;
        self.failed += u64::from(!outcome.violations.is_empty());
        for (what, times) in &outcome.tally {
            let sum = self.tally.entry(what).or_default();
            *sum = (sum.0 + times, sum.1 + 1);
        }
    }
}

fn sweep(simulator: &Simulator, seeds: impl Iterator<Item = u64>, all: u64) -> bool {
    let (begun, mut sum) = (Instant::now(), Sum::default());
    let say = |done: u64, sum: &Sum| {
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let rate = sum.requests as f64 / minutes;
        let (requests, failed) = (sum.requests, sum.failed);
        println!("{done} of {all} seeds, {failed} violations; {requests} requests, {rate:.0} a minute");
    };
    for (seed, done) in seeds.zip(1u64..) {
        let outcome = simulator.run(seed, None);
        sum.add(&outcome);
        if !outcome.violations.is_empty() {
            println!("seed {seed}: {} violations", outcome.violations.len());
            outcome.violations.iter().take(5).for_each(|v| println!("  {v}"));
        }
        if done.is_multiple_of(PROGRESS) && done < all {
            say(done, &sum);
        }
    }
    println!("what happened, and in how many seeds:");
    for (what, (times, seeds)) in &sum.tally {
        println!("  {what}: {times} in {seeds}");
    }
    println!("{} responses, {} events", sum.responses, sum.events);
    say(all, &sum);
    sum.failed > 0
}
