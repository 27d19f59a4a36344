//! A test's filter, and the example of `docs/FILTERS.md`: marks requests, and refuses those of a certain method.

use envoy_types::pb::google::protobuf::{Any, StringValue};

use super::{Cx, Filter, Place, Running, Verdict};
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values;
use crate::stream::Reply;

/// The method that is refused.
#[derive(Debug)]
pub struct Stamp(Box<str>);

impl Filter for Stamp {
    const TYPE: &'static str = "google.protobuf.StringValue";
    type Route = Stamp;
    type Local = ();
    type Stream = ();

    fn compile(config: &Any, _: Lookup<'_>, at: &At<'_>) -> Result<Self, Fault> {
        let config: StringValue = values::unpack(config, at)?;
        if config.value.is_empty() {
            return Err(at.field("StringValue", "value").violates("value length must be at least 1 characters"));
        }
        Ok(Stamp(config.value.into()))
    }

    fn compile_route(config: &Any, lookup: Lookup<'_>, at: &At<'_>) -> Result<Stamp, Fault> {
        Self::compile(config, lookup, at)
    }

    fn local(&self, _: &Place<'_>) {}

    fn request_head(one: &mut Running<'_, Self>, cx: &mut Cx<'_>) -> Verdict {
        let refused = one.route.unwrap_or(one.filter);
        if cx.request.is_method(refused.0.as_bytes()) {
            return Verdict::Reply(Box::new(Reply::text(405, b"no", "method_refused")));
        }
        cx.request.fields.append_named(b"x-stamp", b"seen");
        Verdict::Continue
    }
}
