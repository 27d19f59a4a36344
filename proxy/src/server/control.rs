//! The control thread: signals, names, commands of the admin thread, the end.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "control thread")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use selvedge_runtime::SocketAddress;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::gauges::Gauges;
use super::shards::{self, Shard};
use super::{Bound, Plan};
use crate::access_log::sink::Writer;
use crate::admin::{self, AdminState, Command};
use crate::args::Mode;
use crate::config::cluster::ClusterKind;
use crate::log;
use crate::shard::{Letter, ListenerScopes, ServerShared};
use crate::stats::scope::Registry;
use crate::upstream::cluster::ClusterShared;
use crate::upstream::dns;

/// Envoy's numbers of the server's states.
pub(super) const LIVE: u8 = 0;
const DRAINING: u8 = 1;
const INITIALIZING: u8 = 3;

/// What the control thread owns for the life of the process.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) plan: Plan,
    pub(super) registry: Arc<Registry>,
    pub(super) clusters: Vec<Arc<ClusterShared>>,
    pub(super) scopes: Vec<Arc<ListenerScopes>>,
    pub(super) writer: Writer,
    pub(super) server: Arc<ServerShared>,
    pub(super) listeners: Vec<(Arc<str>, Vec<SocketAddress>)>,
    pub(super) started: Instant,
    pub(super) shards: usize,
    pub(super) phase: Arc<AtomicU8>,
}

impl Core {
    /// The state as Envoy counts it: draining only while it is live.
    pub(super) fn state(&self) -> u8 {
        match self.phase.load(Relaxed) {
            LIVE if self.server.failing_health.load(Relaxed) => DRAINING,
            phase => phase,
        }
    }
}

/// How long the log writer may take for its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Runs until the process shall end.
pub(super) fn run(core: &Arc<Core>, bound: Vec<Bound>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no control runtime: {e}"))?;
    runtime.block_on(control(core, bound))
}

async fn control(core: &Arc<Core>, bound: Vec<Bound>) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|e| format!("no signal handlers: {e}"))?;
    let gauges = Arc::new(Gauges::new(&core.registry, core.shards));
    gauges.begun(core);
    core.phase.store(INITIALIZING, Relaxed);
    let (commands, mut inbox) = mpsc::unbounded_channel();
    start_admin(core, &gauges, commands)?;
    let (names, mut resolved) = mpsc::unbounded_channel();
    let warm = follow_names(core, &names);
    tokio::select! {
        () = warm => {}
        () = signals.end() => return Ok(()),
    }
    while resolved.try_recv().is_ok() {
        // The shards start with the endpoints that the clusters have by now.
    }
    let shards = shards::start(core, bound)?;
    for (number, shard) in shards.iter().enumerate() {
        log::info("main", &format!("shard {number}: driver {} ({})", shard.driver.kind, shard.driver.reason));
    }
    for (name, addresses) in &core.listeners {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        log::info("main", &format!("listener {name}: {}", addresses.join(", ")));
    }
    gauges.live(core);
    core.phase.store(LIVE, Relaxed);
    log::info("main", "all dependencies initialized; starting workers");
    if core.plan.options.mode != Mode::InitOnly {
        serve(core, &gauges, &shards, &mut signals, &mut inbox, &mut resolved).await;
    }
    log::info("main", "exiting");
    end(shards).await;
    if !core.writer.flush(LAST_LINES) {
        log::warn("main", "the log writer did not finish in time");
    }
    Ok(())
}

/// Serves commands until the end is asked for.
async fn serve(
    core: &Arc<Core>,
    gauges: &Gauges,
    shards: &[Shard],
    signals: &mut Signals,
    inbox: &mut mpsc::UnboundedReceiver<Command>,
    resolved: &mut mpsc::UnboundedReceiver<usize>,
) {
    let mut drained: Option<(bool, std::pin::Pin<Box<tokio::time::Sleep>>)> = None;
    let mut stopped = vec![false; core.plan.snapshot.listeners.len()];
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End => return,
                Asked::Reopen => core.writer.reopen(),
            },
            Some(cluster) = resolved.recv() => tell(shards, cluster),
            Some(command) = inbox.recv() => match command {
                Command::Quit => return,
                Command::ReopenLogs => core.writer.reopen(),
                Command::DrainListeners { graceful: true, skip_exit, inbound_only } => {
                    order(shards, || Letter::Drain { inbound_only });
                    let time = Duration::from_secs(core.plan.options.drain_time_s);
                    if !skip_exit && drained.is_none() {
                        drained = Some((inbound_only, Box::pin(tokio::time::sleep(time))));
                    }
                }
                Command::DrainListeners { inbound_only, .. } => {
                    gauges.stopped(newly_stopped(core, inbound_only, &mut stopped));
                    order(shards, || Letter::StopListening { inbound_only });
                }
            },
            inbound_only = async {
                match &mut drained {
                    Some((inbound_only, sleep)) => {
                        sleep.await;
                        *inbound_only
                    }
                    None => std::future::pending().await,
                }
            } => {
                drained = None;
                gauges.stopped(newly_stopped(core, inbound_only, &mut stopped));
                order(shards, || Letter::StopListening { inbound_only });
            }
        }
    }
}

/// Marks the listeners that are meant; how many of them took connections before.
fn newly_stopped(core: &Core, inbound_only: bool, stopped: &mut [bool]) -> usize {
    let mut newly = 0;
    for (listener, stopped) in core.plan.snapshot.listeners.iter().zip(stopped) {
        if listener.direction.is_meant(inbound_only) && !std::mem::replace(stopped, true) {
            newly += 1;
        }
    }
    newly
}

/// Ends the shards. Whatever one has not read yet: its last letter waits for room.
pub(super) async fn end(shards: Vec<Shard>) {
    for shard in &shards {
        while shard.letters.send_control(Letter::Quit).is_err() && !shard.thread.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    shards.into_iter().for_each(Shard::join);
}

/// Letters of control overtake the others.
fn order(shards: &[Shard], letter: impl Fn() -> Letter) {
    for (number, shard) in shards.iter().enumerate() {
        if shard.letters.send_control(letter()).is_err() {
            log::error("main", &format!("shard {number} has too many commands unread: one is lost"));
        }
    }
}

/// Tells every shard that a cluster has new endpoints.
pub(super) fn tell(shards: &[Shard], cluster: usize) {
    for (number, shard) in shards.iter().enumerate() {
        if shard.changes.note(cluster) && shard.letters.send(Letter::Endpoints).is_err() {
            log::error("main", &format!("shard {number}: its box is full before it was told anything"));
        }
    }
}

/// Starts to resolve; the answer is ready when every cluster that others wait for has its first answer.
fn follow_names(core: &Core, out: &mpsc::UnboundedSender<usize>) -> impl Future<Output = ()> + use<> {
    let mut waits = Vec::new();
    for (number, cluster) in core.clusters.iter().enumerate() {
        let ClusterKind::StrictDns(options) = &cluster.config.kind else { continue };
        let (warm, warmed) = oneshot::channel();
        if options.wait_for_warm {
            waits.push(warmed);
        }
        tokio::spawn(dns::follow(number, Arc::clone(cluster), out.clone(), warm));
    }
    async move {
        for warmed in waits {
            // The sender is dropped when the first answers are in, whatever they are.
            let _dropped = warmed.await;
        }
    }
}

fn start_admin(
    core: &Arc<Core>,
    gauges: &Arc<Gauges>,
    commands: mpsc::UnboundedSender<Command>,
) -> Result<(), String> {
    let Some(config) = &core.plan.snapshot.admin else { return Ok(()) };
    let (looked, counted) = (Arc::clone(core), Arc::clone(gauges));
    let state = AdminState {
        options: Arc::clone(&core.plan.options),
        snapshot: Arc::clone(&core.plan.snapshot),
        bootstrap_bytes: Arc::clone(&core.plan.bootstrap),
        registry: Arc::clone(&core.registry),
        server: Arc::clone(&core.server),
        clusters: core.clusters.clone(),
        listeners: core.listeners.clone(),
        phase: Arc::clone(&core.phase),
        started: core.started,
        started_wall: SystemTime::now(),
        writer: core.writer.clone(),
        commands: Box::new(move |command| {
            let _ends_with_the_process = commands.send(command);
        }),
        refresh: Box::new(move || counted.refresh(&looked)),
    };
    let address = admin::start(&config.address, state)?;
    super::write_out(&core.plan.options.admin_address_path, "admin address", &address.to_string());
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one that counts, logged in Envoy's words; SIGHUP is ignored, as Envoy does.
    async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {
                    log::warn("main", "caught ENVOY_SIGTERM");
                    return Asked::End;
                }
                _ = self.interrupt.recv() => {
                    log::warn("main", "caught SIGINT");
                    return Asked::End;
                }
                _ = self.reopen.recv() => {
                    log::info("main", "caught SIGUSR1. Reopening access logs.");
                    return Asked::Reopen;
                }
                _ = self.hangup.recv() => log::warn("main", "caught and eating SIGHUP"),
            }
        }
    }

    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    End,
    Reopen,
}
