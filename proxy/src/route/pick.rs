//! Chooses the route of a request. Pure.

use crate::route::table::{Route, RouteTable, VirtualHost};

/// What the choice needs besides the head.
#[derive(Debug, Clone, Copy)]
pub struct PickInput {
    /// The stream's number: the same one chooses among weighted clusters.
    pub random: u64,
    pub https: bool,
    /// The request came from an internal address.
    pub internal: bool,
}

/// The chosen route and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Picked<'t> {
    pub table: &'t RouteTable,
    pub host: &'t VirtualHost,
    pub route: &'t Route,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    Host,
    Route,
    /// The virtual host wants TLS: redirect to https.
    TlsRequired,
}

/// Finds virtual hosts by domain.
#[derive(Debug, Default)]
pub struct DomainIndex {}

/// Finds the routes of a virtual host whose path rule may match.
#[derive(Debug, Default)]
pub struct PathIndex {}
