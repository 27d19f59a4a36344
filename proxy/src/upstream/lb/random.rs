//! A weighted die.

use super::Candidate;

/// The place on which `random` falls. `None`: nobody to choose from.
pub fn pick(list: &[Candidate], random: u64) -> Option<usize> {
    let total: u64 = list.iter().map(|c| u64::from(c.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = random % total;
    list.iter().position(|c| {
        let weight = u64::from(c.weight);
        let hit = left < weight;
        left = left.wrapping_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares() {
        let list = [Candidate { weight: 1, active: 0 }, Candidate { weight: 3, active: 0 }];
        let mut n = 0;
        let hits = super::super::spread(2, 400, || {
            n += 1;
            pick(&list, n).expect("two")
        });
        assert_eq!(hits, [100, 300]);
        assert_eq!(pick(&[], 5), None);
    }
}
