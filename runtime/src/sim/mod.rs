//! A network, a clock and a kernel in one process, all drawn from one seed.
//!
//! A [`World`] joins several runtimes on one thread, each a host of its own: shards, and the peers they talk to.
//! Nothing is real but the bytes: whoever drives the hosts calls [`Runtime::step`](crate::Runtime::step) of one
//! after another, and moves the clock when none has anything to do. Invariant: the same seed and the same calls
//! give the same events, and the same [`World::trace`].

pub mod allocations;
mod driver;
mod host;
mod network;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

pub(crate) use driver::Sim;
pub(crate) use host::Operations;

use crate::addr::SocketAddress;
use crate::rng::Rng;
use crate::time::{Instant, WallTime};
use network::Network;

/// What the network and the kernels do to hosts, in the words of [`World::tally`].
pub const HAPPENINGS: [&str; 12] = [
    "cancel came late",
    "full send buffer",
    "hanging connect",
    "late word of the kernel",
    "multishot receive ended",
    "no buffer",
    "no descriptor",
    "partial turn",
    "refused connect",
    "reset by the network",
    "short read",
    "short write",
];

/// What a rate is out of.
pub const ALWAYS: u32 = 1 << 16;

/// How often things go wrong on a host, and how its network is. A rate is out of [`ALWAYS`].
#[derive(Debug, Clone)]
pub struct Faults {
    /// A receive takes less than there is.
    pub short_read: u32,
    /// A send takes less than there is room for.
    pub short_write: u32,
    /// An answer of the kernel is late, by up to `late`.
    pub late_rate: u32,
    pub late: Duration,
    /// A multishot receive ends by itself.
    pub multishot_ends: u32,
    /// A turn sees only some of the answers that are there.
    pub partial_turn: u32,
    /// A receive finds no buffer although there is one (ENOBUFS).
    pub no_buffers: u32,
    /// An accept finds no descriptor (EMFILE).
    pub no_descriptors: u32,
    /// A connection that is begun here is reset, after up to `reset_after` bytes in one of its directions.
    pub reset: u32,
    pub reset_after: u64,
    /// A connect is refused, or never answered.
    pub refuse: u32,
    pub hang: u32,
    /// Time under way of a byte, at least and at most.
    pub latency: (Duration, Duration),
    /// Bytes that a direction of a connection holds, at least and at most.
    pub room: (usize, usize),
}

impl Faults {
    /// A host on which all goes well.
    pub fn none() -> Faults {
        Faults {
            short_read: 0,
            short_write: 0,
            late_rate: 0,
            late: Duration::ZERO,
            multishot_ends: 0,
            partial_turn: 0,
            no_buffers: 0,
            no_descriptors: 0,
            reset: 0,
            reset_after: 0,
            refuse: 0,
            hang: 0,
            latency: (Duration::from_micros(20), Duration::from_micros(200)),
            room: (64 * 1024, 256 * 1024),
        }
    }
}

/// One simulated network with its clock. Cheap to clone.
#[derive(Clone)]
pub struct World(Rc<Inside>);

struct Inside {
    now: Cell<Instant>,
    /// What the wall clock is ahead of the monotonic one.
    ahead: Cell<u64>,
    rng: Rng,
    network: RefCell<Network>,
    trace: Cell<u64>,
    events: Cell<u64>,
    /// How often what has happened, of that which may go wrong.
    tally: RefCell<BTreeMap<&'static str, u64>>,
    /// Said aloud: each event as a line.
    teller: RefCell<Option<Teller>>,
}

/// Hears each event as a line.
pub type Teller = Box<dyn Fn(&str)>;

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({:?}, trace {:016x})", self.now(), self.trace())
    }
}

/// A moment in 2026: what a simulated wall clock begins with, in nanoseconds since the epoch.
const EPOCH_NS: u64 = 1_780_000_000_000_000_000;

impl World {
    pub fn new(seed: u64) -> World {
        let begin = Instant(1_000_000_000_000);
        World(Rc::new(Inside {
            now: Cell::new(begin),
            ahead: Cell::new(EPOCH_NS - begin.0),
            rng: Rng::new(seed),
            network: RefCell::new(Network::new()),
            trace: Cell::new(seed),
            events: Cell::new(0),
            tally: RefCell::default(),
            teller: RefCell::new(None),
        }))
    }

    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    pub(crate) fn wall(&self) -> WallTime {
        WallTime(self.now().0.wrapping_add(self.0.ahead.get()))
    }

    /// Moves the clock on; never back.
    pub fn advance_to(&self, at: Instant) {
        self.0.now.set(self.now().max(at));
    }

    /// Sets the wall clock forward or back; the monotonic one does not notice.
    pub fn jump_wall(&self, by_ns: i64) {
        self.0.ahead.set(self.0.ahead.get().wrapping_add_signed(by_ns));
    }

    /// A number below `bound`, which is at least 1.
    pub fn draw(&self, bound: u64) -> u64 {
        self.0.rng.next() % bound.max(1)
    }

    /// Whether something happens that happens `rate` times in [`ALWAYS`].
    pub fn chance(&self, rate: u32) -> bool {
        rate > 0 && self.draw(u64::from(ALWAYS)) < u64::from(rate)
    }

    /// A duration between two others.
    pub fn between(&self, (least, most): (Duration, Duration)) -> Duration {
        let span = u64::try_from((most.saturating_sub(least)).as_nanos()).unwrap_or(u64::MAX - 1);
        least + Duration::from_nanos(self.draw(span + 1))
    }

    /// A listening socket at an address. Several at one address share what comes, as with SO_REUSEPORT.
    pub fn listen(&self, at: &SocketAddress) -> OwnedFd {
        self.0.network.borrow_mut().listen(at)
    }

    /// Another descriptor of a listening socket: whoever accepts first has the connection.
    pub fn share_listener(&self, fd: &OwnedFd) -> OwnedFd {
        self.0.network.borrow_mut().share_listener(fd)
    }

    /// A number that tells two runs apart: of every event so far, in order, with lengths.
    pub fn trace(&self) -> u64 {
        self.0.trace.get()
    }

    pub fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// Something of that which may go wrong has happened, and has had an effect.
    pub fn happened(&self, what: &'static str) {
        *self.0.tally.borrow_mut().entry(what).or_default() += 1;
    }

    /// How often what has happened.
    pub fn tally(&self) -> Vec<(&'static str, u64)> {
        self.0.tally.borrow().iter().map(|(what, times)| (*what, *times)).collect()
    }

    /// Calls `say` with a line for each event from now on.
    pub fn tell(&self, say: Teller) {
        *self.0.teller.borrow_mut() = Some(say);
    }

    /// Adds an event to the trace: of a host, of a kind, with up to two numbers.
    pub fn note(&self, host: usize, what: &'static str, a: u64, b: u64) {
        let word = what.bytes().fold(0u64, |word, byte| word.rotate_left(7) ^ u64::from(byte));
        let words = [word, self.now().0, host as u64, a, b];
        let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0.trace.set(words.into_iter().fold(self.0.trace.get(), mix));
        self.0.events.set(self.0.events.get() + 1);
        if let Some(say) = &*self.0.teller.borrow() {
            say(&format!("{:?} host {host} {what} {a} {b}", self.now()));
        }
    }
}
