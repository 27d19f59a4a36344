//! The overload manager's rounds: when the monitors are to be read, what comes of it, and the numbers that show it.
//! Sans-IO, as the machine that it is a part of.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use selvedge_runtime::Instant;

use crate::config::overload::MonitorKind;
use crate::limits::OVERLOAD_REFRESH_MIN;
use crate::overload::{Machine, Reading};
use crate::process::Process;
use crate::shard::ServerShared;
use crate::stats::block::Block;
use crate::stats::names::{
    OverloadAction, OverloadManager, OverloadManagerHist, OverloadResource, ShrinkHeap, Table,
};
use crate::stats::scope::{Registry, ScopeName};

#[derive(Debug)]
pub(super) struct Overload {
    machine: Machine,
    server: Arc<ServerShared>,
    every: Duration,
    /// The last round, and the next one; none is due while its readings are awaited.
    last: Option<Instant>,
    next: Instant,
    delays: Arc<Block<OverloadManager>>,
    actions: Vec<Arc<Block<OverloadAction>>>,
    /// Whether it counts connections that were refused.
    resources: Vec<(Arc<Block<OverloadResource>>, bool)>,
    shrink: Option<Arc<Block<ShrinkHeap>>>,
}

fn block<T: Table>(registry: &Registry, prefix: &str) -> Arc<Block<T>> {
    registry.scope(ScopeName::new(prefix, prefix.trim_end_matches('.'), &[])).block(0)
}

impl Overload {
    /// `None` without an overload manager.
    pub(super) fn new(process: &Process) -> Option<Overload> {
        let registry = &process.registry;
        //= envoy: these numbers are there always
        let delays = block(registry, "");
        let snapshot = Arc::clone(&process.epoch().snapshot);
        let config = snapshot.overload.as_ref()?;
        let name = |name: &str| format!("overload.{name}.");
        let resources = config.monitors.iter().map(|m| {
            let counts = matches!(m.kind, MonitorKind::DownstreamConnections { .. });
            (block(registry, &name(&m.name)), counts)
        });
        let shrink = config.actions.iter().find(|a| a.shrink.is_some());
        Some(Overload {
            machine: Machine::new(Arc::clone(config)),
            server: Arc::clone(&process.server),
            every: config.refresh.max(OVERLOAD_REFRESH_MIN),
            last: None,
            next: Instant::FAR,
            delays,
            actions: config.actions.iter().map(|a| block(registry, &name(&a.name))).collect(),
            resources: resources.collect(),
            shrink: shrink.map(|a| block(registry, &name(&a.name))),
        })
    }

    /// When a round is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// True: the monitors are to be read. The first look at the clock begins the first interval.
    //= envoy: the first round comes after one interval
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        match self.last {
            None => {
                (self.last, self.next) = (Some(now), now + self.every);
                false
            }
            Some(_) if self.next > now => false,
            Some(last) => {
                self.delays.record(OverloadManagerHist::RefreshIntervalDelay, now.millis_since(last));
                (self.last, self.next) = (Some(now), Instant::FAR);
                true
            }
        }
    }

    /// One round. True: shards are to be told.
    pub(super) fn handle_readings(&mut self, now: Instant, readings: &[Reading]) -> bool {
        self.next = now + self.every;
        self.machine.poll(now.since(Instant(0)), readings);
        // Before the numbers: who sees them may rely on what they tell.
        let told = self.server.overload.apply(&self.machine);
        for ((block, counts), reading) in self.resources.iter().zip(readings) {
            match reading {
                Reading::Pressure(pressure) => block.set(OverloadResource::Pressure, percent(*pressure)),
                Reading::Failed => block.inc(OverloadResource::FailedUpdates),
                //= envoy: a refused connection is a failed update
                Reading::None if *counts => {
                    block.set(OverloadResource::FailedUpdates, self.server.overflows.load(Relaxed));
                }
                Reading::None => {}
            }
        }
        for (block, (_, level)) in self.actions.iter().zip(self.machine.levels()) {
            block.set(OverloadAction::Active, u64::from(level >= 1.0));
            block.set(OverloadAction::ScalePercent, percent(f64::from(level)));
        }
        if let Some(block) = self.shrink.as_ref().filter(|_| self.machine.shrinks()) {
            block.inc(ShrinkHeap::ShrinkCount);
            selvedge_runtime::memory::give_back();
        }
        told
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share, which saturates")]
fn percent(share: f64) -> u64 {
    (share * 100.0) as u64
}
