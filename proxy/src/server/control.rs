//! The control thread: does what the control machine says, and brings it signals, commands, answers and the time.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "control thread")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use selvedge_runtime::{Instant, SocketAddress};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::gauges::Gauges;
use super::machine::{Input, Machine, Output, Settings};
use super::resolver::Resolvers;
use super::shards::{self, Shard};
use super::{Bound, Plan};
use crate::admin::{self, AdminState};
use crate::args::Mode;
use crate::log;
use crate::overload::Monitors;
use crate::process::{LIVE, Process};
use crate::shard::Letter;

/// What the control thread owns for the life of the process.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) plan: Plan,
    pub(super) process: Arc<Process>,
    pub(super) listeners: Vec<(Arc<str>, Vec<SocketAddress>)>,
    pub(super) started: std::time::Instant,
}

/// How long the log writer may take for its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Runs until the process shall end.
pub(super) fn run(core: &Arc<Core>, bound: Vec<Bound>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no control runtime: {e}"))?;
    runtime.block_on(Control::run(core, bound))
}

/// The hands of the machine.
struct Control<'a> {
    core: &'a Arc<Core>,
    machine: Machine,
    signals: Signals,
    resolvers: Resolvers,
    monitors: Monitors,
    inputs: UnboundedSender<Input>,
    inbox: UnboundedReceiver<Input>,
    /// Until the shards are made of them.
    bound: Vec<Bound>,
    shards: Vec<Shard>,
}

impl<'a> Control<'a> {
    async fn run(core: &'a Arc<Core>, bound: Vec<Bound>) -> Result<(), String> {
        let signals = Signals::new().map_err(|e| format!("no signal handlers: {e}"))?;
        let gauges = Arc::new(Gauges::new(&core.process));
        gauges.begun(core);
        let options = &core.plan.options;
        let settings = Settings {
            drain_time: Duration::from_secs(options.drain_time_s),
            init_only: options.mode == Mode::InitOnly,
        };
        let machine = Machine::new(&core.process, &gauges, settings, selvedge_runtime::rng::seed());
        let (inputs, inbox) = mpsc::unbounded_channel();
        start_admin(core, gauges, inputs.clone())?;
        let resolvers = Resolvers::default();
        let monitors = Monitors::new(core.process.epoch().snapshot.overload.as_deref());
        let mut this =
            Control { core, machine, signals, resolvers, monitors, inputs, inbox, bound, shards: Vec::new() };
        this.drive().await?;
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.core.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Lets the machine run to its end.
    async fn drive(&mut self) -> Result<(), String> {
        let mut input = Input::Begin;
        loop {
            for output in self.machine.poll(self.now(), input) {
                match output {
                    Output::Ask(question) => self.resolvers.ask(question, &self.inputs),
                    Output::Measure => {
                        let _we_hold_its_other_end = self.inputs.send(Input::Measured(self.monitors.read()));
                    }
                    Output::State(state) => self.tell_state(state),
                    Output::Start => self.start()?,
                    Output::Order(letter) => self.order(letter),
                    Output::Ring(shard) => self.ring(shard),
                    Output::Refused(why) => {
                        log::error("config", &format!("the configuration is refused: {why}"))
                    }
                    Output::Serving(number) => log::info("config", &format!("epoch {number} serves")),
                    Output::ReopenLogs => self.core.process.writer.reopen(),
                    Output::End(why) => return self.end(why).await,
                }
            }
            input = self.next().await;
        }
    }

    async fn next(&mut self) -> Input {
        let due = match self.machine.poll_timeout() {
            Instant::FAR => None,
            due => Some(due.since(self.now())),
        };
        tokio::select! {
            asked = self.signals.next() => asked,
            Some(input) = self.inbox.recv() => input,
            () = async {
                match due {
                    Some(due) => tokio::time::sleep(due).await,
                    None => std::future::pending().await,
                }
            } => Input::Tick,
        }
    }

    fn tell_state(&self, state: u8) {
        self.core.process.set_phase(state);
        if state == LIVE {
            log::info("main", "all dependencies initialized; starting workers");
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let bound = std::mem::take(&mut self.bound);
        self.shards = shards::start(self.core, bound, |n| self.machine.changes(n), &self.inputs)?;
        for (number, shard) in self.shards.iter().enumerate() {
            let driver = &shard.driver;
            log::info("main", &format!("shard {number}: driver {} ({})", driver.kind, driver.reason));
        }
        for (name, addresses) in &self.core.listeners {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            log::info("main", &format!("listener {name}: {}", addresses.join(", ")));
        }
        let _we_hold_its_other_end = self.inputs.send(Input::Started);
        Ok(())
    }

    fn order(&self, letter: Letter) {
        for (number, shard) in self.shards.iter().enumerate().filter(|(_, s)| !s.thread.is_finished()) {
            if shard.letters.send_control(letter).is_err() {
                log::error("main", &format!("shard {number} has too many commands unread: one is lost"));
            }
        }
    }

    fn ring(&self, shard: usize) {
        if self.shards[shard].letters.send(Letter::Changes).is_err() {
            log::error("main", &format!("shard {shard}: its box is full before it was told anything"));
        }
    }

    async fn end(&mut self, unasked: Option<&'static str>) -> Result<(), String> {
        // Nothing runs yet, so there is nothing to end.
        if self.shards.is_empty() {
            return Ok(());
        }
        log::info("main", "exiting");
        end(std::mem::take(&mut self.shards)).await;
        if !self.core.process.writer.flush(LAST_LINES) {
            log::warn("main", "the log writer did not finish in time");
        }
        unasked.map_or(Ok(()), |why| Err(why.to_owned()))
    }
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

fn start_admin(core: &Arc<Core>, gauges: Arc<Gauges>, inputs: UnboundedSender<Input>) -> Result<(), String> {
    let epoch = core.process.epoch();
    let Some(config) = &epoch.snapshot.admin else { return Ok(()) };
    let looked = Arc::clone(core);
    let state = AdminState {
        options: Arc::clone(&core.plan.options),
        bootstrap_bytes: Arc::clone(&core.plan.bootstrap),
        process: Arc::clone(&core.process),
        listeners: core.listeners.clone(),
        started: core.started,
        started_wall: SystemTime::now(),
        commands: Box::new(move |command| {
            let _ends_with_the_process = inputs.send(Input::Command(command));
        }),
        refresh: Box::new(move || gauges.refresh(&looked)),
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
    async fn next(&mut self) -> Input {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {
                    log::warn("main", "caught ENVOY_SIGTERM");
                    return Input::End;
                }
                _ = self.interrupt.recv() => {
                    log::warn("main", "caught SIGINT");
                    return Input::End;
                }
                _ = self.reopen.recv() => {
                    log::info("main", "caught SIGUSR1. Reopening access logs.");
                    return Input::Reopen;
                }
                _ = self.hangup.recv() => log::warn("main", "caught and eating SIGHUP"),
            }
        }
    }
}
