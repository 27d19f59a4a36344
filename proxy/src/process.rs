//! What all threads of the process share, from its start to its end: the server and the simulator make the same.
#![allow(clippy::disallowed_types, reason = "locked by the control and admin threads, never by a shard")]

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::access_log::sink::Writer;
use crate::config::snapshot::Snapshot;
use crate::epoch::Epoch;
use crate::shard::{DrainPace, ServerShared};
use crate::stats::scope::Registry;

/// Envoy's numbers of the server's states.
pub const LIVE: u8 = 0;
const DRAINING: u8 = 1;
const PRE_INITIALIZING: u8 = 2;
pub const INITIALIZING: u8 = 3;

#[derive(Debug)]
pub struct Process {
    pub shards: usize,
    pub registry: Arc<Registry>,
    pub server: Arc<ServerShared>,
    pub writer: Writer,
    pub pace: Pace,
    pub host_address: String,
    epoch: Mutex<Arc<Epoch>>,
    /// How far the start has come.
    phase: AtomicU8,
}

/// What the command line and the machine say of times and numbers.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// `--file-flush-interval-msec`
    pub log_flush: Duration,
    pub drain: DrainPace,
    /// Downstream connections that there is memory for.
    pub connections_max: Option<u64>,
}

impl Process {
    pub fn new(
        shards: usize,
        snapshot: Arc<Snapshot>,
        writer: Writer,
        pace: Pace,
        host_address: String,
    ) -> Process {
        let registry = Arc::new(Registry::default());
        let epoch = Mutex::new(Arc::new(Epoch::first(snapshot, shards, &registry)));
        let phase = AtomicU8::new(PRE_INITIALIZING);
        Process { shards, registry, server: Arc::default(), writer, pace, host_address, epoch, phase }
    }

    pub fn set_phase(&self, phase: u8) {
        self.phase.store(phase, Relaxed);
    }

    /// The server's state. //= envoy: a live server whose health check fails is draining
    pub fn state(&self) -> u8 {
        match self.phase.load(Relaxed) {
            LIVE if self.server.failing_health.load(Relaxed) => DRAINING,
            phase => phase,
        }
    }

    /// The control thread's: the newest epoch, for whoever looks from now on.
    pub fn set_epoch(&self, epoch: Arc<Epoch>) {
        *self.epoch.lock().unwrap_or_else(PoisonError::into_inner) = epoch;
    }

    /// The newest.
    pub fn epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.epoch.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
