//! Overload: what is measured, what is decided, and what shards read of it.
//!
//! [`Machine`] is sans-IO: readings in, levels of actions out. [`Monitors`] reads on the control thread. Shards look at
//! [`Shares`]: plain cells, one relaxed load where a request, a connection or a timer begins. Without an overload
//! manager they stay zero. Not here: the answer to a request that is shed (`stream`), the byte budget (`runtime`).

pub mod budget;
mod cpu;
mod machine;
mod monitors;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::overload::Floor;

pub use machine::{Machine, Reading};
pub use monitors::Monitors;

/// What an action does to shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    StopRequests,
    DisableKeepalive,
    StopConnections,
    RejectConnections,
    CloseIdle,
    ConnectionIdle,
    StreamIdle,
    ConnectionMax,
}

const EFFECTS: usize = Effect::ConnectionMax as usize + 1;

impl Effect {
    /// The effect of a well-known action, by its name behind `envoy.overload_actions.`.
    pub fn named(name: &str) -> Option<Effect> {
        Some(match name {
            "stop_accepting_requests" => Effect::StopRequests,
            "disable_http_keepalive" => Effect::DisableKeepalive,
            "stop_accepting_connections" => Effect::StopConnections,
            "reject_incoming_connections" => Effect::RejectConnections,
            "close_idle_http_connections" => Effect::CloseIdle,
            _ => return None,
        })
    }

    /// Whether tasks that wait must look again when this one moves.
    fn is_awaited(self) -> bool {
        use Effect::{CloseIdle, ConnectionIdle, ConnectionMax, StopConnections, StreamIdle};
        matches!(self, StopConnections | CloseIdle | ConnectionIdle | StreamIdle | ConnectionMax)
    }
}

/// How far an action has gone: nothing, a share of the cases, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(u32);

impl Share {
    const ALL: u32 = u32::MAX;

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^32 - 1")]
    pub fn of(level: f32) -> Share {
        Share((f64::from(level.clamp(0.0, 1.0)) * f64::from(Share::ALL)) as u32)
    }

    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Saturated, as Envoy calls it.
    pub fn is_all(self) -> bool {
        self.0 == Share::ALL
    }

    /// Whether this case is one of them; `random` is drawn only where it matters.
    pub fn takes(self, random: impl FnOnce() -> u64) -> bool {
        match self.0 {
            0 => false,
            Share::ALL => true,
            share => random() >> 32 < u64::from(share),
        }
    }

    fn part(self) -> f64 {
        f64::from(self.0) / f64::from(Share::ALL)
    }
}

/// What shards read: written by the control thread alone, and on cache lines that nobody else writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shares {
    shares: [AtomicU32; EFFECTS],
    /// How often the heaps were to shrink.
    shrinks: AtomicU64,
}

impl Shares {
    pub fn get(&self, effect: Effect) -> Share {
        Share(self.shares[effect as usize].load(Relaxed))
    }

    /// True: waiting tasks must look again.
    fn set(&self, effect: Effect, share: Share) -> bool {
        self.shares[effect as usize].swap(share.0, Relaxed) != share.0 && effect.is_awaited()
    }

    pub fn shrinks(&self) -> u64 {
        self.shrinks.load(Relaxed)
    }

    /// Takes over what the machine has decided. True: shards are to be told.
    pub fn apply(&self, machine: &Machine) -> bool {
        let mut told = false;
        for (effect, level) in machine.effects() {
            told |= self.set(effect, Share::of(level));
        }
        if machine.shrinks() {
            self.shrinks.fetch_add(1, Relaxed);
            told = true;
        }
        told
    }

    /// How much sooner than after `max` a timer fires.
    //= envoy: min + (max - min) * (1 - level), and armed timers follow
    pub fn sooner(&self, effect: Effect, floor: Option<Floor>, max: Duration) -> Duration {
        let Some(floor) = floor else { return Duration::ZERO };
        let share = self.get(effect);
        if share.is_nothing() {
            return Duration::ZERO;
        }
        let min = match floor {
            Floor::At(min) => min.min(max),
            Floor::Percent(percent) => max.mul_f64(percent / 100.0),
        };
        (max - min).mul_f64(share.part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_none_some_and_all() {
        let half = Share::of(0.5);
        assert!(half.takes(|| 1 << 62) && !half.takes(|| 3 << 62));
        assert!(!Share::of(0.0).takes(|| panic!("nothing to draw")));
        assert!(Share::of(1.0).takes(|| panic!("nothing to draw")) && Share::of(1.0).is_all());
        assert!(!Share::of(0.999).is_all());
    }

    #[test]
    fn timers_shrink_to_their_floor() {
        let shares = Shares::default();
        let max = Duration::from_secs(4);
        let left = |floor| max - shares.sooner(Effect::ConnectionIdle, Some(floor), max);
        assert_eq!(left(Floor::At(Duration::ZERO)), max);
        assert!(shares.set(Effect::ConnectionIdle, Share::of(1.0)));
        assert!(!shares.set(Effect::ConnectionIdle, Share::of(1.0)), "nothing has moved");
        assert_eq!(left(Floor::At(Duration::from_secs(1))), Duration::from_secs(1));
        assert_eq!(left(Floor::At(Duration::from_secs(9))), max);
        assert_eq!(left(Floor::Percent(25.0)), Duration::from_secs(1));
        assert_eq!(shares.sooner(Effect::ConnectionIdle, None, max), Duration::ZERO);
        shares.set(Effect::ConnectionIdle, Share::of(0.5));
        assert!(
            left(Floor::At(Duration::from_secs(2))).abs_diff(Duration::from_secs(3))
                < Duration::from_micros(1)
        );
    }
}
