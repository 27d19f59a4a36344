//! A weighted die.

use super::Weights;

/// The place on which `random` falls. `None`: nobody to choose from.
pub fn pick(weights: &Weights, random: u64) -> Option<usize> {
    let total = weights.total();
    if total == 0 {
        return None;
    }
    let at = random % total;
    Some(weights.sums.partition_point(|&sum| sum <= at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares() {
        let weights = Weights::new(vec![1, 3]);
        let mut n = 0;
        let hits = super::super::spread(2, 400, || {
            n += 1;
            pick(&weights, n).expect("two")
        });
        assert_eq!(hits, [100, 300]);
        assert_eq!(pick(&Weights::default(), 5), None);
    }

    proptest::proptest! {
        #[test]
        fn the_die_falls_where_a_walk_would(list in proptest::collection::vec(1u32..9, 1..20), random: u64) {
            let weights = Weights::new(list.clone());
            let mut left = random % weights.total();
            let walked = list.iter().position(|&w| {
                let hit = left < u64::from(w);
                left = left.wrapping_sub(u64::from(w));
                hit
            });
            proptest::prop_assert_eq!(pick(&weights, random), walked);
        }
    }
}
