//! The sans-IO stages of one request, for counting their instructions.
//!
//! Each stage does what `stream.rs` does between two waits, on the request and the response of `tiny64`, with the
//! bake-off's own configuration. What a stage needs is made before the collected loop, and its results are dropped
//! after it; only the whole path drops what it made.
//! Not here: sockets, timers, statistics, the pool.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use selvedge::access_log::format::{Format, LogCx};
use selvedge::config::access_log::LogFormat;
use selvedge::config::bootstrap::{self, Source};
use selvedge::config::hcm::Hcm;
use selvedge::config::snapshot;
use selvedge::http::edge::{self, Carrier};
use selvedge::http::h1::encode::{decimal, encode_request, encode_response};
use selvedge::http::h1::head::{HeadLimits, HeadScan, find_head_end};
use selvedge::http::h1::request::{DecodedRequest, decode_request};
use selvedge::http::h1::response::{DecodedResponse, RequestKind, decode_response};
use selvedge::http::hop_by_hop;
use selvedge::http::message::{HeaderId, Version};
use selvedge::observe::info::{StreamInfo, UpstreamInfo};
use selvedge::route::pick::{self, PickInput};
use selvedge::route::table::RouteTable;
use selvedge_runtime::{BlockMut, Budget, Chunk, Instant, WallTime};

use crate::contender;
use crate::scenario::Scenario;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    ParseRequest,
    PickOnly,
    PickFirst,
    PickLast,
    RequestOut,
    Response,
    Log,
    Whole,
}

pub const ALL: [Stage; 8] = [
    Stage::ParseRequest,
    Stage::PickOnly,
    Stage::PickFirst,
    Stage::PickLast,
    Stage::RequestOut,
    Stage::Response,
    Stage::Log,
    Stage::Whole,
];

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::ParseRequest => "parse-request",
            Stage::PickOnly => "pick-1",
            Stage::PickFirst => "pick-10k-first",
            Stage::PickLast => "pick-10k-last",
            Stage::RequestOut => "request-out",
            Stage::Response => "response",
            Stage::Log => "log-line",
            Stage::Whole => "whole",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Stage::ParseRequest => "parse request head",
            Stage::PickOnly => "pick route, 1 route",
            Stage::PickFirst => "pick route, first of 10,000",
            Stage::PickLast => "pick route, last of 10,000",
            Stage::RequestOut => "edge, header edits, encode request",
            Stage::Response => "parse response head, edits, encode response",
            Stage::Log => "access log line",
            Stage::Whole => "whole sans-IO path, 1 route",
        }
    }

    pub fn from_name(name: &str) -> Option<Stage> {
        ALL.into_iter().find(|s| s.name() == name)
    }

    fn scenario(self) -> Scenario {
        let name = match self {
            Stage::PickFirst => "routes10k-first",
            Stage::PickLast => "routes10k-last",
            _ => "tiny64",
        };
        Scenario::from_name(name).expect("in the list")
    }
}

/// What all requests share.
struct Bench {
    hcm: Arc<Hcm>,
    routes: Arc<RouteTable>,
    format: Format,
    budget: Budget,
    limits: HeadLimits,
    request: Chunk,
    response: Chunk,
}

impl Bench {
    fn new(scenario: Scenario) -> Result<Bench, String> {
        let source = Source { yaml: contender::bootstrap_text(scenario.routes), ..Source::default() };
        let loaded = bootstrap::load(&source).map_err(|e| e.to_string())?;
        let snapshot = snapshot::compile(&loaded.bootstrap, snapshot::Node::default())
            .map_err(|rejections| format!("{rejections:?}"))?;
        let hcm = Arc::clone(&snapshot.listeners[0].hcm);
        let LogFormat::Text(format) = &hcm.access_logs[0].format else {
            return Err("the bake-off logs in text".to_owned());
        };
        let exchange = scenario.exchange();
        let head = |bytes: &[u8], body: usize| Chunk::copy_from(&bytes[..bytes.len() - body]);
        Ok(Bench {
            format: format.clone(),
            hcm,
            routes: Arc::clone(&snapshot.listeners[0].routes),
            budget: Budget::new(1 << 30),
            limits: HeadLimits::default(),
            request: head(&exchange.request, exchange.request_body_bytes),
            response: head(&exchange.response, exchange.response_body_bytes),
        })
    }

    fn parse_request(&self) -> DecodedRequest {
        let mut bytes = self.request.clone();
        let found = find_head_end(&mut HeadScan::default(), &bytes, &self.limits);
        let end = found.expect("a good head").expect("a whole head");
        decode_request(bytes.split_to(end), &self.limits).expect("a good head")
    }

    fn pick(&self, request: &DecodedRequest) -> pick::Picked<'_> {
        let input = PickInput { random: 7, https: false, internal: false };
        pick::pick(&self.routes, &request.head, input).expect("a route")
    }

    fn request_in(&self, request: &mut DecodedRequest) {
        hop_by_hop::strip_request(&mut request.head.fields, request.upgrade);
        let peer = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let carrier = Carrier { peer, host_address: "10.0.0.1", random: [11, 13] };
        black_box(edge::request_in(&mut request.head, &self.hcm.edge, &carrier));
    }

    /// Answers the bytes that would go upstream.
    fn request_out(&self, request: &mut DecodedRequest) -> Chunk {
        let head = &mut request.head;
        head.fields.set(HeaderId::XEnvoyExpectedRqTimeoutMs, decimal(15_000, &mut [0; 20]));
        let mut block =
            BlockMut::with_capacity(head.fields.byte_size() + head.path().len() + 256, &self.budget);
        encode_request(head, request.framing, false, &mut block);
        block.freeze()
    }

    /// Answers the head, and the bytes that would go downstream.
    fn response(&self) -> (DecodedResponse, Chunk) {
        let mut bytes = self.response.clone();
        let found = find_head_end(&mut HeadScan::default(), &bytes, &self.limits);
        let end = found.expect("a good head").expect("a whole head");
        let mut response = decode_response(bytes.split_to(end), RequestKind::default(), &self.limits)
            .expect("a good response");
        let head = &mut response.head;
        hop_by_hop::strip_response(&mut head.fields, false);
        head.fields.set(HeaderId::XEnvoyUpstreamServiceTime, decimal(1, &mut [0; 20]));
        let date = b"Tue, 24 Nov 2026 13:13:20 GMT";
        let signature = edge::Signature {
            name: &self.hcm.server_name,
            server: self.hcm.server_header,
            via: &self.hcm.edge.via,
            date,
            request_id: None,
        };
        edge::response_out(&mut head.fields, signature);
        let mut block = BlockMut::with_capacity(head.fields.byte_size() + 256, &self.budget);
        encode_response(head, Version::H11, response.framing, &mut block);
        (response, block.freeze())
    }

    fn log(
        &self,
        info: &StreamInfo,
        request: &DecodedRequest,
        response: &DecodedResponse,
        out: &mut Vec<u8>,
    ) {
        let cx = LogCx {
            info,
            request: &request.head,
            response: Some(&response.head),
            trailers: None,
            protocol: Some("HTTP/1.1"),
            local_reply_body: b"",
        };
        self.format.write(&cx, out);
    }
}

/// A stream as it stands when its line is written.
fn info() -> StreamInfo {
    const HEAD_NS: u64 = 5_000_000_000;
    let mut info = StreamInfo::new(Instant(HEAD_NS), WallTime(1_795_526_001_031_000_000));
    info.status = Some(200);
    info.bytes_sent = 12;
    info.stamps.flushed = Some(Instant(HEAD_NS + 800_000));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 18_081)).into();
    info.upstream = Some(UpstreamInfo { address, connected: true, local: None, connection_id: 3 });
    info
}

/// What a stage works on, made before the loop.
struct Ready {
    info: StreamInfo,
    requests: Vec<DecodedRequest>,
    responses: Vec<DecodedResponse>,
    sent: Vec<Chunk>,
    log: Vec<u8>,
}

/// Runs a stage so many times.
pub fn run(stage: Stage, requests: usize) -> Result<(), String> {
    let bench = Bench::new(stage.scenario())?;
    let mut ready = Ready {
        info: info(),
        requests: Vec::with_capacity(requests),
        responses: Vec::with_capacity(requests),
        sent: Vec::with_capacity(requests),
        log: Vec::with_capacity(requests * 512),
    };
    match stage {
        Stage::ParseRequest | Stage::Response | Stage::Whole => {}
        Stage::PickOnly | Stage::PickFirst | Stage::PickLast | Stage::RequestOut => {
            ready.requests.extend((0..requests).map(|_| bench.parse_request()));
        }
        Stage::Log => {
            ready.requests.extend((0..requests).map(|_| {
                let mut request = bench.parse_request();
                bench.request_in(&mut request);
                request
            }));
            ready.responses.extend((0..requests).map(|_| bench.response().0));
        }
    }
    collected(&bench, stage, requests, &mut ready);
    let made = ready.requests.len() + ready.sent.len() + ready.log.len();
    if made == 0 { Err("the stage made nothing".to_owned()) } else { Ok(()) }
}

/// The loop that callgrind collects; `instructions.rs` names this function.
#[inline(never)]
fn collected(bench: &Bench, stage: Stage, requests: usize, ready: &mut Ready) {
    for i in 0..requests {
        match stage {
            Stage::ParseRequest => ready.requests.push(bench.parse_request()),
            Stage::PickOnly | Stage::PickFirst | Stage::PickLast => {
                black_box(bench.pick(&ready.requests[i]));
            }
            Stage::RequestOut => {
                let request = &mut ready.requests[i];
                bench.request_in(request);
                ready.sent.push(bench.request_out(request));
            }
            Stage::Response => {
                let (response, bytes) = bench.response();
                ready.responses.push(response);
                ready.sent.push(bytes);
            }
            Stage::Log => bench.log(&ready.info, &ready.requests[i], &ready.responses[i], &mut ready.log),
            Stage::Whole => {
                let mut request = bench.parse_request();
                bench.request_in(&mut request);
                black_box(bench.pick(&request));
                black_box(bench.request_out(&mut request));
                let (response, bytes) = bench.response();
                black_box(bytes);
                bench.log(&ready.info, &request, &response, &mut ready.log);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_does_its_work() {
        for stage in ALL.into_iter().filter(|s| s.scenario().routes == 0) {
            assert_eq!(run(stage, 3), Ok(()), "{}", stage.name());
        }
    }

    #[test]
    fn the_whole_path_is_a_proxys() {
        let bench = Bench::new(Stage::Whole.scenario()).expect("a bench");
        let mut request = bench.parse_request();
        bench.request_in(&mut request);
        assert_eq!(bench.pick(&request).host.name.as_ref(), "all");
        let sent = bench.request_out(&mut request);
        assert!(sent.starts_with(b"GET /some/path?query=1 HTTP/1.1\r\nhost: bakeoff.test\r\n"));
        assert!(sent.windows(14).any(|w| w == b"x-request-id: "));
        let (response, bytes) = bench.response();
        assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let mut line = Vec::new();
        bench.log(&info(), &request, &response, &mut line);
        let line = String::from_utf8(line).expect("text");
        assert!(line.contains("\"GET /some/path?query=1 HTTP/1.1\" 200 - 0 12 0 1 "), "{line}");
    }
}
