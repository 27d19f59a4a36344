//! Runs the proxy on simulated networks, seed after seed; a seed that fails is named and can be run again.
//!
//! ```text
//! selvedge-sim --seeds 10000        that many seeds, from 0 on
//! selvedge-sim --seeds 10000 --from 5000
//! selvedge-sim --seed 4711          one seed, its configuration and each event
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a program that speaks on stdout and tells how long it took"
)]

use std::process::ExitCode;
use std::time::Instant;

use selvedge::log::{self, Level};
use selvedge::sim::Simulator;
use selvedge::sim::draw::Scenario;

#[global_allocator]
static ALLOCATOR: selvedge_runtime::memory::Allocator = selvedge_runtime::memory::ALLOCATOR;

const USAGE: &str = "usage: selvedge-sim --seeds N [--from N] | --seed N";

fn main() -> ExitCode {
    // What the proxy says to its operator a million times over.
    log::set_level(Level::Off);
    let (mut seeds, mut from, mut one) = (1_000, 0, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(number) = words.next().and_then(|n| n.parse::<u64>().ok()) else {
            eprintln!("{word}: a number is missing; {USAGE}");
            return ExitCode::from(2);
        };
        match word.as_str() {
            "--seeds" => seeds = number,
            "--from" => from = number,
            "--seed" => one = Some(number),
            _ => {
                eprintln!("{word}: unknown; {USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match one {
        Some(seed) => replay(seed),
        None => sweep(from, seeds),
    }
}

fn replay(seed: u64) -> ExitCode {
    let scenario = Scenario::new(seed);
    println!("{}", scenario.bootstrap);
    println!("{:#?}", Scenario { bootstrap: String::new(), ..scenario });
    let outcome = Simulator::default().run(seed, Some(Box::new(|line| println!("{line}"))));
    println!("{outcome:#?}");
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

fn sweep(from: u64, seeds: u64) -> ExitCode {
    let simulator = Simulator::default();
    let (begun, mut failed, mut requests, mut responses, mut events) = (Instant::now(), 0, 0, 0, 0);
    for seed in from..from + seeds {
        let outcome = simulator.run(seed, None);
        requests += outcome.requests;
        responses += outcome.responses;
        events += outcome.events;
        if !outcome.violations.is_empty() {
            failed += 1;
            println!("seed {seed}: {} violations", outcome.violations.len());
            outcome.violations.iter().take(5).for_each(|v| println!("  {v}"));
        }
        let done = seed - from + 1;
        if done.is_multiple_of(500) {
            let minutes = begun.elapsed().as_secs_f64() / 60.0;
            let rate = requests as f64 / minutes;
            println!("{done} of {seeds} seeds, {failed} failed; {requests} requests, {rate:.0} a minute");
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds, {failed} violations; {requests} requests, {responses} responses, {events} events, {seconds:.1} s"
    );
    ExitCode::from(u8::from(failed > 0))
}
