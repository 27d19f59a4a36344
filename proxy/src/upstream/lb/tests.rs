//! Shares and spreads of every balancer.

use selvedge_runtime::rng::Rng;

use super::*;
use crate::config::endpoint::ConfiguredHealth::{Degraded, Draining, Healthy, Unhealthy};

const LEAST: LbPolicy = LbPolicy::LeastRequest { choice_count: 2, active_request_bias: 1.0 };

fn list(weights: &[u32]) -> Vec<Candidate> {
    weights.iter().map(|&weight| Candidate { weight, health: Healthy }).collect()
}

/// Hits by place, with `busy` requests in flight.
fn spread(policy: LbPolicy, list: &[Candidate], busy: &[u32], rounds: usize) -> Vec<usize> {
    let rng = Rng::new(rounds as u64);
    let balancer = Balancer::new(policy, list, 140, 50.0, || rng.next());
    let mut hits = vec![0; list.len()];
    for _ in 0..rounds {
        let choice = balancer.pick(|n| busy.get(n).copied().unwrap_or(0), || rng.next());
        hits[choice.place.expect("somebody")] += 1;
    }
    hits
}

#[test]
fn equal_weights_take_turns_from_a_random_place() {
    let mut firsts = [0; 3];
    for seed in 0..300 {
        let rng = Rng::new(seed);
        let balancer = Balancer::new(LbPolicy::RoundRobin, &list(&[7, 7, 7]), 140, 50.0, || rng.next());
        let order: Vec<_> = (0..6).map(|_| balancer.pick(|_| 0, || 0).place.expect("three")).collect();
        assert!(order.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3), "{order:?}");
        firsts[order[0]] += 1;
    }
    assert!(firsts.iter().all(|&n| n > 60), "{firsts:?}");
}

#[test]
fn weights_are_shares_and_spread_out() {
    let rng = Rng::new(11);
    for _ in 0..50 {
        let count = usize::try_from(rng.next() % 20 + 2).expect("small");
        let weights: Vec<u32> =
            (0..count).map(|_| u32::try_from(rng.next() % 30 + 1).expect("small")).collect();
        let total: u32 = weights.iter().sum();
        let balancer = Balancer::new(LbPolicy::RoundRobin, &list(&weights), 140, 50.0, || rng.next());
        let mut hits = vec![0_u32; count];
        for turn in 1..=total * 4 {
            hits[balancer.pick(|_| 0, || 0).place.expect("somebody")] += 1;
            // Nobody runs ahead of its share or lags behind it by more than a turn for each endpoint.
            for (hit, weight) in hits.iter().zip(&weights) {
                let due = f64::from(turn) * f64::from(*weight) / f64::from(total);
                assert!((f64::from(*hit) - due).abs() <= count as f64, "{hits:?} of {weights:?} at {turn}");
            }
        }
        for (hit, weight) in hits.iter().zip(&weights) {
            assert!(hit.abs_diff(weight * 4) <= 1, "{hits:?} of {weights:?}");
        }
    }
}

#[test]
fn random_is_even_whatever_the_weights() {
    let hits = spread(LbPolicy::Random, &list(&[1, 9, 5, 100]), &[], 8000);
    assert!(hits.iter().all(|&n| (1800..2200).contains(&n)), "{hits:?}");
}

#[test]
fn the_less_busy_of_the_choices_wins() {
    // The busiest of four is taken only when both choices fall on it.
    let hits = spread(LEAST, &list(&[1; 4]), &[9, 0, 0, 0], 16_000);
    assert!((800..1200).contains(&hits[0]), "{hits:?}");
    let many = LbPolicy::LeastRequest { choice_count: 40, active_request_bias: 1.0 };
    assert!(spread(many, &list(&[1; 4]), &[9, 2, 2, 1], 1000)[3] > 990);
}

#[test]
fn weights_shrink_with_requests_in_flight() {
    // 10, 10 and 20 / (3 + 1)
    let hits = spread(LEAST, &list(&[10, 10, 20]), &[0, 0, 3], 5000);
    assert_eq!((hits[0] + hits[1], hits[2]), (4000, 1000), "{hits:?}");
    let unbiased = LbPolicy::LeastRequest { choice_count: 2, active_request_bias: 0.0 };
    assert_eq!(spread(unbiased, &list(&[10, 10, 20]), &[0, 0, 3], 4000)[2], 2000);
}

#[test]
fn health_decides_who_is_asked() {
    let with = |healths: &[ConfiguredHealth], threshold: f64| {
        let list: Vec<_> = healths.iter().map(|&health| Candidate { weight: 1, health }).collect();
        let rng = Rng::new(5);
        let balancer = Balancer::new(LbPolicy::RoundRobin, &list, 140, threshold, || rng.next());
        let mut hits = vec![0_u32; list.len()];
        let mut panic = false;
        for _ in 0..1000 {
            let choice = balancer.pick(|_| 0, || rng.next());
            panic |= choice.panic;
            match choice.place {
                Some(place) => hits[place] += 1,
                None => return (hits, panic),
            }
        }
        (hits, panic)
    };
    assert_eq!(with(&[], 50.0), (vec![], true));
    assert_eq!(with(&[], 0.0), (vec![], false));
    assert_eq!(with(&[Unhealthy], 0.0), (vec![0], false));
    assert_eq!(with(&[Unhealthy, Unhealthy], 50.0), (vec![500, 500], true));
    assert_eq!(with(&[Unhealthy, Healthy], 50.0), (vec![0, 1000], false));
    assert!(with(&[Unhealthy, Unhealthy, Healthy], 50.0).1);
    // One of two that count is healthy.
    assert_eq!(with(&[Unhealthy, Draining, Healthy], 50.0), (vec![0, 0, 1000], false));
    // More than 100 / 1.4 percent healthy: no panic, whatever the threshold.
    assert!(!with(&[Healthy, Healthy, Healthy, Unhealthy], 100.0).1);
    // Half are healthy: 70 percent of the load, the degraded ones take the rest.
    let (hits, panic) = with(&[Healthy, Degraded], 50.0);
    assert!(!panic && (640..760).contains(&hits[0]), "{hits:?}");
    assert_eq!(with(&[Degraded, Unhealthy], 50.0), (vec![1000, 0], false));
}
