//! A runtime as a host of a simulation: it takes single steps, and is looked into after each.
//!
//! What is checked here needs no model of what the host is for: its timers are in time, its bounds hold, and a turn
//! ends.

use std::cell::Cell;
use std::time::Duration;

use crate::buf::Group;
use crate::limits;
use crate::op::{RecvClass, RecvState};
use crate::task::TaskId;
use crate::time::Instant;
use crate::{Rt, Runtime};

/// What a task may ask of the runtime in one turn: a hundred times what the busiest has asked.
const OPERATIONS_PER_TURN: u32 = 200_000;

/// Counts what is asked of a host in one turn.
#[derive(Debug, Default)]
pub(crate) struct Operations(Cell<u32>);

impl Operations {
    pub(crate) fn begin_turn(&self) {
        self.0.set(0);
    }

    pub(crate) fn count(&self) {
        self.0.set(self.0.get() + 1);
        if self.0.get() > OPERATIONS_PER_TURN {
            // What is dropped now asks as well.
            self.0.set(0);
            panic!("a task never ends its turn");
        }
    }
}

impl Runtime {
    /// Turns without waiting, and runs what is ready once: for one who drives several simulated hosts. The answer:
    /// when this one has something to do next, if ever by itself. Panics where a promise of the runtime is broken.
    pub fn step(&self) -> Option<Instant> {
        self.turn(Some(Duration::ZERO));
        assert!(self.rt.0.clock.keeps_time(), "a timer is overdue, or will be");
        self.rt.0.tasks.run_queued();
        self.rt.check_bounds();
        self.next()
    }

    /// When this host has something to do, if ever by itself.
    pub fn next(&self) -> Option<Instant> {
        let inner = &*self.rt.0;
        let now = inner.clock.source.monotonic();
        if inner.tasks.has_work() {
            return Some(now);
        }
        let kernel = inner.kernel.borrow();
        let turned = inner.clock.now.get();
        let waits = [inner.clock.patience(), kernel.patience(turned)].into_iter().flatten();
        waits.map(|wait| turned + wait).chain(kernel.driver.next()).min()
    }
}

impl Rt {
    /// Whether a task is there and not over.
    pub fn is_live(&self, task: TaskId) -> bool {
        self.0.tasks.is_live(task)
    }

    /// Buffers of the groups that chunks look into now.
    pub fn buffers_lent(&self) -> usize {
        self.groups(|group| group.lent.get())
    }

    /// Bytes of the groups' buffers, which the budget is charged with for good.
    pub fn buffer_bytes(&self) -> usize {
        self.groups(|group| group.bytes())
    }

    /// Allocations of the groups, which they keep.
    pub fn buffer_allocations(&self) -> usize {
        self.groups(|group| group.allocations())
    }

    /// Connections that came to listeners of this host whose owners were there.
    pub fn accepted(&self) -> u64 {
        self.0.kernel.borrow().driver.accepted()
    }

    fn groups(&self, of: impl Fn(&Group) -> usize) -> usize {
        let kernel = self.0.kernel.borrow();
        [RecvClass::Small, RecvClass::Large].into_iter().map(|class| of(kernel.driver.group(class))).sum()
    }

    /// The bounds of `limits.rs` that show.
    fn check_bounds(&self) {
        let kernel = self.0.kernel.borrow();
        for (class, most) in
            [(RecvClass::Small, limits::SMALL_BUFS_MAX), (RecvClass::Large, limits::LARGE_BUFS_MAX)]
        {
            let group = kernel.driver.group(class);
            let buffers = group.bytes() / group.buffer_bytes;
            assert!(buffers <= most, "{buffers} buffers of class {class:?}, {most} at most");
            assert!(group.lent.get() <= buffers, "{} of {buffers} buffers are lent", group.lent.get());
        }
        let budget = &self.0.budget;
        assert!(budget.used() <= budget.limit(), "{} bytes of {} are in use", budget.used(), budget.limit());
        let greedy =
            |s: &crate::op::Sock| s.recv == RecvState::Armed && s.queue.capacity() >= limits::RECV_CREDIT;
        assert!(!kernel.socks.iter().any(greedy), "a socket receives beyond its credit");
    }
}
