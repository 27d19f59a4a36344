//! Compiles the configuration of `ext_authz`, and answers what it says about names of fields.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::StatusCode;
use envoy_types::pb::google::protobuf::Any;

use crate::access_log::format::Format;
use crate::config::matchers::{runtime_fraction, string_matcher};
use crate::config::rejection::{At, Fault};
use crate::config::route::Lookup;
use crate::config::values::{self, header_safe};
use crate::filters::Cx;
use crate::http::message::HeaderId as H;
use crate::route::matchers::{Fraction, StringMatcher};

/// The filter.
#[derive(Debug)]
pub struct ExtAuthz {
    pub(super) service: Service,
    allowed: Names,
    disallowed: Names,
    pub(super) failure_mode_allow: bool,
    pub(super) failure_mode_allow_header_add: bool,
    pub(super) body: Option<WithBody>,
    pub(super) status_on_error: u16,
    pub(super) denied_body_max: usize,
    pub(super) clear_route_cache: bool,
    pub(super) charge_cluster: bool,
    pub(super) raw_headers: bool,
    pub(super) enabled: Share,
    pub(super) deny_at_disable: Switch,
    pub(super) stat_prefix: Box<str>,
}

/// Whom it asks, how, and what the answer may change.
#[derive(Debug)]
pub struct Service {
    pub(super) cluster: Arc<str>,
    pub(super) timeout: Duration,
    pub(super) path: Path,
    pub(super) headers_to_add: Added,
    pub(super) upstream: Names,
    pub(super) upstream_append: Names,
    client: Names,
    pub(super) client_on_success: Names,
}

/// The path that the service sees.
#[derive(Debug)]
pub(super) enum Path {
    /// Before the request's own.
    Prefix(Box<str>),
    Fixed(Box<str>),
}

/// What a route says to it.
#[derive(Debug, Default)]
pub struct OnRoute {
    pub(super) disabled: bool,
    pub(super) without_body: bool,
    pub(super) body: Option<WithBody>,
    pub(super) service: Option<Box<Service>>,
}

/// How much of the body the service sees.
#[derive(Debug, Clone, Copy)]
pub struct WithBody {
    pub(super) bytes_max: usize,
    pub(super) partial: bool,
}

/// A list of rules for names.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<StringMatcher>);

impl Names {
    pub(super) fn fits(&self, name: &[u8]) -> bool {
        !self.0.is_empty() && {
            let lower = name.to_ascii_lowercase();
            self.0.iter().any(|m| m.fits(&lower))
        }
    }
}

/// `filter_enabled`; all requests when it is not set.
#[derive(Debug)]
pub(super) struct Share(Option<Fraction>);

impl Share {
    pub(super) fn takes(&self, cx: &mut Cx<'_>) -> bool {
        self.0.is_none_or(|f| f.takes((cx.random)()))
    }
}

/// `deny_at_disable`.
#[derive(Debug)]
pub(super) struct Switch {
    default: bool,
    key: Box<str>,
}

impl Switch {
    pub(super) fn is_set(&self, cx: &Cx<'_>) -> bool {
        cx.runtime.flag(&self.key, self.default)
    }
}

impl ExtAuthz {
    /// Whether the service sees a field of the request. Method, path and host it sees anyway.
    pub(super) fn is_sent(&self, id: H, name: &[u8]) -> bool {
        (id == H::Authorization || self.allowed.fits(name)) && !self.disallowed.fits(name)
    }

    /// `ext_authz.`, or `ext_authz.<stat_prefix>.`
    pub(super) fn stat_part(&self) -> String {
        if self.stat_prefix.is_empty() {
            "ext_authz.".to_owned()
        } else {
            format!("ext_authz.{}.", self.stat_prefix)
        }
    }
}

impl Service {
    /// Whether the client sees a field of a refusal.
    //= envoy: an empty list shows all
    pub(super) fn is_shown_to_client(&self, id: H, name: &[u8]) -> bool {
        const OWN: [H; 6] =
            [H::Connection, H::KeepAlive, H::TransferEncoding, H::Host, H::Upgrade, H::ProxyConnection];
        if OWN.contains(&id) {
            return false;
        }
        if self.client.0.is_empty() {
            return true;
        }
        id == H::Location
            || id == H::ContentLength
            || name.eq_ignore_ascii_case(b"www-authenticate") || self.client.fits(name)
    }
}

/// Fields that are added to the question: names in lower case.
type Added = Vec<(Box<[u8]>, Format)>;

const MESSAGE: &str = "ExtAuthz";
const HTTP: &str = "HttpService";
const ENUM: &str = "value must be one of the defined enum values";
/// Beyond it Envoy refuses a time limit.
const TIMEOUT_SECONDS_MAX: i64 = 1 << 32;

fn names(list: Option<&matcher::ListStringMatcher>, at: &At<'_>) -> Result<Names, Fault> {
    let Some(list) = list else { return Ok(Names::default()) };
    if list.patterns.is_empty() {
        let here = at.field("ListStringMatcher", "patterns");
        return Err(here.violates("value must contain at least 1 item(s)"));
    }
    let one = |(i, p)| string_matcher(p, &at.item("ListStringMatcher", "patterns", i));
    Ok(Names(list.patterns.iter().enumerate().map(one).collect::<Result<_, _>>()?))
}

fn with_body(config: &pb::BufferSettings, at: &At<'_>) -> Result<WithBody, Fault> {
    if config.max_request_bytes == 0 {
        let here = at.field("BufferSettings", "max_request_bytes");
        return Err(here.violates("value must be greater than 0"));
    }
    Ok(WithBody { bytes_max: config.max_request_bytes as usize, partial: config.allow_partial_message })
}

fn headers_to_add(
    list: &[core::HeaderValue],
    at: &At<'_>,
) -> Result<Added, Fault> {
    let mut all = Vec::new();
    for (i, header) in list.iter().enumerate() {
        let here = at.item("AuthorizationRequest", "headers_to_add", i);
        if header.key.is_empty() {
            let key = here.field("HeaderValue", "key");
            return Err(key.violates("value length must be at least 1 characters"));
        }
        header_safe(&header.key, &here.field("HeaderValue", "key"))?;
        if header.key.starts_with(':') || header.key.eq_ignore_ascii_case("host") {
            return Err(here.refuse(":-prefixed or host headers may not be modified"));
        }
        if ["content-length", "transfer-encoding"].contains(&&*header.key.to_ascii_lowercase()) {
            let reason = format!("{} belongs to the framing of the message and may not be added", header.key);
            return Err(here.refuse(reason));
        }
        header_safe(&header.value, &here.field("HeaderValue", "value"))?;
        let format = Format::compile(&header.value, true).map_err(|e| here.refuse(e.to_string()))?;
        all.push((header.key.to_ascii_lowercase().into_bytes().into(), format));
    }
    Ok(all)
}

fn uri(config: &pb::HttpService, at: &At<'_>) -> Result<(Arc<str>, Duration), Fault> {
    use core::http_uri::HttpUpstreamType;
    const URI: &str = "HttpUri";
    let here = at.field("HttpService", "server_uri");
    let Some(uri) = &config.server_uri else { return Err(here.refuse("server_uri is required")) };
    let at_least_one = "value length must be at least 1 characters";
    if uri.uri.is_empty() {
        return Err(here.field(URI, "uri").violates(at_least_one));
    }
    let Some(HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        return Err(here.lacks("http_upstream_type"));
    };
    if cluster.is_empty() {
        return Err(here.field(URI, "cluster").violates(at_least_one));
    }
    let timeout_at = here.field(URI, "timeout");
    let Some(timeout) = &uri.timeout else { return Err(timeout_at.violates("value is required")) };
    if !(0..TIMEOUT_SECONDS_MAX).contains(&timeout.seconds) || timeout.nanos < 0 {
        return Err(timeout_at.violates("value must be inside range [0s, 1193046h28m16s)"));
    }
    Ok((Arc::from(cluster.as_str()), values::duration(timeout, &timeout_at)?))
}

/// The service, and the older place of the list of headers that it sees.
fn service(config: &pb::HttpService, at: &At<'_>) -> Result<(Service, Names), Fault> {
    let (cluster, timeout) = uri(config, at)?;
    let path = match (&*config.path_prefix, &*config.path_override) {
        (prefix, "") if prefix.is_empty() || prefix.starts_with('/') => Path::Prefix(prefix.into()),
        (_, "") => {
            return Err(at.field(HTTP, "path_prefix").refuse("path_prefix should start with \"/\"."));
        }
        ("", path) if path.starts_with('/') => Path::Fixed(path.into()),
        ("", _) => {
            return Err(at.field(HTTP, "path_override").refuse("path_override should start with \"/\"."));
        }
        _ => return Err(at.refuse("Only one of path_prefix or path_override may be set, not both.")),
    };
    let request = config.authorization_request.clone().unwrap_or_default();
    let request_at = at.field(HTTP, "authorization_request");
    let response = config.authorization_response.clone().unwrap_or_default();
    let response_at = at.field(HTTP, "authorization_response");
    let listed = |list: Option<&_>, field| names(list, &response_at.field("AuthorizationResponse", field));
    #[expect(deprecated, reason = "the older place of the list is part of the API")]
    let allowed = names(
        request.allowed_headers.as_ref(),
        &request_at.field("AuthorizationRequest", "allowed_headers"),
    )?;
    let service = Service {
        cluster,
        timeout,
        path,
        headers_to_add: headers_to_add(&request.headers_to_add, &request_at)?,
        upstream: listed(response.allowed_upstream_headers.as_ref(), "allowed_upstream_headers")?,
        upstream_append: listed(
            response.allowed_upstream_headers_to_append.as_ref(),
            "allowed_upstream_headers_to_append",
        )?,
        client: listed(response.allowed_client_headers.as_ref(), "allowed_client_headers")?,
        client_on_success: listed(
            response.allowed_client_headers_on_success.as_ref(),
            "allowed_client_headers_on_success",
        )?,
    };
    Ok((service, allowed))
}

pub(super) fn filter(config: &Any, lookup: Lookup<'_>, at: &At<'_>) -> Result<ExtAuthz, Fault> {
    use pb::ext_authz::Services;
    let config: pb::ExtAuthz = values::unpack(config, at)?;
    if !(0..=2).contains(&config.transport_api_version) {
        return Err(at.field(MESSAGE, "transport_api_version").violates(ENUM));
    }
    let (service, older) = match &config.services {
        Some(Services::HttpService(own)) => service(own, &at.field(MESSAGE, "http_service"))?,
        Some(Services::GrpcService(_)) => return Err(at.field(MESSAGE, "grpc_service").not_implemented()),
        None => {
            let reason = "no service is configured: who shall be asked?";
            return Err(at.field(MESSAGE, "http_service").refuse(reason));
        }
    };
    let allowed_at = at.field(MESSAGE, "allowed_headers");
    let allowed = match &config.allowed_headers {
        Some(_) if !older.0.is_empty() => {
            return Err(allowed_at.refuse("Invalid duplicate configuration for allowed_headers."));
        }
        None => older,
        own => names(own.as_ref(), &allowed_at)?,
    };
    let body_at = at.field(MESSAGE, "with_request_body");
    Ok(ExtAuthz {
        service,
        allowed,
        disallowed: names(config.disallowed_headers.as_ref(), &at.field(MESSAGE, "disallowed_headers"))?,
        failure_mode_allow: config.failure_mode_allow,
        failure_mode_allow_header_add: config.failure_mode_allow_header_add,
        body: config.with_request_body.as_ref().map(|b| with_body(b, &body_at)).transpose()?,
        status_on_error: status_on_error(&config, at)?,
        denied_body_max: match config.max_denied_response_body_bytes {
            0 => usize::MAX,
            bytes => bytes as usize,
        },
        clear_route_cache: config.clear_route_cache,
        charge_cluster: config.charge_cluster_response_stats.is_none_or(|c| c.value),
        raw_headers: config.encode_raw_headers,
        enabled: Share(match &config.filter_enabled {
            Some(share) => {
                Some(runtime_fraction(share, lookup.runtime, &at.field(MESSAGE, "filter_enabled"))?)
            }
            None => None,
        }),
        deny_at_disable: deny_at_disable(&config, at)?,
        stat_prefix: config.stat_prefix.as_str().into(),
    })
}

fn deny_at_disable(config: &pb::ExtAuthz, at: &At<'_>) -> Result<Switch, Fault> {
    let Some(flag) = &config.deny_at_disable else { return Ok(Switch { default: false, key: "".into() }) };
    let Some(default) = &flag.default_value else {
        let here = at.field(MESSAGE, "deny_at_disable");
        return Err(here.field("RuntimeFeatureFlag", "default_value").violates("value is required"));
    };
    Ok(Switch { default: default.value, key: flag.runtime_key.as_str().into() })
}

fn status_on_error(config: &pb::ExtAuthz, at: &At<'_>) -> Result<u16, Fault> {
    let Some(status) = &config.status_on_error else { return Ok(403) };
    let here = at.field(MESSAGE, "status_on_error");
    let code = here.field("HttpStatus", "code");
    match u16::try_from(status.code) {
        Ok(0) => Err(code.violates("value must not be in list [Empty]")),
        Ok(status) if StatusCode::try_from(i32::from(status)).is_err() => Err(code.violates(ENUM)),
        Ok(100..200) => Err(code.refuse("an interim status ends no request")),
        Ok(status) => Ok(status),
        Err(_) => Err(code.violates(ENUM)),
    }
}

pub(super) fn on_route(config: &Any, at: &At<'_>) -> Result<OnRoute, Fault> {
    use pb::check_settings::ServiceOverride;
    use pb::ext_authz_per_route::Override;
    let config: pb::ExtAuthzPerRoute = values::unpack(config, at)?;
    match &config.r#override {
        Some(Override::Disabled(disabled)) => Ok(OnRoute { disabled: *disabled, ..OnRoute::default() }),
        Some(Override::CheckSettings(settings)) => {
            let here = at.field("ExtAuthzPerRoute", "check_settings");
            if settings.disable_request_body_buffering && settings.with_request_body.is_some() {
                return Err(here.refuse(
                    "Invalid configuration for check_settings. Only one of disable_request_body_buffering or \
                     with_request_body can be set.",
                ));
            }
            let body_at = here.field("CheckSettings", "with_request_body");
            let body = settings.with_request_body.as_ref().map(|b| with_body(b, &body_at)).transpose()?;
            let without_body = settings.disable_request_body_buffering;
            let service = match &settings.service_override {
                None => None,
                Some(ServiceOverride::HttpService(own)) => {
                    Some(Box::new(service(own, &here.field("CheckSettings", "http_service"))?.0))
                }
                Some(ServiceOverride::GrpcService(_)) => {
                    return Err(here.field("CheckSettings", "grpc_service").not_implemented());
                }
            };
            Ok(OnRoute { disabled: false, without_body, body, service })
        }
        None => Err(at.lacks("override")),
    }
}
