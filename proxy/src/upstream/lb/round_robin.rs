//! Each in its turn, by weight.

use super::Weights;

/// Where the round stands: what each endpoint has saved up.
#[derive(Debug, Default, Clone)]
pub struct RoundRobin {
    next: usize,
    saved: Vec<i64>,
}

impl RoundRobin {
    /// Equal weights go in order; unequal ones are interleaved smoothly, each as often as its weight says.
    pub fn pick(&mut self, weights: &Weights) -> Option<usize> {
        let list = &weights.list;
        if list.is_empty() {
            return None;
        }
        if weights.equal {
            let at = self.next % list.len();
            self.next = at + 1;
            return Some(at);
        }
        self.saved.resize(list.len(), 0);
        for (saved, &weight) in self.saved.iter_mut().zip(list) {
            *saved += i64::from(weight);
        }
        let most = (0..list.len()).rev().max_by_key(|&n| self.saved[n])?;
        self.saved[most] -= i64::try_from(weights.total()).unwrap_or(i64::MAX);
        Some(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_and_weights() {
        let list = |weights: &[u32]| Weights::new(weights.to_vec());
        let mut rr = RoundRobin::default();
        let order: Vec<_> = (0..5).map(|_| rr.pick(&list(&[1, 1, 1])).expect("three")).collect();
        assert_eq!(order, [0, 1, 2, 0, 1]);
        let mut rr = RoundRobin::default();
        let order: Vec<_> = (0..6).map(|_| rr.pick(&list(&[2, 1])).expect("two")).collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
        assert_eq!(rr.pick(&list(&[])), None);
    }
}
