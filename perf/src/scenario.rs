//! The scenarios, as data. One list; a scenario is one entry.

use crate::contender::{Contender, route_path};
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
}

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
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

pub const ALL: [Scenario; 18] = [
    Scenario { quick: true, ..TINY },
    Scenario { name: "tiny1", title: "keep-alive, 1 connection, 12-byte body", connections: 1, ..TINY },
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
    Scenario { name: "routes1k-first", title: "1,000 routes, the first hit", routes: 1000, ..TINY },
    Scenario { name: "routes1k-last", title: "1,000 routes, the last hit", routes: 1000, hit: 999, ..TINY },
    Scenario { name: "routes10k-first", title: "10,000 routes, the first hit", routes: 10_000, ..TINY },
    Scenario {
        name: "routes10k-last",
        title: "10,000 routes, the last hit",
        routes: 10_000,
        hit: 9_999,
        ..TINY
    },
    Scenario {
        name: "slow",
        title: "upstream answers after 20 ms, 256 connections",
        connections: 256,
        delay_ms: 20,
        ..TINY
    },
    Scenario {
        name: "open1k",
        title: "open loop, 1,000 requests/s over 32 connections",
        connections: 32,
        rate: Rate::PerSecond(1000.0),
        ..TINY
    },
    Scenario {
        name: "open5k",
        title: "open loop, 5,000 requests/s over 32 connections",
        connections: 32,
        rate: Rate::PerSecond(5000.0),
        quick: true,
        ..TINY
    },
    Scenario {
        name: "open-half",
        title: "open loop, half of Envoy's saturated rate over 64 connections",
        rate: Rate::HalfOfEnvoy,
        ..TINY
    },
    Scenario {
        name: "idle5000",
        title: "5,000 idle connections",
        connections: 5000,
        rate: Rate::Idle,
        ..TINY
    },
];

impl Scenario {
    pub fn from_name(name: &str) -> Option<Scenario> {
        ALL.into_iter().find(|s| s.name == name)
    }

    /// Can this contender do what the scenario asks?
    pub fn suits(&self, who: Contender) -> bool {
        match who {
            // Shows the generator's own share: where latency is the measure, and once at full speed.
            Contender::Direct => {
                self.rate != Rate::Idle
                    && (self.rate != Rate::Saturate || self.name == "tiny64" || self.name == "tiny1")
            }
            // It picks no route, and a connection of its own goes up with each one that comes in.
            Contender::Glommio => self.routes == 0 && !self.new_connection && self.rate != Rate::Idle,
            _ => true,
        }
    }

    pub fn body_bytes(&self) -> usize {
        if self.up_bytes + self.down_bytes >= 64 * KIB { self.up_bytes + self.down_bytes } else { 0 }
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
}
