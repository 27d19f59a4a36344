//! Files of seeds that once failed.
//!
//! ```text
//! selvedge-sim seeds, version 2
//! # a comment
//! 4711 what it found
//! ```
//! The version is that of the scenarios: when a seed stands for another scenario than before, it is raised, and the
//! seeds are found anew.

use std::collections::BTreeMap;

/// What the seeds of this program stand for.
pub const VERSION: u64 = 2;
const TITLE: &str = "selvedge-sim seeds, version ";

/// The seeds of a file. `Err`: what is wrong in which line.
pub fn parse(file: &str, text: &str) -> Result<Vec<u64>, String> {
    let mut lines = text.lines().zip(1..);
    let title = lines.next().and_then(|(line, _)| line.strip_prefix(TITLE)?.parse::<u64>().ok());
    match title {
        None => return Err(format!("{file}:1: does not say '{TITLE}{VERSION}'")),
        Some(newer) if newer > VERSION => {
            return Err(format!(
                "{file}:1: version {newer} is newer than version {VERSION}, which this program reads"
            ));
        }
        Some(older) if older < VERSION => {
            return Err(format!(
                "{file}:1: version {older} is older than version {VERSION}: its seeds stand for other scenarios"
            ));
        }
        Some(_) => {}
    }
    let (mut seeds, mut known) = (Vec::new(), BTreeMap::new());
    for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
        let wrong = |why: String| Err(format!("{file}:{number}: {why}"));
        let (word, found) = line.split_once(' ').unwrap_or((line, ""));
        let Ok(seed) = word.parse::<u64>() else {
            return wrong(format!("{line:?} does not begin with a seed"));
        };
        if found.trim().is_empty() {
            return wrong(format!("seed {seed} does not say what it found"));
        }
        if let Some(first) = known.insert(seed, number) {
            return wrong(format!("seed {seed} is in line {first} already"));
        }
        seeds.push(seed);
    }
    if seeds.is_empty() {
        return Err(format!("{file}: names no seed"));
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_or_refused() {
        let parsed = |text: &str| parse("FILE", text);
        let refused = |text: &str| parsed(text).expect_err(text);
        let title = "selvedge-sim seeds, version 2\n";
        assert_eq!(
            parsed(&format!("{title}# why\n\n7 a leak\n18446744073709551615 the last")),
            Ok(vec![7, u64::MAX])
        );
        assert_eq!(
            refused("selvedge-sim seeds, version 3\n7 a leak"),
            "FILE:1: version 3 is newer than version 2, which this program reads"
        );
        assert_eq!(
            refused("selvedge-sim seeds, version 1\n"),
            "FILE:1: version 1 is older than version 2: its seeds stand for other scenarios"
        );
        let untitled = "FILE:1: does not say 'selvedge-sim seeds, version 2'";
        for text in
            ["", "7 a leak\n", "selvedge-sim seeds, version two\n", "selvedge-sim seeds, version -1\n"]
        {
            assert_eq!(refused(text), untitled);
        }
        let in_it = |lines: &str| refused(&format!("{title}{lines}"));
        assert_eq!(in_it("x7 a leak"), "FILE:2: \"x7 a leak\" does not begin with a seed");
        assert_eq!(
            in_it("18446744073709551616 too many"),
            "FILE:2: \"18446744073709551616 too many\" does not begin with a seed"
        );
        assert_eq!(in_it("# why\n7 "), "FILE:3: seed 7 does not say what it found");
        assert_eq!(in_it("7 a leak\n7 a leak"), "FILE:3: seed 7 is in line 2 already");
        assert_eq!(in_it("# nothing"), "FILE: names no seed");
    }
}
