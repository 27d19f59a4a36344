//! Load balancers: pure picks over the endpoints that may be used.

pub mod least_request;
pub mod random;
pub mod round_robin;

/// Weights of the endpoints that may be used: made when they change, read by every pick.
#[derive(Debug, Default)]
pub struct Weights {
    list: Vec<u32>,
    /// The sum of the weights up to and with each.
    sums: Vec<u64>,
    equal: bool,
}

impl Weights {
    pub fn new(list: Vec<u32>) -> Weights {
        let mut sum = 0;
        let sums = list
            .iter()
            .map(|&weight| {
                sum += u64::from(weight);
                sum
            })
            .collect();
        let equal = list.windows(2).all(|pair| pair[0] == pair[1]);
        Weights { list, sums, equal }
    }

    pub fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
pub(crate) fn spread(count: usize, rounds: usize, mut pick: impl FnMut() -> usize) -> Vec<usize> {
    let mut hits = vec![0; count];
    for _ in 0..rounds {
        hits[pick()] += 1;
    }
    hits
}
