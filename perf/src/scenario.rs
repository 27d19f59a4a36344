//! The scenarios, as data. One list; a scenario is one entry.

use crate::contender::Contender::{
    self, Direct, Envoy, Glommio, Haproxy, HaproxyNoLog, Nginx, SelvedgeEpoll, SelvedgeUring,
};
use crate::contender::route_path;
use crate::load::Exchange;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Closed loop: as fast as it goes.
    Saturate,
    PerSecond(f64),
    /// Half of what Envoy reaches in `tiny64`; the same rate for all.
    HalfOfEnvoy,
    /// No load: so many connections that do nothing.
    Idle,
    /// No load and no connection: the process with an example configuration, just started.
    Start,
}

impl Rate {
    pub fn is_open(self) -> bool {
        matches!(self, Rate::PerSecond(_) | Rate::HalfOfEnvoy)
    }
}

/// Who takes part: enough for every promise, and no more than fits into half an hour.
const PROXIES: &[Contender] = &[SelvedgeUring, SelvedgeEpoll, Envoy, Nginx, Haproxy];
/// The promise of CPU a request: HAProxy is given its better side, glommio and the bare generator give the scale.
const EVERYONE: &[Contender] =
    &[Direct, SelvedgeUring, SelvedgeEpoll, Envoy, Nginx, Haproxy, HaproxyNoLog, Glommio];
/// Added latency is what is left without the generator's own.
const AND_DIRECT: &[Contender] = &[Direct, SelvedgeUring, SelvedgeEpoll, Envoy, Nginx, Haproxy];
/// The driver makes no difference to a route table.
const ONE_DRIVER: &[Contender] = &[SelvedgeUring, Envoy, Nginx, Haproxy];
/// They read the examples.
const ENVOYS: &[Contender] = &[SelvedgeUring, SelvedgeEpoll, Envoy];

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub connections: usize,
    pub rate: Rate,
    pub up_bytes: usize,
    pub down_bytes: usize,
    pub routes: usize,
    pub hit: usize,
    pub extra_headers: usize,
    pub delay_ms: u64,
    pub new_connection: bool,
    pub quick: bool,
    pub contenders: &'static [Contender],
}

const TINY: Scenario = Scenario {
    name: "tiny64",
    title: "keep-alive, 64 connections, 12-byte body",
    connections: 64,
    rate: Rate::Saturate,
    up_bytes: 0,
    down_bytes: 12,
    routes: 0,
    hit: 0,
    extra_headers: 0,
    delay_ms: 0,
    new_connection: false,
    quick: false,
    contenders: PROXIES,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

pub const ALL: [Scenario; 18] = [
    Scenario { quick: true, contenders: EVERYONE, ..TINY },
    Scenario {
        name: "tiny1",
        title: "keep-alive, 1 connection, 12-byte body",
        connections: 1,
        contenders: AND_DIRECT,
        ..TINY
    },
    Scenario {
        name: "tiny1000",
        title: "keep-alive, 1,000 connections, 12-byte body",
        connections: 1000,
        ..TINY
    },
    Scenario {
        name: "newconn",
        title: "new connection per request, 32 at once",
        connections: 32,
        new_connection: true,
        quick: true,
        ..TINY
    },
    Scenario {
        name: "down64k",
        title: "64 KiB download, 64 connections",
        down_bytes: 64 * KIB,
        quick: true,
        ..TINY
    },
    Scenario { name: "up64k", title: "64 KiB upload, 64 connections", up_bytes: 64 * KIB, ..TINY },
    Scenario {
        name: "down1m",
        title: "1 MiB download, 16 connections",
        connections: 16,
        down_bytes: MIB,
        ..TINY
    },
    Scenario { name: "up1m", title: "1 MiB upload, 16 connections", connections: 16, up_bytes: MIB, ..TINY },
    Scenario {
        name: "headers20",
        title: "20 more headers each way, 64 connections",
        extra_headers: 20,
        ..TINY
    },
    routes("routes1k-first", "1,000 routes, the first hit", 1000, 0),
    routes("routes1k-last", "1,000 routes, the last hit", 1000, 999),
    routes("routes10k-first", "10,000 routes, the first hit", 10_000, 0),
    routes("routes10k-last", "10,000 routes, the last hit", 10_000, 9_999),
    Scenario {
        name: "slow",
        title: "upstream answers after 20 ms, 256 connections",
        connections: 256,
        delay_ms: 20,
        ..TINY
    },
    Scenario {
        name: "open5k",
        title: "open loop, 5,000 requests/s over 32 connections",
        connections: 32,
        rate: Rate::PerSecond(5000.0),
        quick: true,
        contenders: AND_DIRECT,
        ..TINY
    },
    Scenario {
        name: "open-half",
        title: "open loop, half of Envoy's saturated rate over 64 connections",
        rate: Rate::HalfOfEnvoy,
        contenders: AND_DIRECT,
        ..TINY
    },
    Scenario {
        name: "idle5000",
        title: "5,000 idle connections",
        connections: 5000,
        rate: Rate::Idle,
        ..TINY
    },
    Scenario {
        name: "start",
        title: "just started with an example configuration",
        connections: 0,
        rate: Rate::Start,
        contenders: ENVOYS,
        ..TINY
    },
];

const fn routes(name: &'static str, title: &'static str, routes: usize, hit: usize) -> Scenario {
    Scenario { name, title, routes, hit, contenders: ONE_DRIVER, ..TINY }
}

impl Scenario {
    pub fn from_name(name: &str) -> Option<Scenario> {
        ALL.into_iter().find(|s| s.name == name)
    }

    pub fn suits(&self, who: Contender) -> bool {
        self.contenders.contains(&who)
    }

    pub fn body_bytes(&self) -> usize {
        if self.up_bytes + self.down_bytes >= 64 * KIB { self.up_bytes + self.down_bytes } else { 0 }
    }

    /// What a contender is judged by, its unit, and by what to divide it for printing.
    pub fn measure(&self) -> (&'static str, &'static str, f64) {
        match self.rate {
            Rate::Idle => ("used_bytes_per_connection", "B/conn after a request", 1.0),
            Rate::Start => ("rss_bytes", "RSS MB", 1e6),
            _ if self.body_bytes() > 0 => ("cpu_s_per_gb", "CPU s/GB", 1.0),
            _ => ("cpu_us_per_request", "CPU us/req", 1.0),
        }
    }

    pub fn exchange(&self) -> Exchange {
        let path = if self.routes > 0 {
            format!("{}item", route_path(self.hit))
        } else {
            "/some/path?query=1".to_owned()
        };
        let method = if self.up_bytes > 0 { "POST" } else { "GET" };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bakeoff.test\r\nuser-agent: selvedge-perf\r\naccept: */*\r\n"
        );
        let mut response = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: upstream\r\n".to_owned();
        for i in 0..self.extra_headers {
            request.push_str(&format!("x-request-header-{i:02}: some value of a plausible length {i}\r\n"));
            response.push_str(&format!("x-response-header-{i:02}: some value of a plausible length {i}\r\n"));
        }
        if self.new_connection {
            request.push_str("connection: close\r\n");
        }
        if self.up_bytes > 0 {
            request.push_str(&format!("content-length: {}\r\n", self.up_bytes));
        }
        response.push_str(&format!("content-length: {}\r\n\r\n", self.down_bytes));
        request.push_str("\r\n");
        Exchange {
            request: [request.into_bytes(), pattern(self.up_bytes, 1)].concat(),
            request_body_bytes: self.up_bytes,
            response: [response.into_bytes(), pattern(self.down_bytes, 2)].concat(),
            response_body_bytes: self.down_bytes,
            delay_ns: self.delay_ms * 1_000_000,
            new_connection: self.new_connection,
        }
    }
}

/// Bytes that show when one of them is missing, doubled or moved.
fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_are_whole() {
        for scenario in ALL {
            let exchange = scenario.exchange();
            let head = exchange.request.len() - exchange.request_body_bytes;
            assert!(exchange.request[..head].ends_with(b"\r\n\r\n"), "{}", scenario.name);
            let head = exchange.response.len() - exchange.response_body_bytes;
            assert!(exchange.response[..head].ends_with(b"\r\n\r\n"), "{}", scenario.name);
        }
        assert_eq!(ALL.iter().filter(|s| s.quick).count(), 4);
    }

    #[test]
    fn five_rounds_fit_into_half_an_hour() {
        // About four seconds a cell with starting and stopping.
        let cells: usize = ALL.iter().map(|s| s.contenders.len()).sum();
        assert!(cells * 5 * 4 <= 30 * 60, "{cells} cells a round");
    }
}
