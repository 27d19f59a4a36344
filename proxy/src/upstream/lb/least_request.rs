//! The less busy of a few.

use super::{Candidate, random};

/// Of `choices` endpoints drawn at random, the one with the fewest requests; with unequal weights, a die whose
/// weights shrink with the requests in flight.
//= envoy: LEAST_REQUEST, choice_count, active_request_bias
pub fn pick(list: &[Candidate], choices: u32, bias: f64, mut draw: impl FnMut() -> u64) -> Option<usize> {
    let first = list.first()?;
    if list.iter().all(|c| c.weight == first.weight) {
        let mut best: Option<usize> = None;
        for _ in 0..choices.max(1) {
            let at = usize::try_from(draw() % list.len() as u64).unwrap_or(0);
            if best.is_none_or(|b| list[at].active < list[b].active) {
                best = Some(at);
            }
        }
        return best;
    }
    let scaled: Vec<Candidate> = list
        .iter()
        .map(|c| {
            let weight = f64::from(c.weight) * 1000.0 / (f64::from(c.active) + 1.0).powf(bias);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounded by the clamp"
            )]
            let weight = weight.clamp(1.0, f64::from(u32::MAX)) as u32;
            Candidate { weight, active: c.active }
        })
        .collect();
    random::pick(&scaled, draw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_one_wins() {
        let list = [Candidate { weight: 1, active: 9 }, Candidate { weight: 1, active: 0 }];
        let rng = selvedge_runtime::rng::Rng::new(3);
        let hits = super::super::spread(2, 1000, || pick(&list, 2, 1.0, || rng.next()).expect("two"));
        assert!(hits[1] > 700, "{hits:?}");
        let list = [
            Candidate { weight: 10, active: 0 },
            Candidate { weight: 10, active: 0 },
            Candidate { weight: 20, active: 3 },
        ];
        let hits = super::super::spread(3, 5000, || pick(&list, 2, 1.0, || rng.next()).expect("three"));
        assert!(hits[0] > hits[2] && hits[1] > hits[2], "{hits:?}");
    }
}
