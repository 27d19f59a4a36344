//! One shard: its twins of listeners, its letters, its accept loops.
//!
//! A new epoch is taken over at the top of its loop, between two tasks: no request sees half of it.
//! Everything here belongs to one thread. What shards share is counted in `ServerShared` and in the clusters.

mod changes;
mod epoch;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use selvedge_runtime::{Instant, MailReceiver, NetError, Rt, Socket, TaskId};

use crate::access_log::dates::http_date;
use crate::access_log::sink::{LogId, ShardLogs};
use crate::args::DrainStrategy;
use crate::config::hcm::Hcm;
use crate::config::listener::{Direction, Listener};
use crate::config::overload::Timers;
use crate::downstream::{self, Conn};
use crate::epoch::Epoch;
use crate::filters::{self, LocalEntry};
use crate::http::h1::head::HeadLimits;
use crate::limits;
use crate::overload::{Effect, Share, Shares};
use crate::process::Process;
use crate::stats::block::Block;
use crate::stats::names;
use crate::stats::scope::{Registry, Scope, ScopeName};
use crate::upstream::reaper::Reaper;

pub use changes::Changes;
pub use epoch::EpochTwin;
use epoch::Site;

/// What all threads share: live at once, outside any configuration.
#[derive(Debug, Default)]
pub struct ServerShared {
    /// `/healthcheck/fail` was called.
    pub failing_health: AtomicBool,
    pub next_connection: AtomicU64,
    /// Downstream connections that are open now.
    pub connections: AtomicU64,
    /// Connections that were refused for their number in the whole process.
    pub overflows: AtomicU64,
    pub overload: Shares,
}

/// The scopes of one listener; every shard takes its blocks from them.
#[derive(Debug)]
pub struct ListenerScopes {
    pub listener: Arc<Scope<names::Listener>>,
    pub listener_http: Arc<Scope<names::ListenerHttp>>,
    pub http: Arc<Scope<names::Http>>,
    pub http1: Arc<Scope<names::Http1>>,
    /// Connections of this listener over all shards.
    pub open: Arc<AtomicU64>,
}

impl ListenerScopes {
    /// `old`: connections are counted on.
    pub fn new(config: &Listener, registry: &Registry, old: Option<&Arc<ListenerScopes>>) -> ListenerScopes {
        let (stat, prefix) = (&config.stat_name, &config.hcm.stat_prefix);
        let address = ("envoy_listener_address", &**stat);
        let manager = ("envoy_http_conn_manager_prefix", &**prefix);
        ListenerScopes {
            listener: registry.scope(ScopeName::new(&format!("listener.{stat}."), "listener", &[address])),
            listener_http: registry.scope(ScopeName::new(
                &format!("listener.{stat}.http.{prefix}."),
                "listener.http",
                &[manager, address],
            )),
            http: registry.scope(ScopeName::new(&format!("http.{prefix}."), "http", &[manager])),
            http1: registry.scope(ScopeName::new("http1.", "http1", &[])),
            open: old.map_or_else(Arc::default, |old| Arc::clone(&old.open)),
        }
    }

    fn worker(config: &Listener, registry: &Registry, shard: usize) -> Arc<Block<names::Worker>> {
        let (stat, number) = (&config.stat_name, shard.to_string());
        let labels = [("envoy_worker_id", number.as_str()), ("envoy_listener_address", &**stat)];
        let prefix = format!("listener.{stat}.worker_{shard}.");
        registry.scope(ScopeName::new(&prefix, "listener.worker", &labels)).block(0)
    }
}

/// A letter to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// There is another epoch, clusters have other endpoints, or the overload manager has moved: see `Changes`.
    Changes,
    /// Ask connections to go, as `/drain_listeners?graceful` does.
    Drain { inbound_only: bool },
    /// Take no more connections.
    StopListening { inbound_only: bool },
    /// End: account what runs, flush the logs.
    Quit,
}

/// What a shard is made of.
#[derive(Debug)]
pub struct Parts {
    pub shard: usize,
    pub process: Arc<Process>,
    pub epoch: Arc<Epoch>,
    /// Listening sockets, by listener.
    pub sockets: Vec<(usize, OwnedFd)>,
    /// Written by the control thread.
    pub changes: Arc<Changes>,
}

/// How fast connections are asked to go: `--drain-strategy`, `--drain-time-s`.
#[derive(Debug, Clone, Copy)]
pub struct DrainPace {
    pub strategy: DrainStrategy,
    pub time_s: u64,
}

/// The shard's own state, shared by its tasks.
#[derive(Debug)]
pub struct Cx {
    pub rt: Rt,
    pub server: Arc<ServerShared>,
    pub process: Arc<Process>,
    /// The newest; requests keep the one that they began with.
    epoch: RefCell<Rc<EpochTwin>>,
    pub logs: ShardLogs,
    date: RefCell<(u64, Vec<u8>)>,
    pub next_stream: Cell<u64>,
}

impl Cx {
    /// The `date` of responses: written anew once a second.
    pub fn with_date<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        let now = self.rt.wall_now();
        let mut date = self.date.borrow_mut();
        if date.0 != now.seconds() {
            *date = (now.seconds(), http_date(now));
        }
        f(&date.1)
    }
}

/// A listener as this shard knows it.
#[derive(Debug)]
pub struct ListenerTwin {
    /// Its number among the listeners.
    pub at: usize,
    pub limits: HeadLimits,
    pub stats: Arc<Block<names::Listener>>,
    pub worker: Arc<Block<names::Worker>>,
    pub http: Arc<Block<names::Http>>,
    pub http1: Arc<Block<names::Http1>>,
    pub listener_http: Arc<Block<names::ListenerHttp>>,
    /// Of each access log of the connection manager, its file.
    pub log_files: Vec<LogId>,
    pub open: Arc<AtomicU64>,
    /// When `/drain_listeners?graceful` was called: that counts for connections of every epoch.
    drain_begun: Rc<Cell<Option<Instant>>>,
    /// An overload manager may press on it.
    pub elastic: bool,
    /// What pressure makes of the time limits.
    pub timers: Timers,
    direction: Direction,
    drains_on_health: bool,
    ignores_global_limit: bool,
    max_connections: Option<u64>,
    /// The chain before the router.
    pub filters: Box<[LocalEntry]>,
    // The last field: what the filters refer to goes after them.
    pub hcm: Arc<Hcm>,
}

impl ListenerTwin {
    /// `old`: the same listener before.
    fn new(site: &Site<'_>, epoch: &Epoch, at: usize, old: Option<&ListenerTwin>) -> ListenerTwin {
        let config = &epoch.listeners[at];
        let (scopes, hcm) = (&epoch.scopes[at], Arc::clone(&config.hcm));
        let (shard, process) = (site.shard, site.process);
        let place = filters::Place {
            registry: &process.registry,
            shard,
            manager: &hcm.stat_prefix,
            server: &process.server,
            node: &epoch.snapshot.node,
        };
        let filters = filters::local(&hcm.filters, &place);
        let overload = epoch.snapshot.overload.as_ref().filter(|_| !config.bypasses_overload);
        let log_files = hcm.access_logs.iter().map(|log| site.logs.open(&log.path)).collect();
        ListenerTwin {
            at,
            limits: HeadLimits {
                bytes_max: hcm.max_request_headers_kb as usize * 1024,
                fields_max: hcm.max_headers_count as usize,
                accept_http_10: hcm.http1.accept_http_10,
                allow_chunked_length: hcm.http1.allow_chunked_length,
                allow_absolute_url: hcm.http1.allow_absolute_url,
                underscores: hcm.underscores,
            },
            stats: scopes.listener.block(shard),
            worker: ListenerScopes::worker(config, &process.registry, shard),
            http: scopes.http.block(shard),
            http1: scopes.http1.block(shard),
            listener_http: scopes.listener_http.block(shard),
            log_files,
            filters,
            open: Arc::clone(&scopes.open),
            drain_begun: old.map_or_else(Rc::default, |old| Rc::clone(&old.drain_begun)),
            elastic: overload.is_some(),
            timers: overload.map_or_else(Timers::default, |overload| overload.timers),
            direction: config.direction,
            drains_on_health: config.drains_on_health,
            ignores_global_limit: config.ignores_global_limit,
            max_connections: config.max_connections,
            hcm,
        }
    }

    /// How far an action of the overload manager has gone here.
    pub fn share(&self, cx: &Cx, effect: Effect) -> Share {
        if self.elastic { cx.server.overload.get(effect) } else { Share::default() }
    }

    /// Connections are asked to go from now on.
    fn begin_drain(&self, now: Instant) {
        self.drain_begun.set(self.drain_begun.get().or(Some(now)));
    }

    /// Whether a connection is left: each holds the twin of its listener, of this epoch or of one before, and all
    /// those share one cell.
    fn is_used(self: &Rc<ListenerTwin>) -> bool {
        Rc::strong_count(self) > 1 || Rc::strong_count(&self.drain_begun) > 1
    }

    /// Whether a connection is asked to go at its next response.
    pub fn drains(&self, cx: &Cx) -> bool {
        //= envoy: drain_type MODIFY_ONLY does not look at the health check
        if self.drains_on_health && cx.server.failing_health.load(Relaxed) {
            return true;
        }
        let Some(begun) = self.drain_begun.get() else { return false };
        let elapsed_s = cx.rt.now().since(begun).as_secs();
        let DrainPace { strategy, time_s } = cx.process.pace.drain;
        //= envoy: --drain-strategy gradual: a share of the responses that reaches all of them at half of the time
        strategy == DrainStrategy::Immediate || elapsed_s >= time_s || cx.rt.random() % time_s < 2 * elapsed_s
    }
}

/// The life of a shard: until it is told to quit, or cannot go on.
pub async fn run(rt: Rt, parts: Parts, letters: MailReceiver<Letter>) {
    let Parts { shard, process, epoch, sockets, changes } = parts;
    let reaper = Rc::new(Reaper::default());
    let logs = ShardLogs::new(process.writer.clone());
    let site = Site { shard, rt: &rt, process: &process, logs: &logs, reaper: &reaper };
    let first = Rc::new(EpochTwin::new(&site, epoch, None));
    let cx = Rc::new(Cx {
        rt: rt.clone(),
        server: Arc::clone(&process.server),
        process,
        epoch: RefCell::new(first),
        logs,
        date: RefCell::default(),
        next_stream: Cell::new(rt.random()),
    });
    reaper.start(&rt);
    let accept_at = |(at, fd)| (at, rt.spawn(accept(Rc::clone(&cx), at, fd)));
    let accepting: Vec<(usize, TaskId)> = sockets.into_iter().map(accept_at).collect();
    let flusher = Rc::clone(&cx);
    rt.spawn(async move {
        loop {
            flusher.rt.sleep(flusher.process.pace.log_flush).await;
            flusher.rt.contain(|| flusher.logs.flush());
        }
    });
    let mut hands = Hands { shard, cx, reaper, accepting, changes, shrunk: 0 };
    loop {
        let letter = letters.recv().await;
        if letter == Letter::Quit {
            break;
        }
        if rt.contain(|| hands.obey(letter)).is_none() {
            tell_lost(&hands.cx.process, shard, "it takes no more connections");
            hands.leave(&letters).await;
            break;
        }
    }
    rt.clear_other_tasks();
    // Otherwise the shard's runtime would wait for them in vain, for a second.
    hands.cx.epoch().clusters.iter().for_each(|cluster| cluster.close_idle());
    hands.cx.logs.flush();
}

/// Logs and counts that a shard cannot go on.
pub fn tell_lost(process: &Process, shard: usize, so: &str) {
    crate::log::critical("main", &format!("shard {shard} cannot go on after a panic: {so}"));
    let registry = &process.registry;
    registry
        .scope(ScopeName::new("server.selvedge.", "server.selvedge", &[]))
        .block(shard)
        .set(names::Shard::ShardsLost, 1);
}

/// What letters have a hand in.
struct Hands {
    shard: usize,
    cx: Rc<Cx>,
    reaper: Rc<Reaper>,
    /// By listener.
    accepting: Vec<(usize, TaskId)>,
    changes: Arc<Changes>,
    /// How often its heap was to shrink.
    shrunk: u64,
}

impl Hands {
    fn obey(&mut self, letter: Letter) {
        self.cx.rt.pass("letter");
        match letter {
            Letter::Changes => {
                let noted = self.changes.take();
                if noted.overload {
                    self.on_overload();
                }
                if let Some(epoch) = noted.epoch {
                    let (rt, process, logs) = (&self.cx.rt, &self.cx.process, &self.cx.logs);
                    let site = Site { shard: self.shard, rt, process, logs, reaper: &self.reaper };
                    self.cx.swap(&site, epoch);
                }
                let epoch = self.cx.epoch();
                for twin in noted.clusters.iter().filter_map(|number| epoch.clusters.at(*number)) {
                    twin.take_endpoints();
                }
            }
            Letter::Drain { inbound_only } => self.drain(inbound_only),
            Letter::StopListening { inbound_only } => self.stop_listening(inbound_only),
            Letter::Quit => {}
        }
    }

    /// The overload manager has moved.
    fn on_overload(&mut self) {
        let shrinks = self.cx.server.overload.shrinks();
        if std::mem::replace(&mut self.shrunk, shrinks) != shrinks {
            selvedge_runtime::memory::give_back();
        }
        // Those that accept, and those whose timers are shorter or longer now.
        self.cx.rt.wake_all();
    }

    fn drain(&self, inbound_only: bool) {
        for twin in self.cx.epoch().listeners.iter().filter(|t| t.direction.is_meant(inbound_only)) {
            twin.begin_drain(self.cx.rt.now());
        }
    }

    fn stop_listening(&mut self, inbound_only: bool) {
        let epoch = self.cx.epoch();
        let meant = |at: usize| epoch.listeners[at].direction.is_meant(inbound_only);
        self.accepting.extract_if(.., |(at, _)| meant(*at)).for_each(|(_, task)| self.cx.rt.abort(task));
    }

    /// A letter was obeyed by half: nobody knows what this shard would do to a new connection. Those that it has are
    /// asked to go, and have the drain time for it; what the other shards are told is for them.
    async fn leave(&mut self, letters: &MailReceiver<Letter>) {
        let rt = self.cx.rt.clone();
        self.stop_listening(false);
        self.drain(false);
        let end = rt.now() + Duration::from_secs(self.cx.process.pace.drain.time_s);
        let mut look = rt.sleep(limits::LEAVING_LOOKS_EVERY);
        while rt.now() < end && self.cx.epoch().listeners.iter().any(ListenerTwin::is_used) {
            let quits = poll_fn(|_| {
                while let Poll::Ready(letter) = letters.poll_recv() {
                    if letter == Letter::Quit {
                        return Poll::Ready(true);
                    }
                }
                look.poll_due().map(|()| false)
            });
            if quits.await {
                return;
            }
            look.reset(rt.now() + limits::LEAVING_LOOKS_EVERY);
        }
    }
}

/// Accepts until it is aborted.
async fn accept(cx: Rc<Cx>, at: usize, fd: OwnedFd) {
    let listener = match cx.rt.adopt_listener(fd) {
        Ok(listener) => listener,
        Err(error) => {
            crate::log::error(
                "config",
                &format!("listener '{}' cannot be adopted: {error}", cx.epoch().shared.listeners[at].name),
            );
            return;
        }
    };
    let paused = || cx.epoch().listeners[at].share(&cx, Effect::StopConnections).is_all();
    accept_each(&cx.rt, &listener, paused, |socket| admit(&cx, at, socket)).await;
}

/// Accepts for ever, but while it is `paused`. A panic in `admit` ends what was accepted, not the accepting.
async fn accept_each(
    rt: &Rt,
    listener: &selvedge_runtime::Listener,
    paused: impl Fn() -> bool,
    admit: impl Fn(Socket),
) {
    loop {
        let accepted = poll_fn(|_| {
            if paused() {
                listener.pause();
                return Poll::Pending;
            }
            listener.poll_accept()
        });
        match accepted.await {
            Ok(socket) => drop(rt.contain(|| admit(socket))),
            Err(NetError::NoDescriptors | NetError::NoBuffers) => {
                crate::log::warn("conn_handler", "accepting stopped: no descriptors or memory left");
            }
            Err(error) => crate::log::warn("conn_handler", &format!("accept failed: {error}")),
        }
    }
}

/// Starts the task of a connection, unless a limit forbids it.
fn admit(cx: &Rc<Cx>, at: usize, socket: Socket) {
    cx.rt.pass("admit");
    let epoch = cx.epoch();
    let twin = &epoch.listeners[at];
    twin.stats.record(names::ListenerHist::ConnectionsAcceptedPerSocketEvent, 1);
    // Both cells are shared by all shards: a place is taken first, and given back when there was none.
    let configured = epoch.shared.snapshot.max_connections.filter(|_| !twin.ignores_global_limit);
    let by_memory = cx.process.pace.connections_max;
    let global = configured.into_iter().chain(by_memory).min();
    if !take_place(&cx.server.connections, global) {
        twin.stats.inc(names::Listener::DownstreamGlobalCxOverflow);
        cx.server.overflows.fetch_add(1, Relaxed);
        return;
    }
    if twin.share(cx, Effect::RejectConnections).takes(|| cx.rt.random()) {
        cx.server.connections.fetch_sub(1, Relaxed);
        twin.stats.inc(names::Listener::DownstreamCxOverloadReject);
        return;
    }
    if !take_place(&twin.open, twin.max_connections) {
        cx.server.connections.fetch_sub(1, Relaxed);
        twin.stats.inc(names::Listener::DownstreamCxOverflow);
        return;
    }
    cx.rt.spawn(downstream::serve(Conn::new(Rc::clone(cx), Rc::clone(twin), socket)));
}

fn take_place(places: &AtomicU64, max: Option<u64>) -> bool {
    let taken = places.fetch_add(1, Relaxed);
    if max.is_some_and(|max| taken >= max) {
        places.fetch_sub(1, Relaxed);
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a peer on a thread of its own")]

    use std::io::Read;
    use std::net::TcpStream;

    use selvedge_runtime::listen::{BindOptions, bind_listen, bound_address};
    use selvedge_runtime::{Config, DriverChoice, Runtime, SocketAddress};

    use super::*;

    /// It ends the connection that met it, is counted, and the next ones are admitted.
    #[test]
    fn accepting_survives_a_panic() {
        for driver in [DriverChoice::Epoll, DriverChoice::Uring] {
            let runtime = match Runtime::new(&Config { driver, ..Config::default() }) {
                Ok(runtime) => runtime,
                Err(error) => {
                    eprintln!("SKIPPED on {driver:?}: {error}");
                    assert!(std::env::var_os("SELVEDGE_REQUIRE_PEERS").is_none(), "a driver is missing");
                    continue;
                }
            };
            let rt = runtime.handle();
            let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
            let fd = bind_listen(&any.into(), &BindOptions::default()).expect("a socket");
            let Some(SocketAddress::Ip(to)) = bound_address(&fd) else { panic!("an IP address") };
            let peers = std::thread::spawn(move || {
                [(); 4].map(|()| {
                    let mut told = String::new();
                    let mut stream = TcpStream::connect(to).expect("connected");
                    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
                    stream.read_to_string(&mut told).map(|_| told).map_err(|e| e.kind())
                })
            });
            let told = runtime.run(async move {
                let listener = rt.adopt_listener(fd).expect("adopted");
                let (own, seen) = (rt.clone(), Rc::new(Cell::new(0)));
                let accepting = rt.spawn(async move {
                    accept_each(
                        &own,
                        &listener,
                        || false,
                        |socket| {
                            seen.set(seen.get() + 1);
                            assert!(seen.get() % 2 == 0, "planted");
                            let served = async move {
                                let _gone =
                                    socket.send(selvedge_runtime::Chunk::from_static(b"hi").into()).await;
                            };
                            own.spawn(served);
                        },
                    )
                    .await;
                });
                while !peers.is_finished() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
                assert_eq!(rt.panics(), 2, "{driver:?}");
                rt.abort(accepting);
                peers.join().expect("the peers are content")
            });
            assert_eq!(told, ["", "hi", "", "hi"].map(|t| Ok(t.to_owned())), "{driver:?}");
        }
    }
}
