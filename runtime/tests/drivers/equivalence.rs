//! Random sequences of operations give the same results on both drivers.
//!
//! A seed is a play of some scenes; a scene takes what it does from the seed and notes what both sides of its
//! connections see, but nothing that depends on when the kernel gets to it. Both drivers must note the same lines.

use super::scenes::{self, Play};
use super::*;

/// Plays of each run. A failure prints its seed and its lines; a seed that failed once stands in `REGRESSIONS`.
const SEEDS: std::ops::Range<u64> = 0..120;
/// Played first.
const REGRESSIONS: [u64; 1] = [
    131, // a receive that waited for a buffer was armed although it was paused
];

/// `None`: this driver cannot run here, which has been said.
fn play(driver: DriverChoice, seed: u64) -> Option<Vec<String>> {
    let rng = Rng::new(seed);
    // One of four plays with groups at their limit, with and without bytes for copies.
    let tight = rng.next().is_multiple_of(4);
    let spare = if rng.next().is_multiple_of(2) { 20_000 } else { 0 };
    let mut config = config(driver);
    if tight {
        (config.small_bufs, config.large_bufs) = (4, 1);
        config.budget_bytes = 4 * limits::SMALL_BYTES + limits::LARGE_BYTES + spare;
    }
    let runtime = Runtime::new(&config).inspect_err(|error| missing(driver, error)).ok()?;
    let rt = runtime.handle();
    let budget = rt.budget().used();
    let noted = runtime.run(async move {
        let mut play = Play::new(rt, rng, format!("seed {seed} on {driver:?}"));
        for _ in 0..5 {
            scenes::any(&mut play).await;
        }
        play.noted
    });
    runtime.wind_down();
    let rt = runtime.handle();
    assert_eq!(
        (rt.sockets_in_use(), rt.tasks_live()),
        (0, 0),
        "seed {seed} on {driver:?}: something is left"
    );
    assert_eq!(rt.panics(), 0, "seed {seed} on {driver:?}");
    assert!(!tight || rt.budget().used() == budget, "seed {seed} on {driver:?}: a block is left");
    Some(noted)
}

#[test]
fn both_drivers_give_the_same_results() {
    for seed in REGRESSIONS.into_iter().chain(SEEDS) {
        let readiness = play(DriverChoice::Epoll, seed).expect("epoll runs everywhere");
        assert!(readiness.len() >= 5, "seed {seed}: every scene notes something");
        let Some(ring) = play(DriverChoice::Uring, seed) else { return };
        assert!(
            ring == readiness,
            "seed {seed}: io_uring:\n  {}\nepoll:\n  {}",
            ring.join("\n  "),
            readiness.join("\n  ")
        );
    }
}
