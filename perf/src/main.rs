//! `selvedge-perf`: load, contenders, measurements.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss, reason = "counts and nanoseconds that become printed ratios")]

mod args;
mod bakeoff;
mod cell;
mod clock;
mod contender;
mod instructions;
mod load;
mod plot;
mod proc;
mod promises;
mod report;
mod results;
mod scenario;
mod stages;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match args::dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("selvedge-perf: {why}");
            ExitCode::FAILURE
        }
    }
}
