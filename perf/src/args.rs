//! The command line.

use std::path::PathBuf;

use crate::bakeoff::{self, Options, say};
use crate::contender::{self, Contender};
use crate::instructions;
use crate::scenario::{self, Scenario};
use crate::stages::{self, Stage};

const USAGE: &str = "selvedge-perf <command>

bakeoff      all contenders over all scenarios, side by side, in interleaved rounds
  --quick              four scenarios, three short rounds: at most six minutes
  --rounds N           5 unless told
  --seconds S          length of a measured window (2.5; quick 1.5)
  --scenario A,B       only these (may be repeated)
  --contender A,B      only these (may be repeated)
  --out DIR            target/bakeoff unless told
  --resume             keep the cells that DIR already has
  --selvedge FILE      this proxy instead of building one
  --envoy FILE         this Envoy
instructions the sans-IO code's instructions a request, stage by stage, counted by callgrind (valgrind)
  --stage A,B          only these
  --top N              so many functions of each stage (8)
  --out DIR            target/instructions unless told
list         the scenarios, the contenders and the stages";

pub fn dispatch(words: &[String]) -> Result<(), String> {
    let (command, rest) = words.split_first().map_or(("help", &[][..]), |(c, r)| (c.as_str(), r));
    match command {
        "bakeoff" => bakeoff::run(&options(rest)?),
        "instructions" => instructions::run(&instructions_options(rest)?),
        "instructions-of" => instructions::run_stage(rest),
        "list" => {
            for s in scenario::ALL {
                say(&format!("{:<18} {}", s.name, s.title));
            }
            for c in contender::ALL {
                say(c.name());
            }
            for s in stages::ALL {
                say(&format!("{:<18} {}", s.name(), s.title()));
            }
            Ok(())
        }
        "help" | "--help" | "-h" => {
            say(USAGE);
            Ok(())
        }
        other => Err(format!("unknown command {other:?}\n{USAGE}")),
    }
}

fn instructions_options(words: &[String]) -> Result<instructions::Options, String> {
    let mut options =
        instructions::Options { out: PathBuf::from("target/instructions"), stages: Vec::new(), top: 8 };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--out" => options.out = value()?.into(),
            "--top" => options.top = value()?.parse().map_err(|_| "--top: a number")?,
            "--stage" => {
                for name in value()?.split(',') {
                    let known = || format!("no stage {name:?}; see `selvedge-perf list`");
                    options.stages.push(Stage::from_name(name).ok_or_else(known)?);
                }
            }
            other => return Err(format!("unknown option {other:?}\n{USAGE}")),
        }
    }
    if options.stages.is_empty() {
        options.stages = stages::ALL.to_vec();
    }
    Ok(options)
}

fn options(words: &[String]) -> Result<Options, String> {
    let mut options = Options {
        quick: false,
        rounds: 0,
        scenarios: Vec::new(),
        contenders: Vec::new(),
        out: PathBuf::from("target/bakeoff"),
        resume: false,
        selvedge: None,
        envoy: None,
        warm_ns: 500_000_000,
        window_ns: 0,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--quick" => options.quick = true,
            "--resume" => options.resume = true,
            "--rounds" => {
                options.rounds =
                    value()?.parse().ok().filter(|&n| n > 0).ok_or("--rounds: a positive number")?
            }
            "--seconds" => options.window_ns = nanoseconds(&value()?)?,
            "--out" => options.out = value()?.into(),
            "--selvedge" => options.selvedge = Some(value()?.into()),
            "--envoy" => options.envoy = Some(value()?.into()),
            "--scenario" => {
                for name in value()?.split(',') {
                    let known = || format!("no scenario {name:?}; see `selvedge-perf list`");
                    options.scenarios.push(Scenario::from_name(name).ok_or_else(known)?);
                }
            }
            "--contender" => {
                for name in value()?.split(',') {
                    let known = || format!("no contender {name:?}; see `selvedge-perf list`");
                    options.contenders.push(Contender::from_name(name).ok_or_else(known)?);
                }
            }
            other => return Err(format!("unknown option {other:?}\n{USAGE}")),
        }
    }
    let quick = options.quick;
    if options.rounds == 0 {
        options.rounds = if quick { 3 } else { 5 };
    }
    if options.window_ns == 0 {
        options.window_ns = if quick { 1_500_000_000 } else { 2_500_000_000 };
    }
    if quick {
        options.warm_ns = 300_000_000;
    }
    if options.scenarios.is_empty() {
        options.scenarios = scenario::ALL.into_iter().filter(|s| s.quick || !quick).collect();
    }
    if options.contenders.is_empty() {
        options.contenders = contender::ALL.to_vec();
    }
    Ok(options)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be between 0 and 1,000 seconds"
)]
fn nanoseconds(seconds: &str) -> Result<u64, String> {
    let seconds: f64 = seconds.parse().map_err(|_| "--seconds: a number")?;
    if !(0.05..=1000.0).contains(&seconds) {
        return Err("--seconds: between 0.05 and 1000".to_owned());
    }
    Ok((seconds * 1e9) as u64)
}
