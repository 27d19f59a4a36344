//! Names of well-known header fields, recognised without hashing.
//!
//! A field carries its `HeaderId`, so that finding one is a scan over small integers, and a set of them is one number.

macro_rules! header_ids {
    ($($variant:ident = $name:literal,)*) => {
        /// A well-known field name, or `Other`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum HeaderId { Other, $($variant,)* }

        impl HeaderId {
            /// The name in lower case; empty for `Other`.
            pub fn name(self) -> &'static str {
                const NAMES: &[&str] = &["", $($name,)*];
                NAMES[self as usize]
            }

            /// Length of the name.
            pub fn name_bytes(self) -> u8 {
                #[expect(clippy::cast_possible_truncation, reason = "no name is longer than 40 bytes")]
                const LENGTHS: &[u8] = &[0, $($name.len() as u8,)*];
                LENGTHS[self as usize]
            }

            #[cfg(test)]
            const ALL: &'static [HeaderId] = &[$(HeaderId::$variant,)*];
        }
    };
}

header_ids! {
    AcceptEncoding = "accept-encoding", Accept = "accept",
    AccessControlAllowCredentials = "access-control-allow-credentials",
    AccessControlAllowHeaders = "access-control-allow-headers",
    AccessControlAllowMethods = "access-control-allow-methods",
    AccessControlAllowOrigin = "access-control-allow-origin",
    AccessControlAllowPrivateNetwork = "access-control-allow-private-network",
    AccessControlExposeHeaders = "access-control-expose-headers", AccessControlMaxAge = "access-control-max-age",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    AccessControlRequestPrivateNetwork = "access-control-request-private-network",
    Age = "age", Authorization = "authorization", CacheControl = "cache-control", CdnLoop = "cdn-loop",
    Connection = "connection", ContentEncoding = "content-encoding",
    ContentLength = "content-length", ContentType = "content-type", Cookie = "cookie", Date = "date",
    Etag = "etag", Expect = "expect", Expires = "expires", GrpcAcceptEncoding = "grpc-accept-encoding",
    GrpcMessage = "grpc-message", GrpcStatus = "grpc-status", GrpcTimeout = "grpc-timeout", Host = "host",
    IfMatch = "if-match", IfModifiedSince = "if-modified-since", IfNoneMatch = "if-none-match",
    IfRange = "if-range", IfUnmodifiedSince = "if-unmodified-since", KeepAlive = "keep-alive",
    LastModified = "last-modified", Location = "location", Origin = "origin", Pragma = "pragma",
    ProxyConnection = "proxy-connection", ProxyStatus = "proxy-status", Referer = "referer", Server = "server",
    SetCookie = "set-cookie", Te = "te", Trailer = "trailer", TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade", UserAgent = "user-agent", Vary = "vary", Via = "via",
    XClientTraceId = "x-client-trace-id", XForwardedClientCert = "x-forwarded-client-cert",
    XForwardedFor = "x-forwarded-for", XForwardedHost = "x-forwarded-host", XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto", XRequestId = "x-request-id",
    XEnvoyAttemptCount = "x-envoy-attempt-count", XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node", XEnvoyDegraded = "x-envoy-degraded",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address", XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail",
    XEnvoyInternal = "x-envoy-internal", XEnvoyIpTags = "x-envoy-ip-tags", XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalHost = "x-envoy-original-host", XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyIsTimeoutRetry = "x-envoy-is-timeout-retry",
    XEnvoyOriginalUrl = "x-envoy-original-url", XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyRatelimited = "x-envoy-ratelimited",
    XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes", XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on", XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamCanary = "x-envoy-upstream-canary",
    XEnvoyUpstreamHealthcheckedCluster = "x-envoy-upstream-healthchecked-cluster",
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
        let Some(&last) = name.last() else { return HeaderId::Other };
        for &id in same_length(name.len()) {
            let known = id.name().as_bytes();
            // The last letter tells most names of one length apart.
            if known[known.len() - 1] == last | 0x20 && known.eq_ignore_ascii_case(name) {
                return id;
            }
        }
        match name.get(..8) {
            Some(prefix) if prefix.eq_ignore_ascii_case(b"x-envoy-") => HeaderId::XEnvoyOther,
            _ => HeaderId::Other,
        }
    }

    pub fn is_x_envoy(self) -> bool {
        IdSet::X_ENVOY.has(self)
    }

    /// Whether the id alone says the whole name.
    pub fn is_exact(self) -> bool {
        !matches!(self, HeaderId::Other | HeaderId::XEnvoyOther)
    }
}

/// A set of well-known names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdSet(u128);

impl IdSet {
    pub const fn of(ids: &[HeaderId]) -> IdSet {
        let (mut bits, mut i) = (0, 0);
        while i < ids.len() {
            bits |= 1 << ids[i] as u32;
            i += 1;
        }
        IdSet(bits)
    }

    /// Every name that begins with `x-envoy-`.
    pub const X_ENVOY: IdSet = IdSet(u128::MAX << HeaderId::XEnvoyAttemptCount as u32);

    pub const fn has(self, id: HeaderId) -> bool {
        self.0 & 1 << id as u32 != 0
    }

    pub const fn meets(self, other: IdSet) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn and(self, other: IdSet) -> IdSet {
        IdSet(self.0 | other.0)
    }

    pub fn add(&mut self, id: HeaderId) {
        self.0 |= 1 << id as u32;
    }
}

const _: () = assert!((HeaderId::XEnvoyOther as u32) < u128::BITS);

/// Repeated fields of these names become one in a request, joined with commas. envoy: observed on 1.40.0
pub const JOINED_IN_REQUEST: IdSet = {
    use HeaderId as H;
    IdSet::of(&[
        H::Accept,
        H::AcceptEncoding,
        H::AccessControlRequestHeaders,
        H::AccessControlRequestMethod,
        H::AccessControlRequestPrivateNetwork,
        H::Authorization,
        H::CacheControl,
        H::CdnLoop,
        H::Connection,
        H::ContentEncoding,
        H::ContentType,
        H::Expect,
        H::GrpcAcceptEncoding,
        H::GrpcTimeout,
        H::IfMatch,
        H::IfModifiedSince,
        H::IfNoneMatch,
        H::IfRange,
        H::IfUnmodifiedSince,
        H::Origin,
        H::Pragma,
        H::ProxyStatus,
        H::Referer,
        H::Te,
        H::Upgrade,
        H::UserAgent,
        H::Via,
        H::XClientTraceId,
        H::XEnvoyAttemptCount,
        H::XEnvoyDecoratorOperation,
        H::XEnvoyDownstreamServiceCluster,
        H::XEnvoyDownstreamServiceNode,
        H::XEnvoyExpectedRqTimeoutMs,
        H::XEnvoyExternalAddress,
        H::XEnvoyForceTrace,
        H::XEnvoyHedgeOnPerTryTimeout,
        H::XEnvoyInternal,
        H::XEnvoyIpTags,
        H::XEnvoyIsTimeoutRetry,
        H::XEnvoyMaxRetries,
        H::XEnvoyOriginalHost,
        H::XEnvoyOriginalPath,
        H::XEnvoyOriginalUrl,
        H::XEnvoyRetriableHeaderNames,
        H::XEnvoyRetriableStatusCodes,
        H::XEnvoyRetryGrpcOn,
        H::XEnvoyRetryOn,
        H::XEnvoyUpstreamAltStatName,
        H::XEnvoyUpstreamRqPerTryTimeoutMs,
        H::XEnvoyUpstreamRqTimeoutAltResponse,
        H::XEnvoyUpstreamRqTimeoutMs,
        H::XEnvoyUpstreamStreamDurationMs,
        H::XForwardedClientCert,
        H::XForwardedFor,
        H::XForwardedHost,
        H::XForwardedPort,
        H::XForwardedProto,
        H::XRequestId,
    ])
};

/// The same for responses.
pub const JOINED_IN_RESPONSE: IdSet = {
    use HeaderId as H;
    IdSet::of(&[
        H::AccessControlAllowCredentials,
        H::AccessControlAllowHeaders,
        H::AccessControlAllowMethods,
        H::AccessControlAllowOrigin,
        H::AccessControlAllowPrivateNetwork,
        H::AccessControlExposeHeaders,
        H::AccessControlMaxAge,
        H::Age,
        H::CacheControl,
        H::Connection,
        H::ContentEncoding,
        H::ContentType,
        H::Date,
        H::Etag,
        H::Expires,
        H::GrpcMessage,
        H::GrpcStatus,
        H::LastModified,
        H::Location,
        H::ProxyStatus,
        H::Server,
        H::Upgrade,
        H::Vary,
        H::Via,
        H::XEnvoyAttemptCount,
        H::XEnvoyDecoratorOperation,
        H::XEnvoyDegraded,
        H::XEnvoyImmediateHealthCheckFail,
        H::XEnvoyRatelimited,
        H::XEnvoyUpstreamCanary,
        H::XEnvoyUpstreamHealthcheckedCluster,
        H::XEnvoyUpstreamServiceTime,
        H::XRequestId,
    ])
};

/// The well-known names of one length: a name is compared with these few only. A test holds it complete.
fn same_length(length: usize) -> &'static [HeaderId] {
    use HeaderId as H;
    match length {
        2 => &[H::Te],
        3 => &[H::Age, H::Via],
        4 => &[H::Date, H::Etag, H::Host, H::Vary],
        6 => &[H::Accept, H::Cookie, H::Expect, H::Origin, H::Pragma, H::Server],
        7 => &[H::Expires, H::Referer, H::Trailer, H::Upgrade],
        8 => &[H::CdnLoop, H::IfMatch, H::IfRange, H::Location],
        10 => &[H::Connection, H::KeepAlive, H::SetCookie, H::UserAgent],
        11 => &[H::GrpcStatus],
        12 => &[H::ContentType, H::GrpcMessage, H::GrpcTimeout, H::ProxyStatus, H::XRequestId],
        13 => &[H::Authorization, H::CacheControl, H::IfNoneMatch, H::LastModified],
        14 => &[H::ContentLength],
        15 => &[H::AcceptEncoding, H::XForwardedFor, H::XEnvoyIpTags],
        16 => &[
            H::ContentEncoding,
            H::ProxyConnection,
            H::XForwardedHost,
            H::XForwardedPort,
            H::XEnvoyDegraded,
            H::XEnvoyInternal,
            H::XEnvoyRetryOn,
        ],
        17 => &[H::IfModifiedSince, H::TransferEncoding, H::XClientTraceId, H::XForwardedProto],
        18 => &[H::XEnvoyOverloaded],
        19 => &[H::IfUnmodifiedSince, H::XEnvoyForceTrace, H::XEnvoyMaxRetries, H::XEnvoyRatelimited],
        20 => &[H::GrpcAcceptEncoding, H::XEnvoyOriginalUrl],
        21 => &[H::XEnvoyAttemptCount, H::XEnvoyOriginalHost, H::XEnvoyOriginalPath, H::XEnvoyRetryGrpcOn],
        22 => &[H::AccessControlMaxAge],
        23 => &[H::XForwardedClientCert, H::XEnvoyUpstreamCanary],
        24 => &[H::XEnvoyExternalAddress, H::XEnvoyIsTimeoutRetry],
        27 => &[H::AccessControlAllowOrigin, H::XEnvoyDecoratorOperation],
        28 => &[H::AccessControlAllowHeaders, H::AccessControlAllowMethods],
        29 => &[H::AccessControlExposeHeaders, H::AccessControlRequestMethod, H::XEnvoyUpstreamServiceTime],
        30 => &[
            H::AccessControlRequestHeaders,
            H::XEnvoyExpectedRqTimeoutMs,
            H::XEnvoyRetriableHeaderNames,
            H::XEnvoyRetriableStatusCodes,
            H::XEnvoyUpstreamAltStatName,
            H::XEnvoyUpstreamRqTimeoutMs,
        ],
        31 => &[H::XEnvoyDownstreamServiceNode],
        32 => &[H::AccessControlAllowCredentials, H::XEnvoyHedgeOnPerTryTimeout],
        34 => &[H::XEnvoyDownstreamServiceCluster],
        35 => &[H::XEnvoyImmediateHealthCheckFail, H::XEnvoyUpstreamStreamDurationMs],
        36 => &[H::AccessControlAllowPrivateNetwork],
        38 => &[
            H::AccessControlRequestPrivateNetwork,
            H::XEnvoyUpstreamHealthcheckedCluster,
            H::XEnvoyUpstreamRqPerTryTimeoutMs,
        ],
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
        assert!(
            IdSet::X_ENVOY.has(HeaderId::of(b"x-envoy-attempt-count"))
                && !IdSet::X_ENVOY.has(HeaderId::XRequestId)
        );
    }
}
