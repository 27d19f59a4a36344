//! Compiled route tables.
//!
//! Invariant: a table is immutable; the indices that `pick` uses name routes and virtual hosts of this table.

use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use crate::filters::RouteConfig;
use crate::route::matchers::RouteMatch;
use crate::route::mutations::HeaderMutations;
use crate::route::pick::{DomainIndex, PathIndex};

/// A cluster of the same snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u32);

impl ClusterId {
    pub fn new(index: usize) -> ClusterId {
        ClusterId(u32::try_from(index).expect("fewer than 2^32 clusters"))
    }

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A `RouteConfiguration`.
#[derive(Debug)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub hosts: Vec<VirtualHost>,
    pub domains: DomainIndex,
    pub ignore_port_in_host: bool,
    pub mutations: Mutations,
    /// Apply table, host, route in that order, so that the route's have the last word.
    pub most_specific_wins: bool,
    pub per_filter: PerFilter,
}

#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub routes: Vec<Route>,
    pub paths: PathIndex,
    pub require_tls: RequireTls,
    pub mutations: Mutations,
    pub per_filter: PerFilter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireTls {
    None,
    ExternalOnly,
    All,
}

#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub matcher: RouteMatch,
    pub action: Action,
    pub mutations: Mutations,
    pub per_filter: PerFilter,
}

#[derive(Debug)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct(Direct),
}

/// `direct_response`.
#[derive(Debug, Clone)]
pub struct Direct {
    pub status: u16,
    pub body: Arc<[u8]>,
}

/// `route`: to a cluster.
#[derive(Debug)]
pub struct Forward {
    pub target: Target,
    /// Status of the reply when the cluster is unknown; 503 by default.
    pub cluster_not_found_status: u16,
    pub priority: Priority,
    pub path: PathRewrite,
    pub host: HostRewrite,
    pub append_x_forwarded_host: bool,
    /// 15 s by default; `None`: no bound.
    pub timeout: Option<Duration>,
    /// Overrides the connection manager's `stream_idle_timeout`: `Some(None)` switches it off.
    pub idle_timeout: Option<Option<Duration>>,
    /// Overrides the connection manager's `max_stream_duration`: `Some(None)` switches it off.
    pub max_stream_duration: Option<Option<Duration>>,
    pub upgrades: Vec<Upgrade>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    Default = 0,
    High = 1,
}

#[derive(Debug)]
pub enum Target {
    /// `None`: no cluster has that name, and the table does not validate.
    Cluster {
        name: Arc<str>,
        id: Option<ClusterId>,
    },
    Weighted(Weighted),
    /// The value of a request field names the cluster.
    Header(Box<[u8]>),
}

#[derive(Debug)]
pub struct Weighted {
    pub total: u64,
    pub entries: Vec<WeightedEntry>,
    /// A request field that gives the random number.
    pub random_header: Option<Box<[u8]>>,
}

#[derive(Debug)]
pub struct WeightedEntry {
    /// Sum of the weights up to and with this one.
    pub upto: u64,
    pub target: WeightedTarget,
    pub mutations: Mutations,
    pub host_rewrite: Option<Box<[u8]>>,
    pub per_filter: PerFilter,
}

#[derive(Debug)]
pub enum WeightedTarget {
    Cluster { name: Arc<str>, id: Option<ClusterId> },
    Header(Box<[u8]>),
}

/// How the path is rewritten before it goes upstream.
#[derive(Debug)]
pub enum PathRewrite {
    Keep,
    /// Replaces what the route's path rule matched.
    Matched(Box<[u8]>),
    Regex(RegexRewrite),
}

#[derive(Debug)]
pub struct RegexRewrite {
    pub pattern: Regex,
    pub substitution: Substitution,
}

/// `\0` to `\9` and literal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Substitution(pub Box<[SubstitutionPart]>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubstitutionPart {
    Literal(Box<[u8]>),
    Group(u8),
}

#[derive(Debug)]
pub enum HostRewrite {
    Keep,
    Literal(Box<[u8]>),
    /// The hostname of the chosen endpoint.
    Auto,
    /// The value of a request field.
    Header(Box<[u8]>),
    PathRegex(RegexRewrite),
}

/// `redirect`.
#[derive(Debug)]
pub struct Redirect {
    pub status: u16,
    pub scheme: RedirectScheme,
    pub host: Option<Box<[u8]>>,
    pub port: Option<u32>,
    pub path: RedirectPath,
    pub strip_query: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectScheme {
    Keep,
    Https,
    Named(Box<[u8]>),
}

#[derive(Debug)]
pub enum RedirectPath {
    Keep,
    /// The whole path; it has its own query when it contains `?`.
    Whole(Box<[u8]>),
    Matched(Box<[u8]>),
    Regex(RegexRewrite),
}

/// One protocol that requests may upgrade to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// In lower case.
    pub protocol: Box<[u8]>,
    pub enabled: bool,
}

/// Header mutations of one level.
#[derive(Debug, Default)]
pub struct Mutations {
    pub request: HeaderMutations,
    pub response: HeaderMutations,
}

/// `typed_per_filter_config`: by the name of the filter in the chain.
#[derive(Debug, Default, Clone)]
pub struct PerFilter(Box<[(Arc<str>, FilterOverride)]>);

/// What one level says about one filter.
#[derive(Debug, Clone)]
pub enum FilterOverride {
    /// The filter's per-route message. Switches the filter on, too.
    Config(Arc<RouteConfig>),
    Disabled,
    /// Switches on a filter that the chain lists as disabled.
    Enabled,
}

impl PerFilter {
    pub fn new(mut list: Vec<(Arc<str>, FilterOverride)>) -> PerFilter {
        list.sort_by(|a, b| a.0.cmp(&b.0));
        PerFilter(list.into_boxed_slice())
    }

    pub fn get(&self, filter: &str) -> Option<&FilterOverride> {
        let at = self.0.binary_search_by(|(name, _)| (**name).cmp(filter)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &FilterOverride)> {
        self.0.iter().map(|(name, o)| (&**name, o))
    }
}
