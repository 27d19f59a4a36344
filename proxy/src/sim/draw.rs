//! What one seed stands for: a configuration, faults, and what clients and upstreams will do.
//!
//! All of it is drawn before anything runs, from a generator of its own: so a change of the proxy leaves the
//! scenario of a seed as it was.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use selvedge_runtime::rng::Rng;
use selvedge_runtime::sim::{ALWAYS, Faults};

/// Everything that a seed decides beforehand.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub bootstrap: String,
    pub shards: usize,
    pub reuse_port: bool,
    pub faults: Faults,
    pub clusters: Vec<ClusterPlan>,
    /// By connection of a client.
    pub clients: Vec<Vec<ConnectionPlan>>,
    pub requests: Vec<RequestPlan>,
    /// Nothing goes wrong in the network, and no bound of the configuration is small.
    pub calm: bool,
    /// The earliest that a request that was sent may be given up.
    pub timeout: Duration,
    pub stalls: u32,
    pub wall_jumps: u32,
    /// The log sink takes nothing until the end.
    pub log_stuck: bool,
    /// The process ends in the middle of it, at that time from the start.
    pub quits_at: Option<Duration>,
    pub drains: bool,
    /// Endpoints come and go, as names resolve to others.
    pub churns: bool,
}

#[derive(Debug, Clone)]
pub struct ClusterPlan {
    pub endpoints: usize,
}

/// One connection of a client: its requests, by number.
#[derive(Debug, Clone)]
pub struct ConnectionPlan {
    pub requests: Vec<usize>,
    /// Requests are written without waiting for the response before.
    pub pipelined: bool,
    /// Before the first byte.
    pub delay: Duration,
    pub reads_slowly: bool,
    /// The client goes away after that many bytes of responses.
    pub leaves_after: Option<u64>,
    pub half_closes: bool,
    /// Bytes that are no request, instead of the last one.
    pub ends_in_garbage: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length,
    Chunked,
    /// The end of the connection: responses only.
    Close,
}

#[derive(Debug, Clone)]
pub struct RequestPlan {
    pub cluster: usize,
    pub method: &'static str,
    pub framing: Framing,
    pub body: usize,
    pub piece: usize,
    pub pause: Duration,
    pub expects_continue: bool,
    pub trailers: bool,
    pub act: Act,
}

/// What an upstream does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    Answer(Answer),
    /// Takes the request, and never says anything.
    Silent,
    Garbage,
    /// A response that ends before its declared end, by a close or a reset.
    Cut {
        answer: Answer,
        after: usize,
        reset: bool,
    },
    /// Closes without a word.
    Close {
        reset: bool,
    },
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub framing: Framing,
    pub body: usize,
    pub piece: usize,
    pub delay: Duration,
    pub pause: Duration,
    /// Before the request's body was read.
    pub early: bool,
    pub interim: u32,
    /// A second response that nobody asked for.
    pub twice: bool,
    /// The connection is closed after it, without saying so.
    pub closes: bool,
}

/// Draws from a scenario's own generator.
struct Draw(Rng);

impl Draw {
    fn below(&self, bound: u64) -> u64 {
        self.0.next() % bound.max(1)
    }

    fn within(&self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn size(&self, range: RangeInclusive<u64>) -> usize {
        usize::try_from(self.within(range)).expect("a small number")
    }

    /// Once in `n`.
    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Of every magnitude up to `most` alike.
    fn magnitude(&self, most: u64) -> usize {
        let bits = u64::from(most.max(1).ilog2());
        let top = 1u64 << self.within(0..=bits);
        usize::try_from(self.below(top * 2).min(most)).expect("a small number")
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("a small number")]
    }

    fn micros(&self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_micros(self.within(range))
    }
}

impl Scenario {
    pub fn new(seed: u64) -> Scenario {
        let draw = Draw(Rng::new(seed ^ 0x5e1_ed6e));
        let calm = draw.one_in(6);
        let clusters: Vec<_> =
            (0..draw.within(1..=3)).map(|_| ClusterPlan { endpoints: draw.size(1..=3) }).collect();
        let route_timeout = Duration::from_millis(if calm { 300_000 } else { draw.within(50..=4_000) });
        let tiny = draw.one_in(8);
        let body_max = if tiny { 1_500 } else { 300_000 };
        let (shards, reuse_port) = (draw.size(1..=2), draw.one_in(2));
        let idle_timeout = Duration::from_millis(if calm { 120_000 } else { draw.within(500..=8_000) });
        let bootstrap = bootstrap(&draw, calm, &clusters, (route_timeout, idle_timeout), reuse_port);
        let mut requests = Vec::new();
        let mut clients: Vec<Vec<ConnectionPlan>> = (0..draw.within(1..=6))
            .map(|_| {
                let connections = draw.within(1..=4);
                (0..connections)
                    .map(|_| connection(&draw, calm, clusters.len(), body_max, &mut requests))
                    .collect()
            })
            .collect();
        if calm && tiny {
            // A byte at a time to one who takes a rest after each is no calm day.
            clients.iter_mut().flatten().for_each(|plan| plan.reads_slowly = false);
        }
        Scenario {
            seed,
            bootstrap,
            shards,
            reuse_port,
            faults: faults(&draw, calm, tiny),
            clusters,
            clients,
            requests,
            calm,
            timeout: route_timeout.min(idle_timeout),
            stalls: if calm || draw.one_in(2) { 0 } else { 40 },
            wall_jumps: if draw.one_in(4) { 20 } else { 0 },
            log_stuck: draw.one_in(16),
            quits_at: (!calm && draw.one_in(8)).then(|| draw.micros(0..=2_000_000)),
            drains: draw.one_in(3),
            churns: draw.one_in(3),
        }
    }
}

fn faults(draw: &Draw, calm: bool, tiny: bool) -> Faults {
    let least = draw.micros(5..=200);
    let mut faults = Faults { latency: (least, least + draw.micros(0..=2_000)), ..Faults::none() };
    let rate =
        |most: u32| if draw.one_in(2) { 0 } else { u32::try_from(draw.below(most.into())).unwrap_or(0) };
    // What loses nothing may happen on a calm day.
    faults.short_read = rate(ALWAYS / 2);
    faults.short_write = rate(ALWAYS / 2);
    faults.late_rate = rate(ALWAYS / 4);
    faults.late = draw.micros(10..=20_000);
    faults.multishot_ends = rate(ALWAYS / 8);
    faults.partial_turn = rate(ALWAYS / 4);
    faults.no_buffers = rate(ALWAYS / 16);
    faults.no_descriptors = rate(ALWAYS / 8);
    let (least, more) = if tiny { (1, 64) } else { (1024, 256 * 1024) };
    let least = least + draw.magnitude(more);
    faults.room = (least, least + draw.magnitude(more));
    if !calm {
        faults.reset = rate(ALWAYS / 6);
        faults.reset_after = draw.magnitude(64 * 1024) as u64 + 1;
        faults.refuse = rate(ALWAYS / 8);
        faults.hang = rate(ALWAYS / 16);
    }
    faults
}

fn connection(
    draw: &Draw,
    calm: bool,
    clusters: usize,
    body_max: u64,
    all: &mut Vec<RequestPlan>,
) -> ConnectionPlan {
    let requests = (0..draw.within(1..=8))
        .map(|_| {
            all.push(request(draw, calm, clusters, body_max));
            all.len() - 1
        })
        .collect();
    ConnectionPlan {
        requests,
        pipelined: draw.one_in(3),
        delay: draw.micros(0..=300_000),
        reads_slowly: draw.one_in(6),
        leaves_after: (!calm && draw.one_in(8)).then(|| draw.magnitude(64 * 1024) as u64),
        half_closes: !calm && draw.one_in(8),
        ends_in_garbage: !calm && draw.one_in(12),
    }
}

fn request(draw: &Draw, calm: bool, clusters: usize, body_max: u64) -> RequestPlan {
    let method = *draw.pick(&["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD"]);
    let framing = match method {
        "POST" | "PUT" => *draw.pick(&[Framing::Length, Framing::Chunked]),
        _ => Framing::None,
    };
    let body = if framing == Framing::None { 0 } else { draw.magnitude(body_max) };
    let slow = draw.one_in(5);
    RequestPlan {
        cluster: draw.size(0..=clusters as u64 - 1),
        method,
        framing,
        body,
        piece: draw.magnitude(64 * 1024).max(1).max(body / 40),
        pause: if slow { draw.micros(0..=50_000) } else { Duration::ZERO },
        expects_continue: framing != Framing::None && draw.one_in(8),
        trailers: framing == Framing::Chunked && draw.one_in(4),
        act: act(draw, calm, body_max),
    }
}

fn act(draw: &Draw, calm: bool, body_max: u64) -> Act {
    let answer = answer(draw, calm, body_max);
    if calm {
        return Act::Answer(answer);
    }
    match draw.below(20) {
        0 => Act::Silent,
        1 => Act::Garbage,
        2 | 3 => Act::Cut { after: draw.magnitude(answer.body as u64), answer, reset: draw.one_in(2) },
        4 => Act::Close { reset: draw.one_in(2) },
        _ => Act::Answer(answer),
    }
}

fn answer(draw: &Draw, calm: bool, body_max: u64) -> Answer {
    let status = *draw.pick(&[200, 200, 200, 200, 201, 204, 304, 404, 500, 503]);
    let framing = *draw.pick(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::Close]);
    let body = if matches!(status, 204 | 304) { 0 } else { draw.magnitude(body_max) };
    let framing = if matches!(status, 204 | 304) { Framing::None } else { framing };
    let slow = draw.one_in(5);
    Answer {
        status,
        framing,
        body,
        piece: draw.magnitude(64 * 1024).max(1).max(body / 40),
        delay: if draw.one_in(3) { draw.micros(0..=400_000) } else { Duration::ZERO },
        pause: if slow { draw.micros(0..=20_000) } else { Duration::ZERO },
        early: !calm && draw.one_in(10),
        interim: if draw.one_in(12) { 1 } else { 0 },
        twice: !calm && framing != Framing::Close && draw.one_in(25),
        closes: !calm && draw.one_in(10),
    }
}

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Where the proxy listens, and where the endpoints of a cluster are.
pub const LISTENER: &str = "10.1.0.1";
pub const PORT: u16 = 80;

pub fn endpoint(cluster: usize, endpoint: usize) -> String {
    format!("10.2.{cluster}.{}", endpoint + 1)
}

/// Which log line belongs to a request: number, status, flags, details.
pub const LOG_FORMAT: &str = "%REQ(x-id)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";

fn bootstrap(
    draw: &Draw,
    calm: bool,
    clusters: &[ClusterPlan],
    (route_timeout, idle_timeout): (Duration, Duration),
    reuse_port: bool,
) -> String {
    let ms = |range: RangeInclusive<u64>| format!("{:.3}s", draw.within(range) as f64 / 1000.0);
    let long = |calm: bool, range: RangeInclusive<u64>| if calm { "300s".to_owned() } else { ms(range) };
    let mut out = format!(
        "static_resources:\n  listeners:\n  - name: main\n    address: {{socket_address: {{address: {LISTENER}, \
         port_value: {PORT}}}}}\n    enable_reuse_port: {reuse_port}\n    filter_chains:\n    - filters:\n      - \
         name: hcm\n        typed_config:\n          \"@type\": {MANAGER}\n          stat_prefix: main\n"
    );
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes all");
    line(format!("          stream_idle_timeout: {:.3}s", idle_timeout.as_secs_f64()));
    line(format!("          request_timeout: {}", long(calm, 500..=10_000)));
    line(format!("          request_headers_timeout: {}", long(calm, 200..=3_000)));
    line(format!("          common_http_protocol_options: {{idle_timeout: {}}}", long(calm, 100..=5_000)));
    line(format!("          access_log: [{{name: f, typed_config: {{\"@type\": {FILE}, path: /dev/null,"));
    line(format!(
        "            log_format: {{text_format_source: {{inline_string: \"{LOG_FORMAT}\\n\"}}}}}}}}]"
    ));
    line(
        "          route_config:\n            virtual_hosts: [{name: all, domains: [\"*\"], routes: ["
            .to_owned(),
    );
    for n in 0..clusters.len() {
        let timeout = format!("{:.3}s", route_timeout.as_secs_f64());
        line(format!(
            "              {{match: {{prefix: /c/{n}/}}, route: {{cluster: c{n}, timeout: {timeout}}}}},"
        ));
    }
    line("            ]}]".to_owned());
    line(format!(
        "          http_filters: [{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}]\n  clusters:"
    ));
    for (n, cluster) in clusters.iter().enumerate() {
        let policy = draw.pick(&["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"]);
        line(format!(
            "  - name: c{n}\n    connect_timeout: {}\n    lb_policy: {policy}",
            long(calm, 100..=2_000)
        ));
        let max = if draw.one_in(2) { 0 } else { draw.within(1..=6) };
        line(format!("    typed_extension_protocol_options:\n      {OPTIONS_NAME}:"));
        line(format!(
            "        \"@type\": {OPTIONS}\n        explicit_http_config: {{http_protocol_options: {{}}}}"
        ));
        line(format!(
            "        common_http_protocol_options: {{idle_timeout: {}, max_requests_per_connection: {max}}}",
            ms(100..=10_000)
        ));
        if !calm && draw.one_in(3) {
            let bound = || draw.within(1..=6);
            line(format!(
                "    circuit_breakers: {{thresholds: [{{max_connections: {}, max_pending_requests: {}, \
                 max_requests: {}}}]}}",
                bound(),
                bound(),
                bound()
            ));
        }
        let endpoints: Vec<String> = (0..cluster.endpoints)
            .map(|e| {
                let at = endpoint(n, e);
                format!("{{endpoint: {{address: {{socket_address: {{address: {at}, port_value: 80}}}}}}}}")
            })
            .collect();
        line(format!(
            "    load_assignment: {{cluster_name: c{n}, endpoints: [{{lb_endpoints: [{}]}}]}}",
            endpoints.join(", ")
        ));
    }
    out
}

const OPTIONS_NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
