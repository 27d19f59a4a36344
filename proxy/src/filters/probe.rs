//! A test's filter: does at each hook what its script says, `hook=verdict` in words. A panic is meant for requests
//! that ask for it in their path.

use std::time::Duration;

use envoy_types::pb::google::protobuf::{Any, BytesValue};

use super::{Body, Call, ChunkVerdict, Cx, Filter, Place, Running, Verdict, Wants};
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values;
use crate::stream::Reply;

#[derive(Debug)]
pub struct Probe(String);

impl Probe {
    fn says(&self, hook: &str) -> &str {
        self.0.split_whitespace().find_map(|w| w.strip_prefix(hook)?.strip_prefix('=')).unwrap_or("")
    }
}

fn reply(hook: &str) -> Box<Reply> {
    Box::new(Reply::text(if hook.starts_with("request") { 403 } else { 502 }, b"no", "probe"))
}

fn verdict(one: &Running<'_, Probe>, hook: &str, cx: &Cx<'_>) -> Verdict {
    match one.filter.says(hook) {
        "panic" if cx.request.path().ends_with(b"/panic") => panic!("planted in {hook}"),
        "call" if cx.answer.is_none() => Verdict::Call(Call::Sleep(Duration::from_secs(1))),
        "reply" => Verdict::Reply(reply(hook)),
        "reset" => Verdict::Reset("probe"),
        _ => Verdict::Continue,
    }
}

fn chunk(one: &Running<'_, Probe>, hook: &str, cx: &Cx<'_>) -> ChunkVerdict {
    match one.filter.says(hook) {
        "panic" if cx.request.path().ends_with(b"/panic") => panic!("planted in {hook}"),
        "call" if cx.answer.is_none() => ChunkVerdict::Call(Call::Sleep(Duration::from_secs(1))),
        "hold" => ChunkVerdict::Hold,
        "reply" => ChunkVerdict::Reply(reply(hook)),
        "reset" => ChunkVerdict::Reset("probe"),
        _ => ChunkVerdict::Pass,
    }
}

fn wants(one: &Running<'_, Probe>, hook: &str, cx: &Cx<'_>) -> Wants {
    let body = match one.filter.says(hook) {
        "panic" if cx.request.path().ends_with(b"/panic") => panic!("planted in {hook}"),
        "chunks" => Body::Chunks,
        "full" => Body::Full(4),
        "upto" => Body::UpTo(4),
        _ => Body::No,
    };
    Wants { body, trailers: true }
}

impl Filter for Probe {
    const TYPE: &'static str = "google.protobuf.BytesValue";
    const ROUTE_TYPE: &'static str = "google.protobuf.BytesValue";
    type Route = ();
    type Local = ();
    type Stream = ();

    fn compile(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Self, Fault> {
        let config: BytesValue = values::unpack(config, at)?;
        Ok(Probe(String::from_utf8_lossy(&config.value).into_owned()))
    }
    fn compile_route(_: &Any, _: Lookup<'_>, _: &At<'_>) -> Result<(), Fault> {
        Ok(())
    }
    fn local(&self, _: &Place<'_>) {}

    fn wants(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Wants {
        wants(one, "request_wants", cx)
    }
    fn request_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        verdict(one, "request_head", cx)
    }
    fn request_chunk(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> ChunkVerdict {
        chunk(one, "request_chunk", cx)
    }
    fn request_trailers(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        verdict(one, "request_trailers", cx)
    }
    fn wants_response(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Wants {
        wants(one, "response_wants", cx)
    }
    fn response_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        verdict(one, "response_head", cx)
    }
    fn response_chunk(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> ChunkVerdict {
        chunk(one, "response_chunk", cx)
    }
    fn response_trailers(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        verdict(one, "response_trailers", cx)
    }
}
