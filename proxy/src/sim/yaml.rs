//! The bootstrap of a scenario, as an operator would write it.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::draw::{ClusterPlan, Draw, FilterPlan, Timeouts};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Where the authorization service is.
pub const AUTHZ: &str = "10.3.0.1";

/// Where the proxy listens, and where the endpoints of a cluster are.
pub const LISTENER: &str = "10.1.0.1";
pub const PORT: u16 = 80;

pub fn endpoint(cluster: usize, endpoint: usize) -> String {
    format!("10.2.{cluster}.{}", endpoint + 1)
}

/// Which log line belongs to a request: number, status, flags, details.
const LOG_FORMAT: &str = "%REQ(x-id)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";

pub(super) fn bootstrap(
    draw: &Draw,
    calm: bool,
    clusters: &[ClusterPlan],
    filters: &[FilterPlan],
    timeouts: &Timeouts,
    reuse_port: bool,
) -> String {
    let ms = |range: RangeInclusive<u64>| seconds(draw.millis(range));
    let long = |calm: bool, range: RangeInclusive<u64>| if calm { "300s".to_owned() } else { ms(range) };
    let mut out = format!(
        "static_resources:\n  listeners:\n  - name: main\n    address: {{socket_address: {{address: {LISTENER}, \
         port_value: {PORT}}}}}\n    enable_reuse_port: {reuse_port}\n    filter_chains:\n    - filters:\n      - \
         name: hcm\n        typed_config:\n          \"@type\": {MANAGER}\n          stat_prefix: main\n"
    );
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes all");
    line(format!("          stream_idle_timeout: {}", seconds(timeouts.idle)));
    line(format!("          request_timeout: {}", seconds(timeouts.request)));
    line(format!("          request_headers_timeout: {}", seconds(timeouts.head)));
    line(format!("          common_http_protocol_options: {{idle_timeout: {}}}", long(calm, 100..=5_000)));
    line(format!("          access_log: [{{name: f, typed_config: {{\"@type\": {FILE}, path: /dev/null,"));
    line(format!(
        "            log_format: {{text_format_source: {{inline_string: \"{LOG_FORMAT}\\n\"}}}}}}}}]"
    ));
    line(
        "          route_config:\n            virtual_hosts: [{name: all, domains: [\"*\"], routes: ["
            .to_owned(),
    );
    for n in 0..clusters.len() {
        let timeout = seconds(timeouts.route);
        line(format!(
            "              {{match: {{prefix: /c/{n}/}}, route: {{cluster: c{n}, timeout: {timeout}}}}},"
        ));
    }
    line("            ]}]".to_owned());
    line("          http_filters:".to_owned());
    filters.iter().for_each(|plan| line(filter(plan)));
    line(format!("          - {{name: r, typed_config: {{\"@type\": {ROUTER}}}}}\n  clusters:"));
    let authz = filters.iter().any(|f| matches!(f, FilterPlan::Authz { .. }));
    if authz {
        line(format!("  - name: authz\n    connect_timeout: {}", long(calm, 100..=2_000)));
        line(format!(
            "    typed_extension_protocol_options:\n      {OPTIONS_NAME}:\n        \"@type\": {OPTIONS}\n        \
             explicit_http_config: {{http_protocol_options: {{}}}}\n        common_http_protocol_options: \
             {{idle_timeout: {}}}",
            ms(100..=10_000)
        ));
        line(format!(
            "    load_assignment: {{cluster_name: authz, endpoints: [{{lb_endpoints: [{}]}}]}}",
            at(AUTHZ)
        ));
    }
    for (n, cluster) in clusters.iter().enumerate() {
        let policy = draw.pick(&["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"]);
        line(format!(
            "  - name: c{n}\n    connect_timeout: {}\n    lb_policy: {policy}",
            long(calm, 100..=2_000)
        ));
        let max = if draw.one_in(2) { 0 } else { draw.within(1..=6) };
        line(format!("    typed_extension_protocol_options:\n      {OPTIONS_NAME}:"));
        line(format!(
            "        \"@type\": {OPTIONS}\n        explicit_http_config: {{http_protocol_options: {{}}}}"
        ));
        line(format!(
            "        common_http_protocol_options: {{idle_timeout: {}, max_requests_per_connection: {max}}}",
            ms(100..=10_000)
        ));
        if !calm && draw.one_in(3) {
            let bound = || draw.within(1..=6);
            line(format!(
                "    circuit_breakers: {{thresholds: [{{max_connections: {}, max_pending_requests: {}, \
                 max_requests: {}}}]}}",
                bound(),
                bound(),
                bound()
            ));
        }
        let endpoints: Vec<String> = (0..cluster.endpoints).map(|e| at(&endpoint(n, e))).collect();
        line(format!(
            "    load_assignment: {{cluster_name: c{n}, endpoints: [{{lb_endpoints: [{}]}}]}}",
            endpoints.join(", ")
        ));
    }
    out
}

const OPTIONS_NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// An endpoint at an address.
fn at(address: &str) -> String {
    format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: 80}}}}}}}}")
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}

fn filter(plan: &FilterPlan) -> String {
    match plan {
        FilterPlan::Buffer { most } => format!(
            "          - {{name: buffer, typed_config: {{\"@type\": {FILTERS}.buffer.v3.Buffer, max_request_bytes: \
             {most}}}}}"
        ),
        FilterPlan::Fault => format!(
            "          - {{name: fault, typed_config: {{\"@type\": {FILTERS}.fault.v3.HTTPFault, delay: {{header_delay: \
             {{}}, percentage: {{numerator: 100}}}}, abort: {{header_abort: {{}}, percentage: {{numerator: 100}}}}}}}}"
        ),
        FilterPlan::Authz { fails_open, body, timeout } => {
            let body = body.map_or_else(String::new, |most| {
                format!(", with_request_body: {{max_request_bytes: {most}, allow_partial_message: true}}")
            });
            format!(
                "          - {{name: authz, typed_config: {{\"@type\": {FILTERS}.ext_authz.v3.ExtAuthz, \
                 failure_mode_allow: {fails_open}{body}, http_service: {{server_uri: {{uri: http://authz, cluster: \
                 authz, timeout: {}}}, path_prefix: /check, authorization_response: {{allowed_upstream_headers: \
                 {{patterns: [{{exact: x-user}}]}}, allowed_client_headers: {{patterns: [{{exact: x-why}}]}}}}}}}}}}",
                seconds(*timeout)
            )
        }
    }
}
