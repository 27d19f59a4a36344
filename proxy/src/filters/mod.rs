//! The HTTP filters: trait, verdicts and THE LIST.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::google::protobuf::Any;

use crate::config::rejection::{At, Fault};
use crate::route::table::RouteTable;

/// One entry of a chain.
#[derive(Debug)]
pub struct FilterConfig {}

pub fn compile(_filter: &HttpFilter, _any: &Any, at: &At<'_>) -> Result<FilterConfig, Fault> {
    Err(at.not_implemented())
}

pub fn check_overrides(_chain: &[FilterConfig], _routes: &RouteTable, _at: &At<'_>) -> Result<(), Fault> {
    Ok(())
}
