//! All that log operators read of one stream, besides its heads.

use std::borrow::Cow;
use std::sync::Arc;

use selvedge_runtime::{Instant, SocketAddress, WallTime};

use super::flags::Flags;
use super::stamps::Stamps;

#[derive(Debug, Clone)]
pub struct StreamInfo {
    pub stamps: Stamps,
    /// The wall clock when the first byte of the head was there.
    pub started: WallTime,
    pub flags: Flags,
    /// envoy: response code details
    pub details: Option<Cow<'static, str>>,
    pub status: Option<u16>,
    /// Body bytes from the client, and to it.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub upstream_wire_sent: u64,
    pub upstream_wire_received: u64,
    pub downstream_wire_sent: u64,
    pub downstream_wire_received: u64,
    pub local: Option<SocketAddress>,
    /// The connection's own peer.
    pub direct_remote: Option<SocketAddress>,
    /// The client as believed.
    pub remote: Option<SocketAddress>,
    pub connection_id: u64,
    pub upstream: Option<UpstreamInfo>,
    pub cluster: Option<Arc<str>>,
    pub route_name: Option<Arc<str>>,
    pub attempts: u32,
    pub failure: Option<Cow<'static, str>>,
    pub connection_termination: Option<&'static str>,
    pub upgraded: bool,
    /// A health check of this proxy: left out where responses are counted.
    pub health_check: bool,
}

#[derive(Debug, Clone)]
pub struct UpstreamInfo {
    /// Of the endpoint that was chosen.
    pub address: SocketAddress,
    /// Whether a connection to it was had.
    pub connected: bool,
    pub local: Option<SocketAddress>,
    pub connection_id: u64,
}

impl StreamInfo {
    pub fn new(begun: Instant, started: WallTime) -> StreamInfo {
        StreamInfo {
            stamps: Stamps { begun, head: begun, ..Stamps::default() },
            started,
            flags: Flags::default(),
            details: None,
            status: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_wire_sent: 0,
            upstream_wire_received: 0,
            downstream_wire_sent: 0,
            downstream_wire_received: 0,
            local: None,
            direct_remote: None,
            remote: None,
            connection_id: 0,
            upstream: None,
            cluster: None,
            route_name: None,
            attempts: 0,
            failure: None,
            connection_termination: None,
            upgraded: false,
            health_check: false,
        }
    }

    /// The wall clock when the last byte had left.
    pub fn ended(&self) -> WallTime {
        let lasted = self.stamps.flushed.map_or(0, |at| at.0.saturating_sub(self.stamps.begun.0));
        WallTime(self.started.0 + lasted)
    }
}
