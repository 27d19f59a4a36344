//! What the control thread decides: when to ask for names, when to start, what shards are told, when it is over.
//!
//! ```text
//! begin -> Warming (names resolve) -> Starting (shards are made) -> Serving -> Over
//! ```
//! A machine without hands: inputs and `now` come in, outputs go out, and whoever drives it does them in their order.
//! The server drives it from its control thread, the simulator from a seed. What all threads share (endpoints,
//! statistics) it changes itself. It reads no clock and no file, and starts no thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::Instant;
use selvedge_runtime::rng::Rng;

use super::gauges::Gauges;
use super::overload::Overload;
use crate::admin::Command;
use crate::epoch::Epoch;
use crate::overload::Reading;
use crate::process::Process;
use crate::shard::Letter;
use crate::upstream::changes::Changes;
use crate::upstream::dns::{Answer, Follower, Question};

/// Envoy's numbers of the server's states.
pub(super) const LIVE: u8 = 0;
pub(super) const DRAINING: u8 = 1;
pub(super) const PRE_INITIALIZING: u8 = 2;
const INITIALIZING: u8 = 3;

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
    epoch: Arc<Epoch>,
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
    pub(crate) fn new(process: &Process, gauges: &Arc<Gauges>, settings: Settings, seed: u64) -> Machine {
        let epoch = process.epoch();
        Machine {
            followers: epoch.clusters.iter().filter_map(|c| Some((c.number, Follower::new(c)?))).collect(),
            overload: Overload::new(process),
            stopped: vec![false; epoch.snapshot.listeners.len()],
            boxes: (0..process.shards).map(|_| Some(Arc::default())).collect(),
            epoch,
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
        [names, drained, overload].into_iter().flatten().min().unwrap_or(Instant::FAR)
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
        if self.stage == Stage::Warming && self.followers.values().all(Follower::is_warm) {
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

    /// Shards that are made after this begin with what is there by then.
    fn ring_all(&mut self, note: impl Fn(&Changes) -> bool) {
        if self.stage != Stage::Serving {
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
        self.gauges.live(self.epoch.snapshot.listeners.len(), now);
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
        for (listener, stopped) in self.epoch.snapshot.listeners.iter().zip(&mut self.stopped) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::sink::Writer;
    use crate::args::DrainStrategy;
    use crate::config::bootstrap::{self, Source};
    use crate::config::snapshot::{self, Node};
    use crate::process::Pace;
    use crate::shard::DrainPace;

    const ROUTES: &str = "route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}";

    /// Two listeners, one of them inbound, and the clusters of the test.
    fn yaml(clusters: &str) -> String {
        let listener = |name: &str, port: u16, direction: &str| {
            format!(
                "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    \
                 traffic_direction: {direction}\n    filter_chains: [{{filters: [{{name: h, typed_config: {{\
                 '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
                 stat_prefix: h, {ROUTES}, http_filters: [{{name: r, typed_config: {{\
                 '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]\n"
            )
        };
        let (inner, outer) = (listener("in", 1, "INBOUND"), listener("out", 2, "OUTBOUND"));
        format!("static_resources:\n  listeners:\n{inner}{outer}  clusters:\n{clusters}")
    }

    const FIXED: &str = "  - {name: c}\n";
    const NAMED: &str = "  - {name: c, type: STRICT_DNS, dns_refresh_rate: 5s, respect_dns_ttl: true, \
                         dns_failure_refresh_rate: {base_interval: 1s, max_interval: 3s}, load_assignment: \
                         {cluster_name: c, endpoints: [{lb_endpoints: [\
                         {endpoint: {address: {socket_address: {address: a.test, port_value: 80}}}}, \
                         {endpoint: {address: {socket_address: {address: b.test, port_value: 81}}}}]}]}}\n";

    fn compiled(clusters: &str) -> Arc<snapshot::Snapshot> {
        let source = Source { yaml: yaml(clusters), ..Source::default() };
        let loaded = bootstrap::load(&source).expect("a good bootstrap");
        Arc::new(snapshot::compile(&loaded.bootstrap, Node::default()).expect("compiles"))
    }

    struct Driven {
        machine: Machine,
        process: Process,
    }

    impl Driven {
        fn new(clusters: &str, init_only: bool) -> Driven {
            let (writer, _unwritten) = Writer::unwritten(1, 1024);
            let drain = DrainPace { strategy: DrainStrategy::Gradual, time_s: 600 };
            let pace = Pace { log_flush: Duration::from_secs(1), drain };
            let process = Process::new(2, compiled(clusters), writer, pace, String::new());
            let gauges = Arc::new(Gauges::new(&process));
            let settings = Settings { drain_time: Duration::from_secs(600), init_only };
            Driven { machine: Machine::new(&process, &gauges, settings, 1), process }
        }

        /// Inputs at their seconds; what comes of each stands after it, and when the next tick is due.
        fn told(&mut self, inputs: impl IntoIterator<Item = (u64, Input)>) -> String {
            let mut told = String::new();
            for (second, input) in inputs {
                let asked = format!("{input:?}");
                let outputs = self.machine.poll(Instant(second * 1_000_000_000), input);
                let outputs: Vec<_> = outputs.iter().map(short).collect();
                let due = match self.machine.poll_timeout() {
                    Instant::FAR => String::new(),
                    due => format!(" until {}", due.0 / 1_000_000_000),
                };
                told += &format!("{second}: {asked} -> {}{due}\n", outputs.join(", "));
            }
            told
        }
    }

    fn short(output: &Output) -> String {
        match output {
            Output::Ask(question) => format!("Ask({})", question.name),
            other => format!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(clusters: &str, inputs: impl IntoIterator<Item = (u64, Input)>, expected: &str) {
        let told = Driven::new(clusters, false).told(inputs);
        assert_eq!(told.trim(), expected.trim().replace("\n        ", "\n"));
    }

    fn drain(graceful: bool, skip_exit: bool, inbound_only: bool) -> Input {
        Input::Command(Command::DrainListeners { graceful, skip_exit, inbound_only })
    }

    fn answer(ips: &[&str], lives_s: u64) -> Input {
        let addresses = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
        Input::Answer { cluster: 0, answer: Answer::Addresses(addresses, Duration::from_secs(lives_s)) }
    }

    fn failed() -> Input {
        Input::Answer { cluster: 0, answer: Answer::Failed }
    }

    #[test]
    fn a_start_that_waits_for_nothing_and_an_end() {
        check(
            FIXED,
            [(0, Input::Begin), (1, Input::Started), (2, Input::Reopen), (3, Input::End), (4, Input::End)],
            "0: Begin -> State(3), Start
        1: Started -> State(0)
        2: Reopen -> ReopenLogs
        3: End -> End(None)
        4: End -> ",
        );
        let told = Driven::new(FIXED, true).told([(0, Input::Begin), (1, Input::Started)]);
        assert_eq!(told, "0: Begin -> State(3), Start\n1: Started -> State(0), End(None)\n");
    }

    /// Listeners are stopped when the drain time is over, once; a drain that skips the exit stops none.
    #[test]
    fn drains() {
        check(
            FIXED,
            [(0, Input::Begin), (1, drain(true, false, true)), (2, Input::Started), (3, drain(true, true, false))]
                .into_iter()
                .chain([(4, drain(true, false, false)), (601, Input::Tick), (602, Input::Tick)])
                .chain([(603, drain(false, false, false)), (1300, Input::Tick)]),
            "0: Begin -> State(3), Start
        1: Command(DrainListeners { graceful: true, skip_exit: false, inbound_only: true }) -> 
        2: Started -> State(0), Order(Drain { inbound_only: true }) until 602
        3: Command(DrainListeners { graceful: true, skip_exit: true, inbound_only: false }) -> Order(Drain { inbound_only: false }) until 602
        4: Command(DrainListeners { graceful: true, skip_exit: false, inbound_only: false }) -> Order(Drain { inbound_only: false }) until 602
        601: Tick ->  until 602
        602: Tick -> Order(StopListening { inbound_only: true })
        603: Command(DrainListeners { graceful: false, skip_exit: false, inbound_only: false }) -> Order(StopListening { inbound_only: false })
        1300: Tick -> ",
        );
    }

    /// Names are asked for one after the other; the shards start with what there is, and hear of what changes.
    #[test]
    fn names_are_followed() {
        let mut driven = Driven::new(NAMED, false);
        let told = driven.told([
            (0, Input::Begin),
            (1, answer(&["10.0.0.1"], 20)),
            (2, answer(&["10.0.0.2"], 2)),
            (3, Input::Started),
            (4, Input::Tick),
            (5, answer(&["10.0.0.1"], 20)),
            (6, answer(&["10.0.0.3", "10.0.0.4"], 20)),
            (11, Input::Tick),
            (12, failed()),
        ]);
        assert_eq!(
            told,
            "0: Begin -> State(3), Ask(a.test)\n\
             1: Answer { cluster: 0, answer: Addresses([10.0.0.1], 20s) } -> Ask(b.test)\n\
             2: Answer { cluster: 0, answer: Addresses([10.0.0.2], 2s) } -> Start until 4\n\
             3: Started -> State(0) until 4\n\
             4: Tick -> Ask(a.test)\n\
             5: Answer { cluster: 0, answer: Addresses([10.0.0.1], 20s) } -> Ask(b.test)\n\
             6: Answer { cluster: 0, answer: Addresses([10.0.0.3, 10.0.0.4], 20s) } -> Ring(0), Ring(1) until 11\n\
             11: Tick -> Ask(a.test)\n\
             12: Answer { cluster: 0, answer: Failed } -> Ask(b.test)\n"
        );
        let endpoints = driven.process.epoch().clusters[0].endpoints();
        let addresses: Vec<_> = endpoints.iter().map(|e| e.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.3:81", "10.0.0.4:81"]);
        assert!(driven.machine.changes(1).take().clusters.contains(&0), "the letter is about that cluster");
    }

    /// Failures are asked again after 1, 2, 3, 3 seconds, and after one success after 1 again.
    #[test]
    fn failures_back_off() {
        let mut driven = Driven::new(NAMED, false);
        let round = |at: u64| [(at, Input::Tick), (at, failed()), (at, failed())];
        let good = [(9, Input::Tick), (9, answer(&["10.0.0.1"], 0)), (9, answer(&["10.0.0.2"], 0))];
        let inputs = [(0, Input::Begin), (0, failed()), (0, failed())].into_iter();
        let told =
            driven.told(inputs.chain([1, 3, 6].into_iter().flat_map(round)).chain(good).chain(round(10)));
        let waits: Vec<&str> =
            told.lines().filter_map(|l| l.split_once(" until ")).map(|(_, at)| at).collect();
        assert_eq!(waits, ["1", "3", "6", "9", "10", "11"], "{told}");
    }

    /// A name that cannot be resolved holds nobody up for ever; who is told to end does so before the start.
    #[test]
    fn the_start_can_be_given_up() {
        check(
            NAMED,
            [(0, Input::Begin), (1, failed()), (2, Input::Command(Command::Quit)), (3, failed())],
            "0: Begin -> State(3), Ask(a.test)
        1: Answer { cluster: 0, answer: Failed } -> Ask(b.test)
        2: Command(Quit) -> End(None)
        3: Answer { cluster: 0, answer: Failed } -> ",
        );
    }

    #[test]
    fn the_last_shard_takes_the_process_with_it() {
        check(
            FIXED,
            [(0, Input::Begin), (1, Input::Started), (2, Input::ShardEnded(1)), (3, Input::ShardEnded(0))],
            "0: Begin -> State(3), Start
        1: Started -> State(0)
        2: ShardEnded(1) -> 
        3: ShardEnded(0) -> End(Some(\"no shard is left\"))",
        );
    }
}
