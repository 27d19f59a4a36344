//! The proxy on a simulated network: one seed draws a configuration, faults, clients and upstreams, and runs them.
//!
//! The shards are the real ones, on simulated drivers; what goes in and comes out is judged by [`ledger`], which
//! knows only what the peers saw. One thread, no real clock, no real socket: a seed that fails fails again.

mod authz;
mod checks;
mod client;
pub mod command;
mod control;
pub mod draw;
pub mod ledger;
pub mod seeds;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;
mod yaml;

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prost_reflect::DescriptorPool;
use selvedge_runtime::sim::{Faults, Teller, World, allocations};
use selvedge_runtime::{Config, Instant, MailSender, Planted, Runtime, SocketAddress, TaskId};

use crate::access_log::sink::{Unwritten, Writer};
use crate::admin::Command;
use crate::args::DrainStrategy;
use crate::config::bootstrap::{self, Source};
use crate::config::snapshot::{self, Node, Snapshot};
use crate::process::{Pace, Process};
use crate::server::machine::Input;
use crate::shard::{self, DrainPace, Letter, Parts};
use crate::upstream::cluster::ClusterShared;
use crate::upstream::endpoint::EndpointShared;
use control::Control;
use draw::Scenario;
use ledger::Ledger;

/// What came of one seed.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    /// Requests that clients began, and responses that they read.
    pub requests: u64,
    pub responses: u64,
    /// A number of the run: two runs of one seed have the same.
    pub trace: u64,
    pub events: u64,
    /// How often what has happened, of that which may go wrong.
    pub tally: Vec<(&'static str, u64)>,
}

impl Outcome {
    /// Blocks of memory that this is made of.
    fn blocks(&self) -> i64 {
        let texts = self.violations.iter().filter(|text| text.capacity() > 0).count();
        let list = usize::from(self.violations.capacity() > 0);
        i64::try_from(texts + list + usize::from(self.tally.capacity() > 0)).expect("few")
    }
}

/// Steps of one seed before it is given up: beyond ten times what the longest has taken.
const STEPS_MAX: u64 = 5_000_000;
/// How long after the last client everything must be still: beyond every idle time-out that is drawn.
const REST: Duration = Duration::from_secs(200);

/// How long a shard may wait for the last words about its sockets: the slowest come within a tenth of it.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// Runs seeds; the descriptors of the configuration are decoded once.
#[derive(Debug)]
pub struct Simulator {
    pool: DescriptorPool,
    planted: Planted,
}

impl Default for Simulator {
    fn default() -> Self {
        Simulator { pool: bootstrap::descriptors(), planted: Planted::default() }
    }
}

impl Simulator {
    /// A simulator whose shards have a planted bug.
    #[cfg(any(test, feature = "mutations"))]
    #[must_use]
    pub fn planting(self, mutation: selvedge_runtime::Mutation) -> Simulator {
        Simulator { planted: Planted::one(mutation), ..self }
    }

    /// A simulator whose shards panic where that trap is, when it is armed.
    #[cfg(any(test, feature = "mutations"))]
    #[must_use]
    pub fn trapped(self, trap: &'static selvedge_runtime::Trap) -> Simulator {
        Simulator { planted: Planted::trap(trap), ..self }
    }

    /// Runs one seed to its end. `tell` hears each event of the network.
    pub fn run(&self, seed: u64, tell: Option<Teller>) -> Outcome {
        let (mut outcome, left) = self.weighed(seed, tell);
        // A panic's backtrace keeps memory of its own, and what is made once in a process may have been made just now.
        if left != 0 && outcome.violations.is_empty() {
            let (_, left) = self.weighed(seed, None);
            outcome.violations.extend((left != 0).then(|| format!("{left} blocks of memory are left of it")));
        }
        outcome
    }

    /// What comes of a seed, and how many blocks of memory are left besides.
    fn weighed(&self, seed: u64, tell: Option<Teller>) -> (Outcome, i64) {
        let before = allocations::live();
        let (outcome, whole) = self.play(seed, tell);
        let left = allocations::live().zip(before).map_or(0, |(after, before)| after - before);
        let left = if whole { left - outcome.blocks() } else { 0 };
        (outcome, left)
    }

    /// Whether all of it came to its end, besides what came of it.
    fn play(&self, seed: u64, tell: Option<Teller>) -> (Outcome, bool) {
        let scenario = Rc::new(Scenario::new(seed));
        let world = World::new(seed);
        if let Some(tell) = tell {
            world.tell(tell);
        }
        let ledger = Rc::new(Ledger::new(&scenario, &world));
        let whole = match self.snapshot(&scenario) {
            Ok(snapshot) => Run::new(&scenario, &world, &ledger, snapshot, self.planted).play(),
            Err(why) => {
                ledger.violation(format!("the configuration does not compile: {why}"));
                false
            }
        };
        let outcome = Outcome {
            seed,
            violations: ledger.violations(),
            requests: ledger.requests_begun() as u64,
            responses: ledger.responses.get(),
            trace: world.trace(),
            events: world.events(),
            tally: world.tally(),
        };
        (outcome, whole)
    }

    fn snapshot(&self, scenario: &Scenario) -> Result<Snapshot, String> {
        let source = Source { yaml: scenario.bootstrap.clone(), ..Source::default() };
        let loaded = bootstrap::load_with(&self.pool, &source).map_err(|e| e.0)?;
        snapshot::compile(&loaded.bootstrap, Node::default()).map_err(|all| format!("{all:?}"))
    }
}

/// A shard on its simulated host.
struct Shard {
    runtime: Runtime,
    main: TaskId,
    /// What it holds before the first connection.
    tasks: usize,
    /// It does nothing until then.
    stalled: Cell<Instant>,
}

/// Whoever takes steps.
#[derive(Clone, Copy)]
enum Host<'a> {
    Shard(&'a Shard),
    Peer(&'a Runtime),
    Control(&'a Control),
}

impl Host<'_> {
    /// When it has something to do. `None`: not before another has done something.
    fn next(self) -> Option<Instant> {
        match self {
            Host::Shard(shard) => Some(shard.runtime.next()?.max(shard.stalled.get())),
            Host::Peer(runtime) => runtime.next(),
            Host::Control(control) => control.next(),
        }
    }

    fn step(self) {
        match self {
            Host::Shard(Shard { runtime, .. }) | Host::Peer(runtime) => {
                runtime.step();
            }
            Host::Control(control) => control.step(),
        }
    }
}

type Endpoints = Arc<[Arc<EndpointShared>]>;

struct Run<'a> {
    scenario: &'a Rc<Scenario>,
    world: &'a World,
    ledger: &'a Rc<Ledger>,
    control: Control,
    shards: Vec<Shard>,
    peers: [Runtime; 2],
    process: Arc<Process>,
    /// With all endpoints that they ever have.
    clusters: Vec<(Arc<ClusterShared>, Endpoints)>,
    log: Unwritten,
    clients_done: Rc<Cell<usize>>,
    steps: Cell<u64>,
    /// A host panicked: it can be trusted with nothing, not even its end.
    broken: Cell<bool>,
}

fn host(world: &World, faults: Faults, planted: Planted) -> Runtime {
    let config =
        Config { seed: world.draw(u64::MAX), small_bufs: 16, large_bufs: 4, planted, ..Config::default() };
    Runtime::simulated(&config, world, faults).expect("the budget holds the first buffers")
}

fn address(text: &str, port: u16) -> SocketAddress {
    SocketAddress::Ip((text.parse::<std::net::IpAddr>().expect("an address"), port).into())
}

impl<'a> Run<'a> {
    fn new(
        scenario: &'a Rc<Scenario>,
        world: &'a World,
        ledger: &'a Rc<Ledger>,
        snapshot: Snapshot,
        planted: Planted,
    ) -> Run<'a> {
        // Of a sink that is stuck the queue is soon full.
        let (bytes, buffers) = if scenario.log_stuck { (64, 1) } else { (4096, 1024) };
        let (writer, log) = Writer::unwritten(bytes, buffers);
        let sockets = listening(scenario, world);
        let drain = DrainPace { strategy: DrainStrategy::Gradual, time_s: control::DRAIN_TIME.as_secs() };
        let pace = Pace { log_flush: Duration::from_secs(1), drain, connections_max: None };
        let (snapshot, own) = (Arc::new(snapshot), draw::LISTENER.to_owned());
        let process = Arc::new(Process::new(scenario.shards, snapshot, writer, pace, own));
        let control = Control::new(world, &process, scenario.seed);
        control.take(Input::Begin);
        let started = sockets.into_iter().enumerate().map(|(number, socket)| {
            let (own, epoch) = (Arc::clone(&process), process.epoch());
            let (sockets, changes) = (vec![(0, socket)], control.changes(number));
            let parts = Parts { shard: number, process: own, epoch, sockets, changes };
            start(world, ledger, scenario.faults.clone(), planted, parts)
        });
        let (shards, letters) = started.unzip();
        control.started(letters);
        let clusters = process.epoch().clusters.iter().map(|c| (Arc::clone(c), c.endpoints())).collect();
        // The peers' own network is as slow, and loses nothing by itself.
        let calm = Faults { reset: 0, refuse: 0, hang: 0, no_descriptors: 0, ..scenario.faults.clone() };
        let resets = Faults { reset: scenario.faults.reset, ..calm.clone() };
        let peers = [resets, calm].map(|faults| host(world, faults, Planted::default()));
        let this = Run {
            scenario,
            world,
            ledger,
            control,
            shards,
            peers,
            process,
            clusters,
            log,
            clients_done: Rc::default(),
            steps: Cell::new(0),
            broken: Cell::new(false),
        };
        this.start_peers();
        this
    }

    fn start_peers(&self) {
        for (n, cluster) in self.scenario.clusters.iter().enumerate() {
            for e in 0..cluster.endpoints {
                self.serve(&draw::endpoint(n, e), upstream::connection);
            }
        }
        self.serve(draw::AUTHZ, authz::connection);
        self.start_clients(0..self.scenario.encore.unwrap_or(self.scenario.clients.len()));
    }

    /// A peer that listens there, and does that with each connection.
    fn serve<F: Future<Output = ()> + 'static>(
        &self,
        at: &str,
        connection: impl Fn(wire::Wire, Rc<Scenario>, Rc<Ledger>) -> F + 'static,
    ) {
        let rt = self.peers[1].handle();
        let listener = rt.adopt_listener(self.world.listen(&address(at, 80))).expect("a listener");
        let (scenario, ledger) = (Rc::clone(self.scenario), Rc::clone(self.ledger));
        let serve = move |wire| connection(wire, Rc::clone(&scenario), Rc::clone(&ledger));
        rt.spawn(wire::accept(rt.clone(), listener, serve));
    }

    fn start_clients(&self, numbers: std::ops::Range<usize>) {
        let rt = self.peers[0].handle();
        for number in numbers {
            let (scenario, ledger) = (Rc::clone(self.scenario), Rc::clone(self.ledger));
            rt.spawn(client::run(rt.clone(), scenario, ledger, number, Rc::clone(&self.clients_done)));
        }
    }

    /// Everything, from the first connection to the last byte of memory.
    fn play(self) -> bool {
        let this = ManuallyDrop::new(self);
        this.live();
        let whole = !this.broken.get();
        if whole {
            ManuallyDrop::into_inner(this).check_end();
        }
        whole
    }

    /// From the first connection to the last word of the shards.
    fn live(&self) {
        let quits = self.scenario.quits_at.map(|after| self.world.now() + after);
        let clients = self.scenario.encore.unwrap_or(self.scenario.clients.len());
        let done = self.drive(quits, || self.clients_done.get() == clients);
        let quits_early = !done && quits.is_some_and(|at| self.world.now() >= at);
        if self.broken.get() {
            return;
        }
        if !done && !quits_early {
            return self.ledger.violation("it never comes to its end".to_owned());
        }
        if quits_early {
            self.world.happened("end amid requests");
        } else {
            if let Some(first) = self.scenario.encore {
                self.rest();
                self.encore(first);
            }
            if self.scenario.drains {
                self.world.happened("drain");
                let (graceful, skip_exit, inbound_only) = (true, true, false);
                self.control.take(Input::Command(Command::DrainListeners {
                    graceful,
                    skip_exit,
                    inbound_only,
                }));
            }
            self.rest();
        }
        self.control.take(Input::Command(Command::Quit));
        let end = self.world.now() + Duration::from_secs(10);
        let gone = |s: &Shard| !s.runtime.handle().is_live(s.main);
        if !self.drive(Some(end), || self.shards.iter().all(gone)) {
            self.ledger.violation("a shard that was told to quit is there after ten seconds".to_owned());
        }
        self.check_accounts();
    }

    /// All that is left comes to its end, and leaves nothing behind.
    fn rest(&self) {
        let rest = self.world.now() + REST;
        self.drive(Some(rest), || false);
        if !self.broken.get() {
            self.check_rest();
        }
    }

    /// Lets the hosts run, in an order that is drawn, until `done` or `until`. False: it was not done.
    fn drive(&self, until: Option<Instant>, done: impl Fn() -> bool) -> bool {
        let mut next: Vec<(Instant, Host<'_>)> = Vec::new();
        while self.steps.get() < STEPS_MAX && !self.broken.get() {
            if done() {
                return true;
            }
            if !self.scenario.log_stuck {
                self.log.take();
            }
            next.clear();
            next.extend(self.hosts().filter_map(|host| Some((host.next()?, host))));
            let Some(first) = next.iter().map(|(at, _)| *at).min() else { return false };
            if until.is_some_and(|until| first >= until) {
                self.world.advance_to(until.unwrap_or(first));
                return false;
            }
            self.world.advance_to(first);
            next.retain(|(at, _)| *at <= self.world.now());
            let chosen = usize::try_from(self.world.draw(next.len() as u64)).unwrap_or(0);
            if let Some((_, host)) = next.get(chosen) {
                self.steps.set(self.steps.get() + 1);
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| host.step())) {
                    let text = panic.downcast_ref::<String>().map_or("a panic", |text| text);
                    self.ledger.violation(format!("the runtime of a host panicked: {text}"));
                    self.broken.set(true);
                    return false;
                }
                // Work takes time.
                self.world.advance_to(self.world.now() + Duration::from_nanos(self.world.draw(20_000)));
            }
            self.disturb();
        }
        false
    }

    fn hosts(&self) -> impl Iterator<Item = Host<'_>> + Clone {
        let threads = self.shards.iter().map(Host::Shard).chain(self.peers.iter().map(Host::Peer));
        threads.chain([Host::Control(&self.control)])
    }

    /// A shard stalls, the wall clock jumps: now and then.
    fn disturb(&self) {
        const RARELY: u32 = 65_536 / 2_000;
        if self.scenario.stalls > 0 && self.world.chance(RARELY) {
            let shard = usize::try_from(self.world.draw(self.shards.len() as u64)).unwrap_or(0);
            let pause = Duration::from_micros(self.world.draw(30_000));
            self.shards[shard].stalled.set(self.world.now() + pause);
            self.world.happened("stall of a shard");
        }
        if self.scenario.churns && self.world.chance(RARELY) {
            self.change_endpoints();
        }
        if self.scenario.wall_jumps > 0 && self.world.chance(RARELY) {
            let by = i64::try_from(self.world.draw(7_200_000_000_000)).unwrap_or(0) - 3_600_000_000_000;
            self.world.jump_wall(by);
            self.world.happened("wall clock jump");
        }
    }

    /// A cluster has other endpoints: some of all, and at least one.
    fn change_endpoints(&self) {
        self.world.happened("endpoints change");
        let number = usize::try_from(self.world.draw(self.clusters.len() as u64)).unwrap_or(0);
        let (cluster, all) = &self.clusters[number];
        let stays = usize::try_from(self.world.draw(all.len() as u64)).unwrap_or(0);
        let kept = all.iter().enumerate().filter(|(n, _)| *n == stays || self.world.draw(2) == 0);
        cluster.set_endpoints(kept.map(|(_, e)| Arc::clone(e)).collect());
        self.control.endpoints_changed(number);
    }

    fn sum(&self, name: &str) -> u64 {
        self.process.registry.rows(false).iter().filter(|r| r.name == name).map(|r| r.value).sum()
    }

    /// Nobody wants anything any more: what is left over is a leak.
    fn check_rest(&self) {
        for (number, shard) in self.shards.iter().enumerate() {
            let rt = shard.runtime.handle();
            let left = [
                ("sockets", rt.sockets_in_use(), 0),
                ("tasks", rt.tasks_live(), shard.tasks),
                ("lent buffers", rt.buffers_lent(), 0),
                ("bytes of the budget", rt.budget().used() - rt.buffer_bytes(), 0),
            ];
            for (what, are, were) in left {
                if are != were {
                    self.ledger.violation(format!("shard {number} at rest: {are} {what}, at first {were}"));
                }
            }
        }
        for row in self.process.registry.rows(false) {
            let active = row.name.ends_with("_active") || row.name.ends_with("_buffered");
            if active && row.value != 0 {
                self.ledger.violation(format!("at rest {} is {}", row.name, row.value));
            }
        }
    }

    fn check_accounts(&self) {
        let lines = self.log.lines();
        let dropped = self.process.writer.stats().lines_dropped.load(std::sync::atomic::Ordering::Relaxed);
        if dropped > 0 {
            self.world.happened("line of the log dropped");
        }
        self.check_counts();
        let requests = self.sum("http.main.downstream_rq_total");
        self.ledger.check_log(self.scenario, &lines, dropped, requests);
        let (begun, over) =
            (self.sum("http.main.downstream_cx_total"), self.sum("http.main.downstream_cx_destroy"));
        if begun != over {
            self.ledger.violation(format!("{begun} connections began, {over} ended"));
        }
        let panics: u64 = self.shards.iter().map(|s| s.runtime.handle().panics()).sum();
        if panics > 0 {
            self.ledger.violation(format!("{panics} panics"));
        }
    }

    /// The shards are dropped: nothing may be with the kernel.
    fn check_end(self) {
        for (number, shard) in self.shards.into_iter().enumerate() {
            let (rt, begun) = (shard.runtime.handle(), self.world.now());
            drop(shard.runtime);
            let took = self.world.now().since(begun);
            if took >= LAST_WORDS_TIME {
                self.ledger.violation(format!("shard {number} took {took:?} for its end"));
            }
            if rt.sockets_in_use() > 0 {
                let left = rt.sockets_in_use();
                self.ledger.violation(format!("shard {number} ended with {left} sockets"));
            }
        }
    }
}

/// A listening socket for each shard: their own, or shared.
fn listening(scenario: &Scenario, world: &World) -> Vec<std::os::fd::OwnedFd> {
    let at = address(draw::LISTENER, draw::PORT);
    let first = world.listen(&at);
    let mut all: Vec<_> = (1..scenario.shards)
        .map(|_| if scenario.reuse_port { world.listen(&at) } else { world.share_listener(&first) })
        .collect();
    all.push(first);
    all
}

fn start(
    world: &World,
    ledger: &Rc<Ledger>,
    faults: Faults,
    planted: Planted,
    parts: Parts,
) -> (Shard, MailSender<Letter>) {
    let runtime = host(world, faults, planted);
    let rt = runtime.handle();
    let (letters, receiver) = rt.mailbox(crate::limits::SHARD_LETTERS);
    let main = rt.spawn(shard::run(rt.clone(), parts, receiver));
    runtime.step();
    let (tasks, hears) = (rt.tasks_live(), Rc::clone(ledger));
    rt.on_panic(move |text| hears.violation(format!("a task panicked: {text}")));
    (Shard { runtime, main, tasks, stalled: Cell::new(Instant(0)) }, letters)
}
