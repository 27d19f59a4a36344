//! The timer wheel against a list.

use super::Bytes;
use crate::task::TaskId;
use crate::time::{Instant, TICK_NS, Wheel};

const TIMERS: usize = 24;
/// Ticks of about 280 years: half of what a number of nanoseconds holds.
const END: u64 = 1 << 43;

/// An armed timer: its entry in the wheel, the time asked for, and the tick before which it must not fire.
#[derive(Debug, Clone, Copy)]
struct Armed {
    entry: u32,
    tick: u64,
    task: TaskId,
}

/// Timers are armed, moved, given back and waited for: none fires early, none late, and nobody is woken for nothing.
pub fn timers(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut now = bytes.number() % END;
    let mut wheel = Wheel::new(Instant(now * TICK_NS));
    let mut armed: Vec<Armed> = Vec::new();
    let (mut count, mut due) = (0, Vec::new());
    while !bytes.is_empty() && now < END {
        let at = if armed.is_empty() { None } else { Some(bytes.below(armed.len())) };
        match (bytes.below(8), at) {
            (0, Some(at)) => wheel.give(armed.swap_remove(at).entry),
            (1, Some(at)) => {
                armed[at].tick = moment(now, &mut bytes);
                wheel.arm(armed[at].entry, armed[at].tick, armed[at].task);
            }
            (2..=4, _) if armed.len() < TIMERS => {
                let (entry, tick) = (wheel.take(), moment(now, &mut bytes));
                count += 1;
                let task = TaskId::numbered(count);
                wheel.arm(entry, tick, task);
                armed.push(Armed { entry, tick, task });
            }
            (kind, _) => {
                let next = wheel.next_tick();
                now = match (kind, next) {
                    (5, _) => now + 1 + bytes.number() % (1 << 38),
                    (_, Some(next)) => now.max(next),
                    (_, None) => now + 1,
                };
                wheel.advance(Instant(now * TICK_NS), &mut due);
                for task in due.drain(..) {
                    let at = armed.iter().position(|a| a.task == task).expect("it was armed, and once");
                    let fired = armed.swap_remove(at);
                    assert!(fired.tick <= now, "early: {fired:?} at {now}");
                    wheel.give(fired.entry);
                }
                let late = armed.iter().find(|a| a.tick <= now);
                assert!(late.is_none(), "late at {now}: {late:?}");
                let next = wheel.next_tick();
                assert!(next.is_none_or(|next| next > now), "woken at {next:?} for nothing, at {now}");
            }
        }
        // What was due before it was armed waits for the next turn.
        let first = armed.iter().map(|a| a.tick.max(now + 1)).min();
        assert_eq!(wheel.next_tick().is_some(), first.is_some());
        assert!(wheel.next_tick() <= first, "sleeps until {:?}, past {first:?}", wheel.next_tick());
        assert_eq!(wheel.armed, armed.len());
    }
}

/// A tick near or far, behind or ahead.
fn moment(now: u64, bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(4) {
        0 => now + bytes.number() % 200,
        1 => now.saturating_sub(bytes.number() % 100),
        2 => now + bytes.number() % (1 << 40),
        // What the end of time is, in ticks.
        _ => u64::MAX.div_ceil(TICK_NS),
    }
}
