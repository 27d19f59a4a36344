//! Load balancers: pure picks over the endpoints that may be used.
//!
//! What a pick needs is prepared when the endpoints change, so that a pick allocates nothing and looks at no
//! endpoint but its choices. Opens no connection; randomness and requests in flight are arguments.

mod edf;
mod health;

use std::cell::{Cell, RefCell};

use crate::config::cluster::LbPolicy;
use crate::config::endpoint::ConfiguredHealth;
use edf::Edf;
pub use health::Shares;

/// What the balancer is told of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub weight: u32,
    pub health: ConfiguredHealth,
}

/// What a pick came to: the place among the candidates, and whether health was disregarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub place: Option<usize>,
    pub panic: bool,
}

/// Picks among the endpoints of one cluster.
#[derive(Debug)]
pub struct Balancer {
    shares: Shares,
    healthy: Group,
    /// Takes what the healthy ones do not.
    degraded: Option<Group>,
}

/// Endpoints that are alike in health.
#[derive(Debug)]
struct Group {
    places: Vec<u32>,
    method: Method,
}

#[derive(Debug)]
enum Method {
    Turn(Cell<usize>),
    Random,
    Least(u32),
    /// Unequal weights: by earliest deadline. `Some`: weights shrink with the requests in flight, by this bias.
    Weighted {
        edf: RefCell<Edf>,
        weights: Vec<u32>,
        bias: Option<f64>,
    },
}

impl Balancer {
    /// `draw`: random numbers; where a round begins differs from shard to shard.
    pub fn new(
        policy: LbPolicy,
        list: &[Candidate],
        overprovisioning: u32,
        panic_threshold: f64,
        mut draw: impl FnMut() -> u64,
    ) -> Balancer {
        let count = |health| list.iter().filter(|c| c.health == health).count();
        let (healthy, degraded) = (count(ConfiguredHealth::Healthy), count(ConfiguredHealth::Degraded));
        //= envoy: draining endpoints are excluded where the healthy ones are set against all
        let all = list.len() - count(ConfiguredHealth::Draining);
        let shares = Shares::new(healthy, degraded, all, overprovisioning, panic_threshold);
        let mut group = |takes: &dyn Fn(ConfiguredHealth) -> bool| {
            let places = (0..list.len()).filter(|&n| takes(list[n].health)).collect();
            Group::new(policy, list, places, draw())
        };
        let panic = shares.panic;
        Balancer {
            healthy: group(&|h| panic || h == ConfiguredHealth::Healthy),
            degraded: (!panic && shares.healthy_percent < 100)
                .then(|| group(&|h| h == ConfiguredHealth::Degraded)),
            shares,
        }
    }

    /// The endpoint for one attempt. `active`: requests in flight at a place.
    pub fn pick(&self, active: impl Fn(usize) -> u32, mut draw: impl FnMut() -> u64) -> Choice {
        let group = match &self.degraded {
            Some(degraded) if draw() % 100 >= u64::from(self.shares.healthy_percent) => degraded,
            _ => &self.healthy,
        };
        Choice { place: group.pick(active, draw), panic: self.shares.panic }
    }
}

impl Group {
    fn new(policy: LbPolicy, list: &[Candidate], places: Vec<usize>, start: u64) -> Group {
        let weights: Vec<u32> = places.iter().map(|&n| list[n].weight).collect();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let begin = usize::try_from(start % weights.len().max(1) as u64).unwrap_or(0);
        let weighted = |bias| Method::Weighted {
            edf: RefCell::new(Edf::new(&weights, begin)),
            weights: weights.clone(),
            bias,
        };
        let method = match policy {
            LbPolicy::RoundRobin if equal => Method::Turn(Cell::new(begin)),
            LbPolicy::RoundRobin => weighted(None),
            //= envoy: RANDOM disregards weights
            LbPolicy::Random => Method::Random,
            LbPolicy::LeastRequest { choice_count, .. } if equal => Method::Least(choice_count),
            LbPolicy::LeastRequest { active_request_bias, .. } => weighted(Some(active_request_bias)),
        };
        let places = places.into_iter().map(|n| u32::try_from(n).expect("fewer than 2^32")).collect();
        Group { places, method }
    }

    fn pick(&self, active: impl Fn(usize) -> u32, mut draw: impl FnMut() -> u64) -> Option<usize> {
        let place = |n: usize| self.places[n] as usize;
        if self.places.len() < 2 {
            return self.places.first().map(|_| place(0));
        }
        let len = self.places.len() as u64;
        let mut any = || usize::try_from(draw() % len).unwrap_or(0);
        let at = match &self.method {
            Method::Turn(next) => {
                let at = next.get();
                next.set(if at + 1 == self.places.len() { 0 } else { at + 1 });
                at
            }
            Method::Random => any(),
            //= envoy: LEAST_REQUEST, choice_count
            Method::Least(choices) => {
                let mut best = any();
                for _ in 1..*choices {
                    let other = any();
                    if active(place(other)) < active(place(best)) {
                        best = other;
                    }
                }
                best
            }
            Method::Weighted { edf, weights, bias } => edf.borrow_mut().pick(|n| {
                let weight = f64::from(weights[n]);
                match bias {
                    None => weight,
                    //= envoy: active_request_bias
                    Some(bias) => weight / (f64::from(active(place(n))) + 1.0).powf(*bias),
                }
            })?,
        };
        Some(place(at))
    }
}

#[cfg(test)]
mod tests;
