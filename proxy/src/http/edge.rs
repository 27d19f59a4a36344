//! What the connection manager does to the head of every request and response:
//! whom to believe, which fields end here, which ones we add.
//!
//! Pure: addresses and random bits come in, edits of the head go out. It picks no route and refuses nothing.

use std::net::IpAddr;

use crate::http::header_id::{HeaderId as H, IdSet, JOINED_IN_REQUEST, JOINED_IN_RESPONSE};
use crate::http::message::{Fields, RequestHead};

/// How much of the request's own account of its origin is believed, and what is added to it.
#[derive(Debug, Clone)]
pub struct EdgePolicy {
    /// envoy: use_remote_address
    pub use_remote_address: bool,
    /// envoy: xff_num_trusted_hops
    pub trusted_hops: u32,
    /// envoy: skip_xff_append
    pub skip_xff_append: bool,
    /// envoy: generate_request_id
    pub generate_request_id: bool,
    /// envoy: preserve_external_request_id
    pub preserve_external_request_id: bool,
    /// envoy: internal_address_config.cidr_ranges; empty: no address is internal
    pub internal: Box<[Cidr]>,
    /// envoy: internal_address_config.unix_sockets
    pub unix_is_internal: bool,
    /// envoy: via; empty: none
    pub via: Box<[u8]>,
}

impl Default for EdgePolicy {
    fn default() -> Self {
        EdgePolicy {
            use_remote_address: false,
            trusted_hops: 0,
            skip_xff_append: false,
            generate_request_id: true,
            preserve_external_request_id: false,
            internal: Box::default(),
            unix_is_internal: false,
            via: Box::default(),
        }
    }
}

/// A block of addresses, as in `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                u32::from(net) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                u128::from(net) & mask == u128::from(ip) & mask
            }
            _ => false,
        }
    }
}

/// What is known of the connection that carried the request.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'a> {
    /// The peer's address; `None` for a Unix socket.
    pub peer: Option<IpAddr>,
    /// This host's own address, which stands for a loopback peer in `x-forwarded-for`.
    pub host_address: &'a str,
    pub random: [u64; 2],
}

/// Where the request came from, after weighing what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The client's address as believed; `None`: the connection's own peer.
    pub remote: Option<IpAddr>,
    pub internal: bool,
    /// envoy: an external request on a listener with `use_remote_address`
    pub edge: bool,
}

/// Fields that only an internal caller may set. envoy: cleanInternalHeaders, observed on 1.40.0
const INTERNAL_ONLY: IdSet = IdSet::of(&[
    H::XEnvoyRetriableStatusCodes,
    H::XEnvoyRetriableHeaderNames,
    H::XEnvoyRetryOn,
    H::XEnvoyRetryGrpcOn,
    H::XEnvoyMaxRetries,
    H::XEnvoyUpstreamAltStatName,
    H::XEnvoyUpstreamRqTimeoutMs,
    H::XEnvoyUpstreamRqPerTryTimeoutMs,
    H::XEnvoyUpstreamRqTimeoutAltResponse,
    H::XEnvoyExpectedRqTimeoutMs,
    H::XEnvoyForceTrace,
    H::XEnvoyIpTags,
    H::XEnvoyOriginalUrl,
    H::XEnvoyHedgeOnPerTryTimeout,
    H::XEnvoyUpstreamStreamDurationMs,
]);

/// Fields that a request loses at the edge as well. envoy: observed on 1.40.0
const EDGE_ONLY: IdSet = IdSet::of(&[
    H::XEnvoyDecoratorOperation,
    H::XEnvoyDownstreamServiceCluster,
    H::XEnvoyDownstreamServiceNode,
    H::XEnvoyOriginalPath,
    H::XEnvoyOriginalHost,
]);
/// No client may set these. envoy: forward_client_cert_details SANITIZE, the default
const NEVER: IdSet = IdSet::of(&[H::XEnvoyInternal, H::XForwardedClientCert]);

/// Edits a request's head as it enters, and says where it came from.
//= envoy: ConnectionManagerUtility::mutateRequestHeaders, and the order of the fields that it adds
pub fn request_in(head: &mut RequestHead, policy: &EdgePolicy, carrier: &Carrier<'_>) -> Origin {
    let fields = &mut head.fields;
    fields.remove_ids(NEVER);
    let origin = weigh(fields, policy, carrier);
    if origin.internal {
        fields.append(H::XEnvoyInternal, b"true");
    } else {
        fields.remove_ids(if origin.edge { INTERNAL_ONLY.and(EDGE_ONLY) } else { INTERNAL_ONLY });
    }
    if !policy.via.is_empty() {
        fields.join_or_append(b"via", &policy.via, JOINED_IN_REQUEST, b", ");
    }
    if origin.edge
        && let Some(ip) = origin.remote
    {
        set_address(fields, ip);
    }
    let fresh_id = origin.edge && !policy.preserve_external_request_id;
    if policy.generate_request_id && (fresh_id || !fields.contains(H::XRequestId)) {
        fields.set(H::XRequestId, &uuid(carrier.random));
    }
    origin
}

/// Reads and extends `x-forwarded-for` and `x-forwarded-proto`.
fn weigh(fields: &mut Fields, policy: &EdgePolicy, carrier: &Carrier<'_>) -> Origin {
    let (remote, single) = if policy.use_remote_address {
        let single = !fields.contains(H::XForwardedFor);
        let remote = match policy.trusted_hops {
            0 => carrier.peer,
            n => fields.get(H::XForwardedFor).and_then(|v| from_right(v, n - 1).0).or(carrier.peer),
        };
        if !policy.skip_xff_append
            && let Some(peer) = carrier.peer
        {
            append_forwarded_for(fields, peer, carrier.host_address);
        }
        if policy.trusted_hops == 0 || !fields.contains(H::XForwardedProto) {
            fields.set(H::XForwardedProto, b"http");
        }
        (remote, single)
    } else {
        let (said, single) =
            fields.get(H::XForwardedFor).map_or((None, false), |v| from_right(v, policy.trusted_hops));
        if !fields.contains(H::XForwardedProto) {
            fields.set(H::XForwardedProto, b"http");
        }
        (said.or(carrier.peer), single)
    };
    let internal = match remote {
        Some(ip) => single && policy.internal.iter().any(|c| c.contains(ip)),
        None => policy.unix_is_internal,
    };
    Origin { remote, internal, edge: !internal && policy.use_remote_address }
}

/// The address at `hops` from the right of the list, and whether it is the only one.
fn from_right(value: &[u8], hops: u32) -> (Option<IpAddr>, bool) {
    let mut count = 0u32;
    let mut found = None;
    for (n, part) in (0u32..).zip(value.rsplit(|&b| b == b',')) {
        if n == hops {
            found = std::str::from_utf8(part).ok().and_then(|s| s.trim().parse().ok());
        }
        count = n + 1;
        if n > hops {
            break;
        }
    }
    (found, count == 1)
}

fn append_forwarded_for(fields: &mut Fields, peer: IpAddr, host_address: &str) {
    let mut text = AddressText::new();
    let address = if peer.is_loopback() { host_address.as_bytes() } else { text.of(peer) };
    fields.join_or_append(b"x-forwarded-for", address, JOINED_IN_REQUEST, b",");
}

fn set_address(fields: &mut Fields, ip: IpAddr) {
    fields.set(H::XEnvoyExternalAddress, AddressText::new().of(ip));
}

/// Space for the text of an address.
struct AddressText {
    bytes: [u8; 48],
    len: usize,
}

impl AddressText {
    fn new() -> AddressText {
        AddressText { bytes: [0; 48], len: 0 }
    }

    fn of(&mut self, ip: IpAddr) -> &[u8] {
        use std::fmt::Write;
        let _always_fits = write!(self, "{ip}");
        &self.bytes[..self.len]
    }
}

impl std::fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let space = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        space.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// A random UUID of version 4. //= rfc9562#5.4
pub fn uuid(random: [u64; 2]) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&random[0].to_be_bytes());
    bytes[8..].copy_from_slice(&random[1].to_be_bytes());
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut out = [b'-'; 36];
    let mut at = 0;
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            at += 1;
        }
        out[at] = HEX[usize::from(byte >> 4)];
        out[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    out
}

/// What becomes of the `server` field. envoy: server_header_transformation
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    #[default]
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// What the connection manager says of itself in every response.
#[derive(Debug, Clone, Copy)]
pub struct Signature<'a> {
    /// envoy: server_name
    pub name: &'a [u8],
    pub server: ServerHeader,
    /// envoy: via; empty: none
    pub via: &'a [u8],
    pub date: &'a [u8],
    /// The request's id, where it shall be told.
    pub request_id: Option<&'a [u8]>,
}

/// Edits a response's head as it leaves.
//= envoy: ActiveStream::encodeHeaders, mutateResponseHeaders
pub fn response_out(fields: &mut Fields, signature: Signature<'_>) {
    if !fields.contains(H::Date) {
        fields.append(H::Date, signature.date);
    }
    match signature.server {
        ServerHeader::Overwrite => fields.set(H::Server, signature.name),
        ServerHeader::AppendIfAbsent if !fields.contains(H::Server) => {
            fields.append(H::Server, signature.name);
        }
        ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
    }
    if let Some(id) = signature.request_id {
        fields.set(H::XRequestId, id);
    }
    if !signature.via.is_empty() {
        fields.join_or_append(b"via", signature.via, JOINED_IN_RESPONSE, b", ");
    }
}
