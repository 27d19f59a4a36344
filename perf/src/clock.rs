//! Time and cores for measuring: the monotonic clock in nanoseconds, pinning, descriptor limits.
//!
//! Nothing here runs on a shard; the load generator spins on its own core and reads the clock as often as it likes.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The core of the measured process.
pub const PROXY_CORE: usize = 0;
/// The core of load generator and upstream.
pub const LOAD_CORE: usize = 1;

/// Nanoseconds of the monotonic clock.
#[inline]
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// Pins the calling thread. A process started afterwards inherits the core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the soft limit of descriptors to the hard one; answers the limit.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Waits between two looks at a starting process; no measurement runs meanwhile.
#[expect(clippy::disallowed_methods, reason = "polls a foreign process from outside; no shard, no test")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
