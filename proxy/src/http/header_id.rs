//! Names of well-known header fields, recognised without hashing.
//!
//! A field carries its `HeaderId`, so that finding one is a scan over small integers.

macro_rules! header_ids {
    ($($variant:ident = $name:literal,)*) => {
        /// A well-known field name, or `Other`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum HeaderId { Other, $($variant,)* }

        impl HeaderId {
            /// The name in lower case; empty for `Other`.
            pub fn name(self) -> &'static str {
                match self { HeaderId::Other => "", $(HeaderId::$variant => $name,)* }
            }

            #[cfg(test)]
            const ALL: &'static [HeaderId] = &[$(HeaderId::$variant,)*];
        }
    };
}

header_ids! {
    AcceptEncoding = "accept-encoding", Accept = "accept", Authorization = "authorization",
    CacheControl = "cache-control", Connection = "connection", ContentEncoding = "content-encoding",
    ContentLength = "content-length", ContentType = "content-type", Cookie = "cookie", Date = "date",
    Expect = "expect", GrpcStatus = "grpc-status", Host = "host", KeepAlive = "keep-alive",
    Location = "location", ProxyConnection = "proxy-connection", Referer = "referer", Server = "server",
    SetCookie = "set-cookie", Te = "te", Trailer = "trailer", TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade", UserAgent = "user-agent", Via = "via", XForwardedClientCert = "x-forwarded-client-cert",
    XForwardedFor = "x-forwarded-for", XForwardedHost = "x-forwarded-host", XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto", XRequestId = "x-request-id",
    XEnvoyAttemptCount = "x-envoy-attempt-count", XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address", XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail",
    XEnvoyInternal = "x-envoy-internal", XEnvoyIpTags = "x-envoy-ip-tags", XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalHost = "x-envoy-original-host", XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyOriginalUrl = "x-envoy-original-url", XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes", XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on", XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XEnvoyUpstreamStreamDurationMs = "x-envoy-upstream-stream-duration-ms",
    XEnvoyOther = "x-envoy-",
}

impl HeaderId {
    /// Recognises a name in any case.
    pub fn of(name: &[u8]) -> HeaderId {
        for &id in same_length(name.len()) {
            if id.name().as_bytes().eq_ignore_ascii_case(name) {
                return id;
            }
        }
        match name.get(..8) {
            Some(prefix) if prefix.eq_ignore_ascii_case(b"x-envoy-") => HeaderId::XEnvoyOther,
            _ => HeaderId::Other,
        }
    }

    pub fn is_x_envoy(self) -> bool {
        self >= HeaderId::XEnvoyAttemptCount
    }

    /// Whether the id alone says the whole name.
    pub fn is_exact(self) -> bool {
        !matches!(self, HeaderId::Other | HeaderId::XEnvoyOther)
    }
}

/// The well-known names of one length: a name is compared with these few only. A test holds it complete.
fn same_length(length: usize) -> &'static [HeaderId] {
    use HeaderId as H;
    match length {
        2 => &[H::Te],
        3 => &[H::Via],
        4 => &[H::Date, H::Host],
        6 => &[H::Accept, H::Cookie, H::Expect, H::Server],
        7 => &[H::Referer, H::Trailer, H::Upgrade],
        8 => &[H::Location],
        10 => &[H::Connection, H::KeepAlive, H::SetCookie, H::UserAgent],
        11 => &[H::GrpcStatus],
        12 => &[H::ContentType, H::XRequestId],
        13 => &[H::Authorization, H::CacheControl],
        14 => &[H::ContentLength],
        15 => &[H::AcceptEncoding, H::XForwardedFor, H::XEnvoyIpTags],
        16 => &[
            H::ContentEncoding,
            H::ProxyConnection,
            H::XForwardedHost,
            H::XForwardedPort,
            H::XEnvoyInternal,
            H::XEnvoyRetryOn,
        ],
        17 => &[H::TransferEncoding, H::XForwardedProto],
        18 => &[H::XEnvoyOverloaded],
        19 => &[H::XEnvoyForceTrace, H::XEnvoyMaxRetries],
        20 => &[H::XEnvoyOriginalUrl],
        21 => &[H::XEnvoyAttemptCount, H::XEnvoyOriginalHost, H::XEnvoyOriginalPath, H::XEnvoyRetryGrpcOn],
        23 => &[H::XForwardedClientCert],
        24 => &[H::XEnvoyExternalAddress],
        27 => &[H::XEnvoyDecoratorOperation],
        29 => &[H::XEnvoyUpstreamServiceTime],
        30 => &[
            H::XEnvoyExpectedRqTimeoutMs,
            H::XEnvoyRetriableHeaderNames,
            H::XEnvoyRetriableStatusCodes,
            H::XEnvoyUpstreamAltStatName,
            H::XEnvoyUpstreamRqTimeoutMs,
        ],
        31 => &[H::XEnvoyDownstreamServiceNode],
        32 => &[H::XEnvoyHedgeOnPerTryTimeout],
        34 => &[H::XEnvoyDownstreamServiceCluster],
        35 => &[H::XEnvoyImmediateHealthCheckFail, H::XEnvoyUpstreamStreamDurationMs],
        38 => &[H::XEnvoyUpstreamRqPerTryTimeoutMs],
        40 => &[H::XEnvoyUpstreamRqTimeoutAltResponse],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for &id in HeaderId::ALL {
            assert_eq!(HeaderId::of(id.name().as_bytes()), id, "{}", id.name());
            assert_eq!(HeaderId::of(id.name().to_ascii_uppercase().as_bytes()), id);
        }
        assert_eq!(HeaderId::of(b"x-other"), HeaderId::Other);
        assert_eq!(HeaderId::of(b"X-Envoy-Whatever"), HeaderId::XEnvoyOther);
        assert!(HeaderId::of(b"x-envoy-attempt-count").is_x_envoy() && !HeaderId::XRequestId.is_x_envoy());
    }
}
