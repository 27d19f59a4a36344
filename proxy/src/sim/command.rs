//! The words of `selvedge-sim`.

pub const USAGE: &str = "usage: selvedge-sim --seeds N [--from N] | --seed N | --file PATH";

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Command {
    pub work: Work,
    /// A bug to be found, by name.
    pub plant: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// One seed, its configuration and each event.
    Replay(u64),
    Sweep {
        from: u64,
        seeds: u64,
    },
    /// The seeds of a file.
    File(String),
}

impl Default for Work {
    fn default() -> Work {
        Work::Sweep { from: 0, seeds: 1_000 }
    }
}

/// Reads the words behind the program's name.
pub fn parse(words: &[String]) -> Result<Command, String> {
    let (mut seeds, mut from, mut one, mut file, mut plant) = (None, None, None, None, None);
    for pair in words.chunks(2) {
        let [word, value] = pair else { return Err(format!("{}: a value is missing", pair[0])) };
        let number = || value.parse::<u64>().map_err(|e| format!("{word} {value}: {e}"));
        let again = match word.as_str() {
            "--seeds" => seeds.replace(number()?).is_some(),
            "--from" => from.replace(number()?).is_some(),
            "--seed" => one.replace(number()?).is_some(),
            "--file" => file.replace(value.clone()).is_some(),
            "--plant" => plant.replace(value.clone()).is_some(),
            _ => return Err(format!("{word}: unknown")),
        };
        if again {
            return Err(format!("{word}: twice"));
        }
    }
    let sweeps = seeds.is_some() || from.is_some();
    let work = match (one, file) {
        (Some(_), Some(_)) => return Err("--seed, --file: one of them".to_owned()),
        (Some(_), None) if sweeps => {
            return Err("--seed: says which one; --seeds and --from say which others".to_owned());
        }
        (None, Some(_)) if sweeps => {
            return Err("--file: says which ones; so do --seeds and --from".to_owned());
        }
        (Some(seed), None) => Work::Replay(seed),
        (None, Some(path)) => Work::File(path),
        (None, None) => sweep(seeds.unwrap_or(1_000), from.unwrap_or(0))?,
    };
    Ok(Command { work, plant })
}

fn sweep(seeds: u64, from: u64) -> Result<Work, String> {
    if seeds == 0 {
        return Err("--seeds 0: nothing would run".to_owned());
    }
    if from.checked_add(seeds).is_none() {
        return Err(format!("--from {from} --seeds {seeds}: the last seed is {}", u64::MAX - 1));
    }
    Ok(Work::Sweep { from, seeds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_read() {
        let work = |line: &str| parsed(line).map(|command| command.work);
        assert_eq!(work(""), Ok(Work::Sweep { from: 0, seeds: 1_000 }));
        assert_eq!(work("--from 7 --seeds 3"), Ok(Work::Sweep { from: 7, seeds: 3 }));
        assert_eq!(work("--seed 4711"), Ok(Work::Replay(4711)));
        assert_eq!(work("--file seeds.txt"), Ok(Work::File("seeds.txt".to_owned())));
        assert_eq!(parsed("--plant LostWake --seed 1").map(|c| c.plant), Ok(Some("LostWake".to_owned())));
    }

    #[test]
    fn bad_words_are_refused() {
        for (line, why) in [
            ("--seeds", "--seeds: a value is missing"),
            ("--seeds many", "--seeds many: invalid digit found in string"),
            ("--seed -1", "--seed -1: invalid digit found in string"),
            (
                "--seed 18446744073709551616",
                "--seed 18446744073709551616: number too large to fit in target type",
            ),
            ("--seeds 0", "--seeds 0: nothing would run"),
            (
                "--from 18446744073709551615 --seeds 1",
                "--from 18446744073709551615 --seeds 1: the last seed is 18446744073709551614",
            ),
            ("--seed 1 --seed 2", "--seed: twice"),
            ("--seed 1 --from 2", "--seed: says which one; --seeds and --from say which others"),
            ("--seed 1 --file x", "--seed, --file: one of them"),
            ("--file x --seeds 2", "--file: says which ones; so do --seeds and --from"),
            ("--speed 9", "--speed: unknown"),
        ] {
            assert_eq!(parsed(line), Err(why.to_owned()), "{line}");
        }
    }
}
