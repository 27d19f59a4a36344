//! Inputs at their seconds, and what the machine makes of them.

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

fn compiled(clusters: &str) -> Arc<Snapshot> {
    let source = Source { yaml: yaml(clusters), ..Source::default() };
    let loaded = bootstrap::load(&source).expect("a good bootstrap");
    Arc::new(snapshot::compile(&loaded.bootstrap, Node::default()).expect("compiles"))
}

struct Driven {
    machine: Machine,
    process: Arc<Process>,
}

impl Driven {
    fn new(clusters: &str, init_only: bool) -> Driven {
        let (writer, _unwritten) = Writer::unwritten(1, 1024);
        let drain = DrainPace { strategy: DrainStrategy::Gradual, time_s: 600 };
        let pace = Pace { log_flush: Duration::from_secs(1), drain, connections_max: None };
        let process = Arc::new(Process::new(2, compiled(clusters), writer, pace, String::new()));
        let gauges = Arc::new(Gauges::new(&process));
        let settings = Settings { drain_time: Duration::from_secs(600), init_only };
        Driven { machine: Machine::new(&process, &gauges, settings, 1), process }
    }

    /// Inputs at their seconds; what comes of each stands after it, and when the next tick is due.
    fn told(&mut self, inputs: impl IntoIterator<Item = (u64, Input)>) -> String {
        let mut told = String::new();
        for (second, input) in inputs {
            let asked = match &input {
                Input::Snapshot(_) => "Snapshot".to_owned(),
                other => format!("{other:?}"),
            };
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

fn snapshot(clusters: &str) -> Input {
    Input::Snapshot(compiled(clusters))
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
    assert_eq!(told.trim(), expected.trim().replace("\n    ", "\n"));
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
    let told = driven.told(inputs.chain([1, 3, 6].into_iter().flat_map(round)).chain(good).chain(round(10)));
    let waits: Vec<&str> = told.lines().filter_map(|l| l.split_once(" until ")).map(|(_, at)| at).collect();
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

/// A cluster that is the same in the new epoch is that very one; another configuration is another cluster.
#[test]
fn what_is_the_same_lives_on() {
    const TWO: &str = "  - {name: d}\n  - {name: c}\n";
    const OTHER: &str = "  - {name: c, connect_timeout: 1s}\n";
    let mut driven = Driven::new(FIXED, false);
    let numbers = |driven: &Driven| -> Vec<String> {
        driven.process.epoch().clusters.iter().map(|c| format!("{} {}", c.config.name, c.number)).collect()
    };
    let first = Arc::clone(&driven.process.epoch().clusters[0]);
    driven.told([(0, Input::Begin), (1, Input::Started)]);
    let told = driven.told([(2, snapshot(TWO))]);
    assert_eq!(told, "2: Snapshot -> Ring(0), Ring(1), Serving(2) until 3\n");
    assert_eq!(numbers(&driven), ["d 1", "c 0"]);
    assert!(Arc::ptr_eq(&first, &driven.process.epoch().clusters[1]));
    let told = driven.told([(2, snapshot(OTHER))]);
    assert_eq!(told, "2: Snapshot -> Serving(3) until 3\n", "the shards have not read the first letter");
    assert_eq!(numbers(&driven), ["c 2"]);
    let news = driven.machine.changes(0).take();
    assert_eq!(news.epoch.map(|e| e.number), Some(3), "the newest counts");
    let stats = |name: &str| {
        let rows = driven.process.registry.rows(false);
        rows.iter().find(|r| r.name == name).map(|r| r.value)
    };
    let counted = ["cluster_added", "cluster_modified", "cluster_removed", "active_clusters"];
    let counted = counted.map(|n| stats(&format!("cluster_manager.{n}")).expect("a stat"));
    assert_eq!(counted, [1, 1, 1, 1]);
}

/// An old epoch is freed by the machine, when nobody else holds it or a part of it.
#[test]
fn old_epochs_are_freed_here() {
    let mut driven = Driven::new(FIXED, false);
    driven.told([(0, Input::Begin), (1, Input::Started)]);
    let live = |driven: &Driven| {
        let rows = driven.process.registry.rows(false);
        rows.iter().find(|r| r.name == "server.selvedge.live_epochs").map(|r| r.value)
    };
    let old = driven.process.epoch();
    let (whole, part) = (Arc::downgrade(&old), Arc::downgrade(&old.listeners[0].hcm));
    let pinned = Arc::clone(&old.listeners[0].hcm);
    driven.told([(2, snapshot(FIXED)), (3, Input::Tick)]);
    // The other shard's box is the last to hold the second one's; nobody reads it here.
    assert_eq!((live(&driven), whole.strong_count()), (Some(2), 2), "a request holds it");
    drop(old);
    assert_eq!(driven.told([(4, Input::Tick)]), "4: Tick ->  until 5\n");
    assert_eq!((live(&driven), whole.strong_count(), part.strong_count()), (Some(1), 0, 2));
    drop(pinned);
    assert_eq!(driven.told([(5, Input::Tick)]), "5: Tick -> \n", "nothing is left to look at");
    assert_eq!(part.strong_count(), 0);
}

/// A new cluster is resolved before its epoch serves; names that nobody has any more are not asked for.
#[test]
fn an_epoch_warms_before_it_serves() {
    let mut driven = Driven::new(FIXED, false);
    driven.told([(0, Input::Begin), (1, Input::Started)]);
    let to_new = |answer: Answer| Input::Answer { cluster: 1, answer };
    let told = driven.told([
        (2, snapshot(NAMED)),
        (3, to_new(Answer::Empty)),
        (4, to_new(Answer::Failed)),
        (5, Input::Tick),
        (6, snapshot(FIXED)),
        (7, to_new(Answer::Failed)),
    ]);
    assert_eq!(
        told,
        "2: Snapshot -> Ask(a.test)\n\
         3: Answer { cluster: 1, answer: Empty } -> Ask(b.test)\n\
         4: Answer { cluster: 1, answer: Failed } -> Ring(0), Ring(1), Serving(2) until 5\n\
         5: Tick -> Ask(a.test)\n\
         6: Snapshot -> Serving(3) until 7\n\
         7: Answer { cluster: 1, answer: Failed } -> \n"
    );
}

#[test]
fn listeners_stay_where_they_are() {
    let mut driven = Driven::new(FIXED, false);
    driven.told([(0, Input::Begin), (1, Input::Started)]);
    let changed = |from: &str, to: &str| {
        let source = Source { yaml: yaml(FIXED).replace(from, to), ..Source::default() };
        let loaded = bootstrap::load(&source).expect("a good bootstrap");
        Input::Snapshot(Arc::new(snapshot::compile(&loaded.bootstrap, Node::default()).expect("compiles")))
    };
    let told = driven.told([
        (2, changed("port_value: 2", "port_value: 3")),
        (3, changed("name: out", "name: other")),
        (4, changed("traffic_direction: OUTBOUND", "traffic_direction: INBOUND")),
    ]);
    let moved = "listener 'out' has another address or other socket options: they cannot change yet";
    let new = "listener 'other' is new: listeners cannot be added to a running server yet";
    assert_eq!(
        told,
        format!(
            "2: Snapshot -> Refused({moved:?})\n3: Snapshot -> Refused({new:?})\n\
             4: Snapshot -> Ring(0), Ring(1), Serving(2) until 5\n"
        )
    );
}
