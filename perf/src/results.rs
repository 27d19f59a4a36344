//! Cells of an output directory: medians over rounds, and ratios taken within each round.
//!
//! Ratios are formed within a round, where both sides met the same weather, and then the median of the rounds is
//! taken. HAProxy stands with the better of its two runs (with its log and without).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::contender::Contender;

/// One number of each round.
pub type Rounds = Vec<(u64, f64)>;

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return None;
    }
    Some(f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]))
}

/// All cells of an output directory.
#[derive(Debug)]
pub struct Results {
    pub cells: Vec<Value>,
}

impl Results {
    pub fn read(out: &Path) -> Result<Results, String> {
        let dir = out.join("cells");
        let mut names: Vec<_> = fs::read_dir(&dir)
            .map_err(|e| format!("{}: {e}", dir.display()))?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        names.sort();
        let mut cells = Vec::new();
        for name in names {
            let text = fs::read_to_string(&name).map_err(|e| format!("{}: {e}", name.display()))?;
            cells.push(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", name.display()))?);
        }
        Ok(Results { cells })
    }

    /// The measure by round.
    pub fn rounds(&self, scenario: &str, who: Contender, measure: &str) -> Rounds {
        self.cells
            .iter()
            .filter(|c| c["scenario"] == scenario && c["contender"] == who.name())
            .filter_map(|c| Some((c["round"].as_u64()?, c[measure].as_f64()?)))
            .collect()
    }

    pub fn value(&self, scenario: &str, who: Contender, measure: &str) -> Option<f64> {
        middle(&self.rounds(scenario, who, measure))
    }

    pub fn failures(&self, scenario: &str, who: Contender) -> Vec<String> {
        self.cells
            .iter()
            .filter(|c| c["scenario"] == scenario && c["contender"] == who.name())
            .filter_map(|c| c["failed"].as_str().map(str::to_owned))
            .collect()
    }

    /// The other side of a ratio; HAProxy is the better of its two, round by round.
    fn baseline(&self, scenario: &str, who: Contender, measure: &str) -> Rounds {
        let mut rounds = self.rounds(scenario, who, measure);
        if who == Contender::Haproxy {
            for (round, value) in self.rounds(scenario, Contender::HaproxyNoLog, measure) {
                match rounds.iter_mut().find(|r| r.0 == round) {
                    Some(here) => here.1 = here.1.min(value),
                    None => rounds.push((round, value)),
                }
            }
        }
        rounds
    }

    /// `who / base` of each round.
    pub fn ratio(&self, scenario: &str, who: Contender, base: Contender, measure: &str) -> Rounds {
        quotients(&self.rounds(scenario, who, measure), &self.baseline(scenario, base, measure))
    }

    /// The same for what a contender adds to the direct way.
    pub fn added_ratio(&self, scenario: &str, who: Contender, base: Contender, measure: &str) -> Rounds {
        quotients(&self.added(scenario, who, measure), &self.added(scenario, base, measure))
    }

    /// What a contender adds to the direct way.
    pub fn added(&self, scenario: &str, who: Contender, measure: &str) -> Rounds {
        let direct = self.rounds(scenario, Contender::Direct, measure);
        let less = |(round, value): (u64, f64)| at(&direct, round).map(|d| (round, value - d));
        self.rounds(scenario, who, measure).into_iter().filter_map(less).collect()
    }

    /// The same contender in two scenarios.
    pub fn against(&self, scenario: &str, other: &str, who: Contender, measure: &str) -> Rounds {
        quotients(&self.rounds(scenario, who, measure), &self.rounds(other, who, measure))
    }
}

fn at(rounds: &[(u64, f64)], round: u64) -> Option<f64> {
    rounds.iter().find(|r| r.0 == round).map(|r| r.1)
}

fn quotients(over: &[(u64, f64)], under: &[(u64, f64)]) -> Rounds {
    over.iter().filter_map(|&(round, value)| Some((round, value / at(under, round)?))).collect()
}

/// The median of the rounds.
pub fn middle(rounds: &[(u64, f64)]) -> Option<f64> {
    median(&rounds.iter().map(|r| r.1).collect::<Vec<_>>())
}

/// The lowest and the highest round.
pub fn range(rounds: &[(u64, f64)]) -> Option<(f64, f64)> {
    let low = rounds.iter().map(|r| r.1).reduce(f64::min)?;
    let high = rounds.iter().map(|r| r.1).reduce(f64::max)?;
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cell(round: u64, who: Contender, us: f64) -> Value {
        json!({"round": round, "scenario": "tiny64", "contender": who.name(), "cpu_us_per_request": us})
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(range(&[(1, 3.0), (2, 1.0)]), Some((1.0, 3.0)));
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_haproxy_is_the_better_of_two() {
        let cells = vec![
            cell(1, Contender::SelvedgeUring, 8.0),
            cell(1, Contender::Envoy, 32.0),
            cell(1, Contender::Haproxy, 16.0),
            cell(1, Contender::HaproxyNoLog, 10.0),
            cell(2, Contender::SelvedgeUring, 16.0),
            cell(2, Contender::Envoy, 64.0),
            cell(2, Contender::Haproxy, 20.0),
        ];
        let results = Results { cells };
        let ratio =
            |base| middle(&results.ratio("tiny64", Contender::SelvedgeUring, base, "cpu_us_per_request"));
        assert_eq!(ratio(Contender::Envoy), Some(0.25));
        assert_eq!(ratio(Contender::Haproxy), Some(0.8));
        assert_eq!(ratio(Contender::Nginx), None);
    }

    #[test]
    fn added_is_what_is_left_without_the_direct_way() {
        let cells = vec![
            cell(1, Contender::Direct, 2.0),
            cell(1, Contender::SelvedgeUring, 7.0),
            cell(1, Contender::Envoy, 12.0),
            cell(2, Contender::Envoy, 12.0),
        ];
        let results = Results { cells };
        let added =
            results.added_ratio("tiny64", Contender::SelvedgeUring, Contender::Envoy, "cpu_us_per_request");
        assert_eq!(added, [(1, 0.5)]);
    }
}
