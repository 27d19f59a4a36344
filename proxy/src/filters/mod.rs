//! The HTTP filters: what a filter is, what it may answer, and THE LIST.
//!
//! A filter is one file here and one line in the list. Its hooks are plain functions: they see the head, body or
//! trailers through `Cx`, and answer at once. What must be waited for is asked for by `Call`; the same hook is then
//! called again with the answer. It awaits nothing and opens nothing itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::google::protobuf::Any;
use selvedge_runtime::{Chunks, Instant};

use crate::config::rejection::{At, Fault as Wrong};
use crate::config::route::Lookup;
use crate::config::runtime_values::RuntimeValues;
use crate::config::snapshot::Node;
use crate::config::values;
use crate::http::h1::encode::decimal;
use crate::http::message::{Fields, Framing, HeaderId, RequestHead, ResponseHead, Trailers};
use crate::log;
use crate::observe::info::StreamInfo;
use crate::shard::ServerShared;
use crate::side_call::{Answer, Question};
use crate::stats::names::Listed;
use crate::stats::scope::Registry;
use crate::stream::Reply;
use crate::upstream::cluster::ClusterTwin;

pub mod chain;
mod list;

pub use chain::Dir;

list::filters! {
    buffer::Buffer,
    ext_authz::ExtAuthz,
    fault::Fault,
    health_check::HealthCheck,
    #[cfg(test)]
    probe::Probe,
    #[cfg(test)]
    stamp::Stamp,
}

/// The tables of stats that stand in the filters' own files, for those who list all.
pub const TABLES: &[Listed] = &[
    Listed::of::<ext_authz::Stat>("Stat", "http.<stat_prefix>.ext_authz."),
    Listed::of::<fault::FaultStat>("FaultStat", "http.<stat_prefix>.fault."),
    Listed::of::<fault::DownstreamStat>("DownstreamStat", "http.<stat_prefix>.fault.<cluster>."),
    Listed::of::<health_check::HealthCheckStat>("HealthCheckStat", "http.<stat_prefix>.health_check."),
];

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

/// A filter's answer about a head, or about the end of a message.
#[derive(Debug)]
pub enum Verdict {
    Continue,
    /// Ends the stream with a reply of ours.
    Reply(Box<Reply>),
    /// Asks, and wants to be called again with the answer.
    Call(Call),
    /// Ends the stream without a word; the text is for the log.
    Reset(&'static str),
}

/// A filter's answer about a piece of a body.
#[derive(Debug)]
pub enum ChunkVerdict {
    /// What is in `Cx::body` now goes on.
    Pass,
    /// What is in `Cx::body` now stays here until more comes, or the end. The runner bounds it.
    Hold,
    Call(Call),
    Reply(Box<Reply>),
    Reset(&'static str),
}

/// What a filter waits for. It dies with the stream.
#[derive(Debug)]
pub enum Call {
    Sleep(Duration),
    Ask(Box<Question>),
}

/// What a filter wants to see of a message besides its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    pub body: Body,
    /// Call the hook at the end of the message, with its trailers if there are any.
    pub trailers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    #[default]
    No,
    /// Each piece, after the head.
    Chunks,
    /// The whole, before the head hook is called; a longer one is refused with 413.
    Full(usize),
    /// So much of it, or all that there is, before the head hook is called.
    UpTo(usize),
}

/// One filter. Every hook has a default that lets pass.
pub trait Filter: fmt::Debug + Sized + Send + Sync + 'static {
    /// Type of the message that configures it, and of the one that routes carry where that is another.
    const TYPE: &'static str;
    const ROUTE_TYPE: &'static str = Self::TYPE;
    /// Its compiled configuration of one route.
    type Route: fmt::Debug + Send + Sync;
    /// What a shard keeps of it: blocks of stats.
    type Local: fmt::Debug;
    /// What a stream keeps of it.
    type Stream: fmt::Debug + Default;

    fn compile(config: &Any, lookup: Lookup<'_>, at: &At<'_>) -> Result<Self, Wrong>;
    /// Without it routes can but switch the filter off and on.
    fn compile_route(_config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Self::Route, Wrong> {
        Err(at.refuse("The filter doesn't support virtual host or route specific configurations"))
    }
    fn local(&self, place: &Place<'_>) -> Self::Local;

    fn wants(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> Wants {
        Wants::default()
    }
    fn request_head(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> Verdict {
        Verdict::Continue
    }
    fn request_chunk(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> ChunkVerdict {
        ChunkVerdict::Pass
    }
    fn request_trailers(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> Verdict {
        Verdict::Continue
    }
    fn wants_response(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> Wants {
        Wants::default()
    }
    fn response_head(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> Verdict {
        Verdict::Continue
    }
    fn response_chunk(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> ChunkVerdict {
        ChunkVerdict::Pass
    }
    fn response_trailers(_one: &mut Running<'_, Self>, _cx: &mut Cx<'_>) -> Verdict {
        Verdict::Continue
    }
}

/// A filter at work on one stream.
#[derive(Debug)]
pub struct Running<'c, F: Filter> {
    pub filter: &'c F,
    pub local: &'c F::Local,
    /// The most specific configuration of the request's route.
    pub route: Option<&'c F::Route>,
    pub state: F::Stream,
}

/// Where a shard sets up its part of a filter.
#[derive(Debug)]
pub struct Place<'a> {
    pub registry: &'a Arc<Registry>,
    pub shard: usize,
    /// `stat_prefix` of the connection manager.
    pub manager: &'a str,
    pub server: &'a Arc<ServerShared>,
    pub node: &'a Node,
}

/// Where the request will go, as far as its route tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// Whether there is a route at all.
    pub found: bool,
    pub cluster: Option<&'a ClusterTwin>,
}

/// What a hook sees of its stream, and may change.
pub struct Cx<'a> {
    pub now: Instant,
    pub random: &'a mut dyn FnMut() -> u64,
    pub runtime: &'a RuntimeValues,
    pub request: &'a mut RequestHead,
    /// In hooks of the response.
    pub response: Option<&'a mut ResponseHead>,
    /// How the message of this direction ends; see [`Cx::set_length`].
    pub framing: &'a mut Framing,
    pub info: &'a mut StreamInfo,
    pub target: Target<'a>,
    /// In a head hook what was collected, in a chunk hook what was held and what came, in a trailers hook what is
    /// held still.
    pub body: Chunks,
    /// Nothing of the body is to come; in `wants`: there is none at all.
    pub ended: bool,
    pub trailers: Option<Trailers>,
    /// Of the call that this hook has made.
    pub answer: Option<Answer>,
    pub(crate) reroute: bool,
}

impl fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cx({} bytes, ended: {})", self.body.bytes(), self.ended)
    }
}

impl Cx<'_> {
    /// The fields of this direction's head.
    pub fn fields(&mut self) -> &mut Fields {
        match &mut self.response {
            Some(response) => &mut response.fields,
            None => &mut self.request.fields,
        }
    }

    /// A filter that changes the length of a body says so before it lets the head pass. `None`: unknown.
    pub fn set_length(&mut self, length: Option<u64>) {
        match length {
            Some(n) => {
                self.fields().set(HeaderId::ContentLength, decimal(n, &mut [0; 20]));
                *self.framing = Framing::Length(n);
            }
            None => {
                self.fields().remove(HeaderId::ContentLength);
                *self.framing = Framing::Chunked;
            }
        }
    }

    /// Picks the route anew before the next filter sees the head.
    pub fn reroute(&mut self) {
        self.reroute = true;
    }
}

/// One entry of a chain.
#[derive(Debug)]
pub struct Entry {
    pub name: Arc<str>,
    /// Runs on routes alone that switch it on.
    pub disabled: bool,
    pub filter: FilterConfig,
}

/// One entry of a chain, on a shard.
#[derive(Debug)]
pub struct LocalEntry {
    pub name: Arc<str>,
    pub disabled: bool,
    twin: Twin,
}

/// The shard's part of a chain.
pub fn local(chain: &[Entry], place: &Place<'_>) -> Box<[LocalEntry]> {
    let one = |entry: &Entry| LocalEntry {
        name: Arc::clone(&entry.name),
        disabled: entry.disabled,
        twin: entry.filter.local(place),
    };
    chain.iter().map(one).collect()
}

/// Tells that an optional filter of a type that we do not have is left out.
//= envoy: HttpFilter.is_optional
pub fn left_out(filter: &HttpFilter) {
    let name = &filter.name;
    log::warn("config", &format!("Didn't find a registered factory for the optional http filter {name}"));
}

/// Compiles an entry. `None`: its type is unknown and it may be left out.
pub fn compile(
    filter: &HttpFilter,
    config: &Any,
    lookup: Lookup<'_>,
    at: &At<'_>,
) -> Result<Option<Entry>, Wrong> {
    match compile_any(config, lookup, at) {
        Some(compiled) => Ok(Some(Entry {
            name: Arc::from(filter.name.as_str()),
            disabled: filter.disabled,
            filter: compiled?,
        })),
        None if filter.is_optional => {
            left_out(filter);
            Ok(None)
        }
        None => Err(at.refuse(format!(
            "Didn't find a registered implementation for '{}' with type URL: '{}'",
            filter.name,
            values::type_name(config)
        ))),
    }
}
