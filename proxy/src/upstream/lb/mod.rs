//! Load balancers: pure picks over the endpoints that may be used.

pub mod least_request;
pub mod random;
pub mod round_robin;

/// What a pick looks at: weights, and requests in flight on this shard.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub weight: u32,
    pub active: u32,
}

#[cfg(test)]
pub(crate) fn spread(count: usize, rounds: usize, mut pick: impl FnMut() -> usize) -> Vec<usize> {
    let mut hits = vec![0; count];
    for _ in 0..rounds {
        hits[pick()] += 1;
    }
    hits
}
