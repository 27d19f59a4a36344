//! What the control thread decides: when to ask for names, when to start, what shards are told, when it is over.
//!
//! ```text
//! begin -> Warming (names resolve) -> Starting (shards are made) -> Serving -> Over
//! ```
//! A machine without hands: inputs and `now` come in, outputs go out, and whoever drives it does them in their order.
//! The server drives it from its control thread, the simulator from a seed. What all threads share (endpoints,
//! statistics) it changes itself. It reads no clock and no file, and starts no thread.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::Instant;
use selvedge_runtime::rng::Rng;

use super::gauges::Gauges;
use super::overload::Overload;
use crate::admin::Command;
use crate::config::snapshot::Snapshot;
use crate::epoch::{Epoch, Epochs};
use crate::limits;
use crate::overload::Reading;
use crate::process::{INITIALIZING, LIVE, Process};
use crate::shard::{Changes, Letter};
use crate::upstream::dns::{Answer, Follower, Question};

#[derive(Debug)]
pub(crate) enum Input {
    /// The first of all.
    Begin,
    /// The shards that were asked for serve.
    Started,
    /// A signal asks for the end, or for new log files.
    End,
    Reopen,
    Command(Command),
    /// To the question about a name of that cluster.
    Answer {
        cluster: usize,
        answer: Answer,
    },
    ShardEnded(usize),
    /// Of each monitor of the overload manager.
    Measured(Vec<Reading>),
    /// The configuration is another one.
    #[cfg_attr(not(test), expect(dead_code, reason = "its sources are still to come"))]
    Snapshot(Arc<Snapshot>),
    /// It is time: see [`Machine::poll_timeout`].
    Tick,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Ask(Question),
    /// Read the monitors of the overload manager.
    Measure,
    /// The server's state, in Envoy's numbers.
    State(u8),
    /// Make the shards, of the newest epoch.
    Start,
    /// To every shard that lives; it overtakes others.
    Order(Letter),
    /// A letter for one shard, for what it has not seen of its `Changes`.
    Ring(usize),
    ReopenLogs,
    /// The last snapshot is not taken, and why.
    Refused(String),
    /// The shards have been told of the epoch of that number.
    Serving(u64),
    /// Tell the shards to quit, and end after them. With a reason: it was not asked for.
    End(Option<&'static str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Warming,
    Starting,
    Serving,
    Over,
}

/// What the command line says to the control thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) drain_time: Duration,
    /// `--mode init_only`
    pub(crate) init_only: bool,
}

#[derive(Debug)]
pub(crate) struct Machine {
    process: Arc<Process>,
    epochs: Epochs,
    /// When it is looked next who holds old epochs.
    sweep_at: Instant,
    gauges: Arc<Gauges>,
    settings: Settings,
    rng: Rng,
    stage: Stage,
    /// By the numbers of their clusters.
    followers: BTreeMap<usize, Follower>,
    overload: Option<Overload>,
    /// By shard: what it is to look at. `None`: it has ended.
    boxes: Vec<Option<Arc<Changes>>>,
    /// When a graceful drain is over, and whether it is one of inbound listeners alone.
    drained: Option<(Instant, bool)>,
    /// By listener: it takes no more connections.
    stopped: Vec<bool>,
    /// Commands that wait for the shards: each kind once.
    early: Vec<Command>,
    out: Vec<Output>,
}

impl Machine {
    pub(crate) fn new(
        process: &Arc<Process>,
        gauges: &Arc<Gauges>,
        settings: Settings,
        seed: u64,
    ) -> Machine {
        let epoch = process.epoch();
        Machine {
            followers: followers(&epoch).collect(),
            overload: Overload::new(process),
            stopped: vec![false; epoch.listeners.len()],
            boxes: (0..process.shards).map(|_| Some(Arc::default())).collect(),
            epochs: Epochs::new(epoch, process.shards, &process.registry),
            sweep_at: Instant::FAR,
            process: Arc::clone(process),
            gauges: Arc::clone(gauges),
            settings,
            rng: Rng::new(seed),
            stage: Stage::Warming,
            drained: None,
            early: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Where it notes what a shard has not seen.
    pub(crate) fn changes(&self, shard: usize) -> Arc<Changes> {
        self.boxes[shard].clone().unwrap_or_default()
    }

    /// When the next tick is due, at the latest.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let names = self.followers.values().map(Follower::poll_timeout).min();
        let drained = self.drained.map(|(at, _)| at);
        let overload = self.overload.as_ref().map(Overload::poll_timeout);
        [names, drained, overload].into_iter().flatten().min().unwrap_or(Instant::FAR).min(self.sweep_at)
    }

    /// Takes one input.
    pub(crate) fn poll(&mut self, now: Instant, input: Input) -> Vec<Output> {
        if self.stage == Stage::Over {
            return Vec::new();
        }
        match input {
            Input::Begin => self.out.push(Output::State(INITIALIZING)),
            Input::Started => self.started(now),
            Input::End => self.end(None),
            Input::Reopen => self.out.push(Output::ReopenLogs),
            Input::Command(command) => self.obey(now, command),
            Input::Answer { cluster, answer } => {
                if let Some(follower) = self.followers.get_mut(&cluster) {
                    let step = follower.handle_answer(now, answer, &self.rng);
                    self.followed(cluster, step);
                }
            }
            Input::ShardEnded(shard) => {
                self.boxes[shard] = None;
                if self.boxes.iter().all(Option::is_none) {
                    self.end(Some("no shard is left"));
                }
            }
            Input::Measured(readings) => {
                if self.overload.as_mut().is_some_and(|o| o.handle_readings(now, &readings)) {
                    self.ring_all(Changes::note_overload);
                }
            }
            Input::Snapshot(snapshot) => self.configure(snapshot),
            Input::Tick => {}
        }
        self.look_at_clock(now);
        std::mem::take(&mut self.out)
    }

    /// What is due. Nothing of it waits for a tick.
    fn look_at_clock(&mut self, now: Instant) {
        if self.stage == Stage::Over {
            return;
        }
        let due: Vec<usize> =
            self.followers.iter().filter(|(_, f)| f.poll_timeout() <= now).map(|(n, _)| *n).collect();
        for cluster in due {
            if let Some(follower) = self.followers.get_mut(&cluster) {
                let step = follower.handle_timeout(now, &self.rng);
                self.followed(cluster, step);
            }
        }
        if self.overload.as_mut().is_some_and(|o| o.handle_timeout(now)) {
            self.out.push(Output::Measure);
        }
        if let Some((_, inbound_only)) = self.drained.take_if(|(at, _)| *at <= now) {
            self.stop_listening(inbound_only);
        }
        if self.followers.values().all(Follower::is_warm) {
            self.warmed(now);
        }
        if self.sweep_at <= now {
            self.epochs.sweep();
            self.gauges.live_epochs(self.epochs.live());
            self.sweep_at =
                if self.epochs.is_swept() { Instant::FAR } else { now + limits::EPOCHS_SWEPT_EVERY };
        }
    }

    /// Takes a snapshot: it serves when its clusters have their first endpoints.
    fn configure(&mut self, snapshot: Arc<Snapshot>) {
        if let Err(reason) = self.epochs.take(snapshot) {
            return self.out.push(Output::Refused(reason));
        }
        if let Some(epoch) = &self.epochs.warming {
            let new = followers(epoch).filter(|(n, _)| !self.followers.contains_key(n));
            let new: Vec<_> = new.collect();
            self.followers.extend(new);
        }
        self.forget_names();
    }

    /// Names of clusters that are in no epoch to come are not looked up any more.
    fn forget_names(&mut self) {
        let epochs = &self.epochs;
        self.followers.retain(|_, f| epochs.uses(f.cluster()));
    }

    /// Every cluster that others wait for has its first endpoints.
    fn warmed(&mut self, now: Instant) {
        if let Some(old) = self.epochs.publish() {
            let epoch = Arc::clone(&self.epochs.current);
            self.gauges.replaced(&old, &epoch);
            self.gauges.live_epochs(self.epochs.live());
            self.process.set_epoch(Arc::clone(&epoch));
            self.forget_names();
            self.ring_all(|changes| changes.note_epoch(Arc::clone(&epoch)));
            self.out.push(Output::Serving(epoch.number));
            self.sweep_at = self.sweep_at.min(now + limits::EPOCHS_SWEPT_EVERY);
        }
        if self.stage == Stage::Warming {
            self.stage = Stage::Starting;
            self.out.push(Output::Start);
        }
    }

    fn followed(&mut self, cluster: usize, (changed, question): (bool, Option<Question>)) {
        self.out.extend(question.map(Output::Ask));
        if changed {
            self.ring_all(|changes| changes.note(cluster));
        }
    }

    /// Notes something for each shard, and tells those that do not know yet that there is something. Shards that are
    /// made after this begin with what is there by then.
    fn ring_all(&mut self, note: impl Fn(&Changes) -> bool) {
        if self.stage == Stage::Warming {
            return;
        }
        for (shard, changes) in self.boxes.iter().enumerate() {
            if changes.as_ref().is_some_and(|c| note(c)) {
                self.out.push(Output::Ring(shard));
            }
        }
    }

    fn started(&mut self, now: Instant) {
        self.stage = Stage::Serving;
        self.gauges.live(self.epochs.current.listeners.len(), now);
        self.out.push(Output::State(LIVE));
        if self.settings.init_only {
            return self.end(None);
        }
        for command in std::mem::take(&mut self.early) {
            self.obey(now, command);
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Quit => self.end(None),
            Command::ReopenLogs => self.out.push(Output::ReopenLogs),
            Command::DrainListeners { .. } if self.stage != Stage::Serving => {
                if !self.early.contains(&command) {
                    self.early.push(command);
                }
            }
            Command::DrainListeners { graceful: true, skip_exit, inbound_only } => {
                self.out.push(Output::Order(Letter::Drain { inbound_only }));
                if !skip_exit && self.drained.is_none() {
                    self.drained = Some((now + self.settings.drain_time, inbound_only));
                }
            }
            Command::DrainListeners { inbound_only, .. } => self.stop_listening(inbound_only),
        }
    }

    fn stop_listening(&mut self, inbound_only: bool) {
        let mut newly = 0;
        for (listener, stopped) in self.epochs.current.listeners.iter().zip(&mut self.stopped) {
            if listener.direction.is_meant(inbound_only) && !std::mem::replace(stopped, true) {
                newly += 1;
            }
        }
        self.gauges.stopped(newly);
        self.out.push(Output::Order(Letter::StopListening { inbound_only }));
    }

    fn end(&mut self, unasked: Option<&'static str>) {
        self.stage = Stage::Over;
        self.out.push(Output::End(unasked));
    }
}

/// Those of its clusters that have names.
fn followers(epoch: &Epoch) -> impl Iterator<Item = (usize, Follower)> {
    epoch.clusters.iter().filter_map(|c| Some((c.number, Follower::new(c)?)))
}
