//! Circuit breakers over two shards: the limits are those of the process, as Envoy's are those of all workers.
//!
//! The expectations were taken from Envoy 1.40.0, the same requests on the same workers.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::process::{ANY, PATIENCE, Proxy, ask, bootstrap, drivers, listener, until};

const GET: &str = "GET /up HTTP/1.1\r\nhost: h\r\n\r\n";

/// What is looked at of the cluster's stats, and its short name.
const SHOWN: [(&str, &str); 9] = [
    ("upstream_cx_active", "cx"),
    ("upstream_cx_overflow", "cx_overflow"),
    ("upstream_rq_active", "rq"),
    ("upstream_rq_active_overflow", "rq_overflow"),
    ("upstream_rq_pending_active", "pending"),
    ("upstream_rq_pending_overflow", "pending_overflow"),
    ("circuit_breakers.default.cx_open", "cx_open"),
    ("circuit_breakers.default.rq_open", "rq_open"),
    ("circuit_breakers.default.rq_pending_open", "pending_open"),
];

/// A proxy of two shards before an upstream that never answers, and connections whose shard is known.
struct Bench {
    proxy: Proxy,
    spare: [VecDeque<TcpStream>; 2],
}

impl Bench {
    fn start(driver: &str, limits: &str) -> Bench {
        let upstream = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = upstream.local_addr().expect("an address");
        thread::spawn(move || upstream.incoming().collect::<Vec<_>>());
        let config = bootstrap("", &[listener("main", ANY, "stat_prefix: main")], address).replace(
            "  - name: up\n",
            &format!("  - name: up\n    circuit_breakers: {{thresholds: [{{{limits}}}]}}\n"),
        );
        let proxy = Proxy::start(&config, &["--concurrency", "2", "--driver", driver]);
        Bench { proxy, spare: Default::default() }
    }

    /// A connection that this shard serves.
    fn connect(&mut self, shard: usize) -> TcpStream {
        let total = |n| format!("listener.main.worker_{n}.downstream_cx_total");
        let totals = || [0, 1].map(|n| self.proxy.find_stat(&total(n)).unwrap_or(0));
        while self.spare[shard].is_empty() {
            let before = totals();
            let client = self.proxy.connect("main");
            let mut after = before;
            until("the connection", || {
                after = totals();
                after != before
            });
            self.spare[usize::from(after[0] == before[0])].push_back(client);
        }
        self.spare[shard].pop_front().expect("just looked")
    }

    fn shown(&self) -> String {
        let (_, all) = self.proxy.ask_admin("GET", "/stats?filter=^cluster.up.");
        let value = |name: &str| {
            let line = all
                .lines()
                .find_map(|l| l.strip_prefix("cluster.up.")?.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name} in {all}")).to_owned()
        };
        let shown = SHOWN.iter().map(|(name, short)| (short, value(name))).filter(|(_, value)| value != "0");
        shown.map(|(short, value)| format!("{short} {value}")).collect::<Vec<_>>().join(", ")
    }

    /// Sends a request to a shard; it shall wait, or be refused, and the stats shall be these then.
    fn step(&mut self, what: &str, (shard, waits, expect): (usize, bool, &str)) -> TcpStream {
        let mut client = self.connect(shard);
        let what = format!("{what}, shard {shard}");
        if waits {
            client.write_all(GET.as_bytes()).expect("sent");
        } else {
            let refused = ask(&mut client, GET).expect("an answer");
            assert!(
                refused.status == 503 && refused.head.contains("x-envoy-overloaded: true"),
                "{what}: {refused:?}"
            );
            assert!(refused.body.ends_with("reset reason: overflow"), "{what}: {refused:?}");
        }
        self.settles(&what, expect);
        if waits {
            client.set_nonblocking(true).expect("set");
            let nothing = client.read(&mut [0; 1]).map_err(|e| e.kind());
            assert_eq!(nothing, Err(ErrorKind::WouldBlock), "{what}: it does not wait");
            client.set_nonblocking(false).expect("set");
        }
        client
    }

    fn settles(&self, what: &str, expect: &str) {
        let mut shown = String::new();
        let by = std::time::Instant::now() + PATIENCE;
        while shown != expect {
            assert!(std::time::Instant::now() < by, "{what}: {shown:?} and not {expect:?}");
            shown = self.shown();
        }
    }
}

fn check(limits: &str, steps: &[(usize, bool, &str)], last_is_gone: &str, then: (usize, bool, &str)) {
    for driver in drivers() {
        let mut bench = Bench::start(driver, limits);
        let mut held: Vec<_> =
            steps.iter().map(|step| bench.step(&format!("{driver}, {limits}"), *step)).collect();
        // The first one goes, and with it its place: for whichever shard.
        drop(held.remove(0));
        bench.settles(&format!("{driver}, {limits}, one is gone"), last_is_gone);
        bench.step(&format!("{driver}, {limits}, one is gone"), then);
    }
}

const WAITS: bool = true;
const REFUSED: bool = false;

#[test]
fn requests() {
    let steps = [
        (0, WAITS, "cx 1, rq 1"),
        (1, WAITS, "cx 2, rq 2, rq_open 1"),
        (0, REFUSED, "cx 3, rq 2, rq_overflow 1, rq_open 1"),
        (1, REFUSED, "cx 4, rq 2, rq_overflow 2, rq_open 1"),
    ];
    check(
        "max_requests: 2",
        &steps,
        "cx 3, rq 1, rq_overflow 2",
        (1, WAITS, "cx 3, rq 2, rq_overflow 2, rq_open 1"),
    );
}

/// A shard without any connection makes one beyond the limit, lest its requests wait for ever.
#[test]
fn pending_requests() {
    let steps = [
        (0, WAITS, "cx 1, rq 1, cx_open 1"),
        (1, WAITS, "cx 2, cx_overflow 1, rq 2, cx_open 1"),
        (0, WAITS, "cx 2, cx_overflow 2, rq 2, pending 1, cx_open 1, pending_open 1"),
        (1, REFUSED, "cx 2, cx_overflow 2, rq 2, pending 1, pending_overflow 1, cx_open 1, pending_open 1"),
        (0, REFUSED, "cx 2, cx_overflow 2, rq 2, pending 1, pending_overflow 2, cx_open 1, pending_open 1"),
    ];
    check(
        "max_connections: 1, max_pending_requests: 1",
        &steps,
        "cx 2, cx_overflow 3, rq 2, pending_overflow 2, cx_open 1",
        (1, WAITS, "cx 2, cx_overflow 4, rq 2, pending 1, pending_overflow 2, cx_open 1, pending_open 1"),
    );
}

#[test]
fn connections() {
    let steps = [
        (0, WAITS, "cx 1, rq 1"),
        (0, WAITS, "cx 2, rq 2"),
        (1, WAITS, "cx 3, rq 3, cx_open 1"),
        (1, WAITS, "cx 3, cx_overflow 1, rq 3, pending 1, cx_open 1"),
    ];
    // The request that waits on the other shard is not told; one that comes anew takes the place.
    check(
        "max_connections: 3",
        &steps,
        "cx 2, cx_overflow 1, rq 2, pending 1",
        (0, WAITS, "cx 3, cx_overflow 1, rq 3, pending 1, cx_open 1"),
    );
}
