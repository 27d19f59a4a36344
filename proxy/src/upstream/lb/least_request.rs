//! The less busy of a few.

use super::Weights;

/// Of `choices` endpoints drawn at random, the one with the fewest requests; with unequal weights, a die whose
/// weights shrink with the requests in flight. `active` tells those of a place.
//= envoy: LEAST_REQUEST, choice_count, active_request_bias
pub fn pick(
    weights: &Weights,
    choices: u32,
    bias: f64,
    active: impl Fn(usize) -> u32,
    mut draw: impl FnMut() -> u64,
) -> Option<usize> {
    let count = weights.list.len();
    if count == 0 {
        return None;
    }
    if weights.equal {
        let mut best: Option<(usize, u32)> = None;
        for _ in 0..choices.max(1) {
            let at = usize::try_from(draw() % count as u64).unwrap_or(0);
            let busy = active(at);
            if best.is_none_or(|(_, least)| busy < least) {
                best = Some((at, busy));
            }
        }
        return best.map(|(at, _)| at);
    }
    let scaled = |at: usize| {
        let busy = f64::from(active(at)) + 1.0;
        let shrunk = if bias.to_bits() == 1.0f64.to_bits() { busy } else { busy.powf(bias) };
        f64::from(weights.list[at]) / shrunk
    };
    let total: f64 = (0..count).map(scaled).sum();
    #[expect(clippy::cast_precision_loss, reason = "53 of the 64 bits make the fraction")]
    let mut left = (draw() >> 11) as f64 / (1u64 << 53) as f64 * total;
    let found = (0..count).find(|&at| {
        left -= scaled(at);
        left < 0.0
    });
    found.or(Some(count - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_one_wins() {
        let rng = selvedge_runtime::rng::Rng::new(3);
        let spread = |weights: &[u32], active: &[u32], rounds| {
            let weights = Weights::new(weights.to_vec());
            super::super::spread(active.len(), rounds, || {
                pick(&weights, 2, 1.0, |at| active[at], || rng.next()).expect("some")
            })
        };
        let hits = spread(&[1, 1], &[9, 0], 1000);
        assert!(hits[1] > 700, "{hits:?}");
        let hits = spread(&[10, 10, 20], &[0, 0, 3], 5000);
        assert!(hits[0] > hits[2] && hits[1] > hits[2], "{hits:?}");
    }
}
