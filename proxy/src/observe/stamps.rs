//! Time marks of one request.
//!
//! Three are fine clock readings (28 ns each): `head`, `upstream_first`, `flushed`. The others take the time of
//! the turn in which they happened: they are early by at most what the turn has run.

use selvedge_runtime::Instant;

/// When each stage of a request ended; `None`: it was not reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamps {
    /// The connection was accepted. Turn time.
    pub accepted: Option<Instant>,
    /// The first byte of the head was there: turn time where the head came in pieces, else that of `head`.
    pub begun: Instant,
    /// The whole request head was parsed. Fine.
    pub head: Instant,
    /// A route was picked. Turn time.
    pub routed: Option<Instant>,
    /// The request filters let the head pass. Turn time.
    pub filtered: Option<Instant>,
    /// An upstream connection was there. Turn time.
    pub connected: Option<Instant>,
    /// The last byte of the request was read. Turn time.
    pub request_last: Option<Instant>,
    /// The last byte of the request went upstream. Turn time.
    pub upstream_sent: Option<Instant>,
    /// The first byte of the response came. Fine.
    pub upstream_first: Option<Instant>,
    /// The last byte of the response came. Turn time.
    pub upstream_last: Option<Instant>,
    /// The first byte of the response left. Turn time.
    pub first_out: Option<Instant>,
    /// The kernel took the last byte of the response. Fine.
    pub flushed: Option<Instant>,
}
