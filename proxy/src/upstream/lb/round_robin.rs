//! Each in its turn, by weight.

use super::Candidate;

/// Where the round stands: what each endpoint has saved up.
#[derive(Debug, Default, Clone)]
pub struct RoundRobin {
    next: usize,
    saved: Vec<i64>,
}

impl RoundRobin {
    /// Equal weights go in order; unequal ones are interleaved smoothly, each as often as its weight says.
    pub fn pick(&mut self, list: &[Candidate]) -> Option<usize> {
        let first = list.first()?;
        if list.iter().all(|c| c.weight == first.weight) {
            let at = self.next % list.len();
            self.next = at + 1;
            return Some(at);
        }
        self.saved.resize(list.len(), 0);
        let total: i64 = list.iter().map(|c| i64::from(c.weight)).sum();
        for (saved, c) in self.saved.iter_mut().zip(list) {
            *saved += i64::from(c.weight);
        }
        let most = (0..list.len()).rev().max_by_key(|&n| self.saved[n])?;
        self.saved[most] -= total;
        Some(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_and_weights() {
        let list = |weights: &[u32]| {
            weights.iter().map(|&weight| Candidate { weight, active: 0 }).collect::<Vec<_>>()
        };
        let mut rr = RoundRobin::default();
        let order: Vec<_> = (0..5).map(|_| rr.pick(&list(&[1, 1, 1])).expect("three")).collect();
        assert_eq!(order, [0, 1, 2, 0, 1]);
        let mut rr = RoundRobin::default();
        let order: Vec<_> = (0..6).map(|_| rr.pick(&list(&[2, 1])).expect("two")).collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
        assert_eq!(rr.pick(&[]), None);
    }
}
