//! `envoy.extensions.filters.http.buffer.v3.Buffer`: collects the whole request before it goes on.
//!
//! A request that had no length gets one. A longer one than `max_request_bytes` is refused with 413.
//!
//! ```yaml
//! name: envoy.filters.http.buffer
//! typed_config:
//!   "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
//!   max_request_bytes: 65536
//! ```

use envoy_types::pb::envoy::extensions::filters::http::buffer::v3 as pb;
use envoy_types::pb::google::protobuf::Any;

use super::{Body, Cx, Filter, Place, Running, Verdict, Wants};
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values;
use crate::http::message::{Framing, HeaderId};

/// The filter.
#[derive(Debug)]
pub struct Buffer {
    bytes_max: usize,
}

/// What a route says to it. `None`: switched off there.
#[derive(Debug)]
pub struct OnRoute(Option<usize>);

fn bytes_max(config: &pb::Buffer, at: &At<'_>) -> Result<usize, Fault> {
    let here = at.field("Buffer", "max_request_bytes");
    match config.max_request_bytes.as_ref().map(|v| v.value) {
        None => Err(here.violates("value is required")),
        Some(0) => Err(here.violates("value must be greater than 0")),
        Some(bytes) => Ok(bytes as usize),
    }
}

impl Filter for Buffer {
    const TYPE: &'static str = "envoy.extensions.filters.http.buffer.v3.Buffer";
    const ROUTE_TYPE: &'static str = "envoy.extensions.filters.http.buffer.v3.BufferPerRoute";
    type Route = OnRoute;
    type Local = ();
    type Stream = ();

    fn compile(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Self, Fault> {
        let config: pb::Buffer = values::unpack(config, at)?;
        Ok(Buffer { bytes_max: bytes_max(&config, at)? })
    }

    fn compile_route(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<OnRoute, Fault> {
        use pb::buffer_per_route::Override;
        let config: pb::BufferPerRoute = values::unpack(config, at)?;
        match &config.r#override {
            Some(Override::Disabled(true)) => Ok(OnRoute(None)),
            Some(Override::Disabled(false)) => {
                Err(at.field("BufferPerRoute", "disabled").violates("value must equal true"))
            }
            Some(Override::Buffer(own)) => {
                Ok(OnRoute(Some(bytes_max(own, &at.field("BufferPerRoute", "buffer"))?)))
            }
            None => Err(at.lacks("override")),
        }
    }

    fn local(&self, _: &Place<'_>) {}

    fn wants(one: &mut Running<'_, Self>, _: &mut Cx<'_>) -> Wants {
        Wants { body: one.bytes_max().map_or(Body::No, Body::Full), trailers: false }
    }

    //= envoy: a request that had a body and no length gets its length
    fn request_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        let chunked = *cx.framing == Framing::Chunked;
        if one.bytes_max().is_some() && chunked && !cx.request.fields.contains(HeaderId::ContentLength) {
            cx.set_length(Some(cx.body.bytes() as u64));
        }
        Verdict::Continue
    }
}

impl Running<'_, Buffer> {
    /// `None`: it collects nothing.
    fn bytes_max(&self) -> Option<usize> {
        self.route.map_or(Some(self.filter.bytes_max), |route| route.0)
    }
}
