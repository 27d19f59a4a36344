//! Time of one shard: a clock that is read once a turn, and a wheel of timers with ticks of 1 ms.
//!
//! Invariant: a timer is never early, and at most one tick plus the running turn late.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::task::TaskId;

/// A point of monotonic time, in nanoseconds since a fixed moment of this host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than anything that is waited for.
    pub const FAR: Instant = Instant(u64::MAX);

    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub fn millis_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, d: Duration) -> Instant {
        Instant(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// Nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WallTime(pub u64);

impl WallTime {
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }
}

pub(crate) fn monotonic() -> Instant {
    Instant(clock(libc::CLOCK_MONOTONIC))
}

pub(crate) fn wall() -> WallTime {
    WallTime(clock(libc::CLOCK_REALTIME))
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // WHY: std's Instant hides its value, and timers need it as a number.
    // SAFETY: the pointer is to a timespec of ours.
    let answer = unsafe { libc::clock_gettime(which, &raw mut ts) };
    assert_eq!(answer, 0, "both clocks exist on every Linux");
    u64::try_from(ts.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(ts.tv_nsec).unwrap_or(0)
}

const LEVELS: usize = 6;
const SLOTS: usize = 64;
const NONE: u32 = u32::MAX;
pub(crate) const TICK_NS: u64 = 1_000_000;
/// Bits of a tick below the digit of the highest level.
const TOP_SHIFT: usize = 6 * (LEVELS - 1);

#[derive(Debug, Clone, Copy)]
struct Entry {
    tick: u64,
    task: TaskId,
    next: u32,
    prev: u32,
    slot: u16,
    armed: bool,
}

/// Timers by tick, in levels of 64 slots; each slot is a list through the entries.
#[derive(Debug)]
pub(crate) struct Wheel {
    entries: Vec<Entry>,
    free: u32,
    heads: [u32; LEVELS * SLOTS],
    full: [u64; LEVELS],
    /// Every entry of an earlier tick has fired.
    tick: u64,
    pub(crate) armed: usize,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Wheel {
        Wheel {
            entries: Vec::new(),
            free: NONE,
            heads: [NONE; LEVELS * SLOTS],
            full: [0; LEVELS],
            tick: now.0 / TICK_NS,
            armed: 0,
        }
    }

    /// The first whole tick at or after `at`: a timer is never early.
    fn tick_of(at: Instant) -> u64 {
        at.0.div_ceil(TICK_NS)
    }

    pub(crate) fn take(&mut self) -> u32 {
        let entry = Entry { tick: 0, task: TaskId::NONE, next: NONE, prev: NONE, slot: 0, armed: false };
        if self.free == NONE {
            self.entries.push(entry);
            return u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 timers");
        }
        let id = self.free;
        self.free = self.entries[id as usize].next;
        self.entries[id as usize] = entry;
        id
    }

    pub(crate) fn give(&mut self, id: u32) {
        self.disarm(id);
        self.entries[id as usize].next = self.free;
        self.free = id;
    }

    pub(crate) fn arm(&mut self, id: u32, tick: u64, task: TaskId) {
        self.disarm(id);
        self.entries[id as usize].task = task;
        self.link(id, tick);
    }

    fn link(&mut self, id: u32, tick: u64) {
        let slot = self.slot_of(tick);
        let head = self.heads[slot];
        let entry = &mut self.entries[id as usize];
        (entry.tick, entry.next, entry.prev, entry.armed) = (tick, head, NONE, true);
        entry.slot = u16::try_from(slot).expect("384 slots");
        if head != NONE {
            self.entries[head as usize].prev = id;
        }
        self.heads[slot] = id;
        self.full[slot / SLOTS] |= 1 << (slot % SLOTS);
        self.armed += 1;
    }

    fn disarm(&mut self, id: u32) {
        let entry = self.entries[id as usize];
        if !entry.armed {
            return;
        }
        if entry.prev == NONE {
            let slot = usize::from(entry.slot);
            self.heads[slot] = entry.next;
            if entry.next == NONE {
                self.full[slot / SLOTS] &= !(1 << (slot % SLOTS));
            }
        } else {
            self.entries[entry.prev as usize].next = entry.next;
        }
        if entry.next != NONE {
            self.entries[entry.next as usize].prev = entry.prev;
        }
        self.entries[id as usize].armed = false;
        self.armed -= 1;
    }

    fn slot_of(&self, tick: u64) -> usize {
        // What lies beyond the span waits in the slot furthest ahead, and is placed again when that one is reached:
        // the slot of now is for what is due in it.
        let last = (((self.tick >> TOP_SHIFT) + SLOTS as u64) << TOP_SHIFT) - 1;
        let tick = tick.clamp(self.tick, last);
        // The level is where the tick's digits first differ from now's.
        let differ = (tick ^ self.tick) | 63;
        let level = ((63 - differ.leading_zeros()) as usize / 6).min(LEVELS - 1);
        level * SLOTS + ((tick >> (6 * level)) & 63) as usize
    }

    /// The tick at which something may be due; exact for the lowest level, early for the others.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        for level in 0..LEVELS {
            if self.full[level] == 0 {
                continue;
            }
            let shift = 6 * level;
            let digit = (self.tick >> shift) & 63;
            let ahead =
                self.full[level].rotate_right(u32::try_from(digit).expect("below 64")).trailing_zeros();
            let base = (self.tick >> shift) + u64::from(ahead);
            return Some((base << shift).max(self.tick));
        }
        None
    }

    /// The first armed timer, looked for one by one: what `next_tick` must not be beyond.
    #[cfg(feature = "sim")]
    pub(crate) fn first_armed(&self) -> Option<u64> {
        self.entries.iter().filter(|entry| entry.armed).map(|entry| entry.tick).min()
    }

    /// Moves to `now` and collects the tasks whose timers are due.
    pub(crate) fn advance(&mut self, now: Instant, due: &mut Vec<TaskId>) {
        let until = now.0 / TICK_NS;
        while let Some(next) = self.next_tick().filter(|&t| t <= until) {
            self.tick = next;
            self.cascade();
            let slot = (self.tick & 63) as usize;
            while self.heads[slot] != NONE {
                let id = self.heads[slot];
                let entry = self.entries[id as usize];
                self.disarm(id);
                if entry.tick <= self.tick {
                    due.push(entry.task);
                } else {
                    self.link(id, entry.tick);
                }
            }
            self.tick += 1;
            if self.tick & 63 == 0 {
                self.cascade();
            }
        }
        self.tick = self.tick.max(until);
        self.cascade();
    }

    /// Brings down what the current digits of the higher levels hold.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            let slot = level * SLOTS + ((self.tick >> (6 * level)) & 63) as usize;
            while self.heads[slot] != NONE {
                let id = self.heads[slot];
                let tick = self.entries[id as usize].tick;
                self.disarm(id);
                self.link(id, tick);
            }
        }
    }
}

/// How long the offset between the two clocks is taken for the same: a correction of the wall clock shows after that.
const OFFSET_NS: u64 = 10 * TICK_NS;

/// Where time comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Kernel,
    #[cfg(feature = "sim")]
    World(crate::sim::World),
}

impl Source {
    pub(crate) fn monotonic(&self) -> Instant {
        match self {
            Source::Kernel => monotonic(),
            #[cfg(feature = "sim")]
            Source::World(world) => world.now(),
        }
    }

    fn wall(&self) -> WallTime {
        match self {
            Source::Kernel => wall(),
            #[cfg(feature = "sim")]
            Source::World(world) => world.wall(),
        }
    }
}

/// The shard's clock and wheel.
#[derive(Debug)]
pub(crate) struct Clock {
    pub(crate) source: Source,
    pub(crate) now: Cell<Instant>,
    /// What the wall clock is ahead of the monotonic one, and since when that is known.
    ahead: Cell<(u64, Instant)>,
    pub(crate) wheel: RefCell<Wheel>,
}

impl Clock {
    pub(crate) fn new(source: Source) -> Clock {
        let now = source.monotonic();
        let ahead = Cell::new((source.wall().0.wrapping_sub(now.0), now));
        Clock { source, now: Cell::new(now), ahead, wheel: RefCell::new(Wheel::new(now)) }
    }

    /// Reads the clock; once a turn.
    pub(crate) fn tick(&self, due: &mut Vec<TaskId>) {
        let now = self.source.monotonic();
        self.now.set(now);
        if now.0 - self.ahead.get().1.0 >= OFFSET_NS {
            self.ahead.set((self.source.wall().0.wrapping_sub(now.0), now));
        }
        self.wheel.borrow_mut().advance(now, due);
    }

    pub(crate) fn wall(&self) -> WallTime {
        WallTime(self.now.get().0.wrapping_add(self.ahead.get().0))
    }

    /// How long a turn may sleep.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let next = self.wheel.borrow().next_tick()?;
        Some(Duration::from_nanos((next * TICK_NS).saturating_sub(self.now.get().0)))
    }

    /// Whether the wheel has kept its promise: nothing is overdue, and the next turn comes in time for the first.
    #[cfg(feature = "sim")]
    pub(crate) fn keeps_time(&self) -> bool {
        let wheel = self.wheel.borrow();
        let Some(first) = wheel.first_armed() else { return wheel.next_tick().is_none() };
        first > self.now.get().0 / TICK_NS && wheel.next_tick().is_some_and(|next| next <= first)
    }

    pub(crate) fn take(&self) -> u32 {
        self.wheel.borrow_mut().take()
    }

    pub(crate) fn give(&self, id: u32) {
        self.wheel.borrow_mut().give(id);
    }

    pub(crate) fn arm(&self, id: u32, at: Instant, task: TaskId) {
        self.wheel.borrow_mut().arm(id, Wheel::tick_of(at), task);
    }

    /// Whether an armed entry wakes that task in time for `at`; it may do so earlier.
    pub(crate) fn serves(&self, id: u32, at: Instant, task: TaskId) -> bool {
        let wheel = self.wheel.borrow();
        let entry = &wheel.entries[id as usize];
        entry.armed && entry.task == task && entry.tick <= Wheel::tick_of(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn ms(n: u64) -> Instant {
        Instant(n * TICK_NS)
    }

    /// A timer of years wakes nobody before its time, and hides no other one behind it.
    #[test]
    fn far_timers_neither_spin_nor_hide_others() {
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let mut wheel = Wheel::new(ms(5));
        let mut due = Vec::new();
        let top = 1 << TOP_SHIFT;
        for (n, at) in [(1, 64 * top + 1), (2, 100 * YEAR), (3, 64 * top + 70)] {
            let id = wheel.take();
            wheel.arm(id, at, TaskId::numbered(n));
        }
        assert!(wheel.next_tick() > Some(2 * YEAR));
        wheel.advance(ms(64 * top + 70), &mut due);
        assert_eq!(due, [TaskId::numbered(1), TaskId::numbered(3)]);
        assert!(wheel.next_tick() > Some(4 * YEAR));
        wheel.advance(ms(100 * YEAR), &mut due);
        assert_eq!((due.len(), wheel.armed), (3, 0));
    }

    #[test]
    fn fires_in_order_never_early_never_late() {
        let rng = Rng::new(1);
        for round in 0..50 {
            let start = rng.next() % 1_000_000;
            let mut wheel = Wheel::new(ms(start));
            let mut waiting = Vec::new();
            for n in 0..200u32 {
                let at = start + rng.next() % [3, 70, 5_000, 400_000, 90_000_000][n as usize % 5];
                let id = wheel.take();
                wheel.arm(id, at, TaskId::numbered(n));
                waiting.push((at, n));
            }
            for n in (0..200u32).filter(|n| n % 7 == 0) {
                wheel.disarm(n);
                waiting.retain(|w| w.1 != n);
            }
            waiting.sort_unstable();
            let mut now = start;
            let mut due = Vec::new();
            while let Some(&(first, _)) = waiting.first() {
                let next = wheel.next_tick().expect("something waits");
                assert!(next <= first, "round {round}: asked to sleep past {first}, until {next}");
                now = if rng.next().is_multiple_of(3) { now + rng.next() % 100_000 } else { next.max(now) };
                wheel.advance(ms(now), &mut due);
                for task in due.drain(..) {
                    let at = waiting.iter().position(|w| TaskId::numbered(w.1) == task).expect("was waiting");
                    assert!(waiting[at].0 <= now, "round {round}: early");
                    waiting.remove(at);
                }
                assert!(waiting.iter().all(|w| w.0 > now), "round {round}: late at {now}: {waiting:?}");
            }
            assert_eq!(wheel.armed, 0);
        }
    }
}
