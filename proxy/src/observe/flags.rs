//! Response flags: why a stream did not go as its sender hoped, in Envoy's words.

macro_rules! flags {
    ($($flag:ident = $bit:literal $short:literal $long:literal,)*) => {
        /// A set of response flags.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Flags(u32);

        impl Flags {
            $(pub const $flag: Flags = Flags(1 << $bit);)*
            /// Every flag with its short and long name, in the order in which Envoy prints them.
            pub const ALL: &'static [(Flags, &'static str, &'static str)] =
                &[$((Flags::$flag, $short, $long),)*];
        }
    };
}

flags! {
    FAILED_LOCAL_HEALTH_CHECK = 0 "LH" "FailedLocalHealthCheck",
    NO_HEALTHY_UPSTREAM = 1 "UH" "NoHealthyUpstream",
    UPSTREAM_REQUEST_TIMEOUT = 2 "UT" "UpstreamRequestTimeout",
    LOCAL_RESET = 3 "LR" "LocalReset",
    UPSTREAM_REMOTE_RESET = 4 "UR" "UpstreamRemoteReset",
    UPSTREAM_CONNECTION_FAILURE = 5 "UF" "UpstreamConnectionFailure",
    UPSTREAM_CONNECTION_TERMINATION = 6 "UC" "UpstreamConnectionTermination",
    UPSTREAM_OVERFLOW = 7 "UO" "UpstreamOverflow",
    NO_ROUTE_FOUND = 8 "NR" "NoRouteFound",
    DELAY_INJECTED = 9 "DI" "DelayInjected",
    FAULT_INJECTED = 10 "FI" "FaultInjected",
    RATE_LIMITED = 11 "RL" "RateLimited",
    UNAUTHORIZED_EXTERNAL_SERVICE = 12 "UAEX" "UnauthorizedExternalService",
    DOWNSTREAM_CONNECTION_TERMINATION = 14 "DC" "DownstreamConnectionTermination",
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15 "URX" "UpstreamRetryLimitExceeded",
    STREAM_IDLE_TIMEOUT = 16 "SI" "StreamIdleTimeout",
    INVALID_ENVOY_REQUEST_HEADERS = 17 "IH" "InvalidEnvoyRequestHeaders",
    DOWNSTREAM_PROTOCOL_ERROR = 18 "DPE" "DownstreamProtocolError",
    UPSTREAM_MAX_STREAM_DURATION = 19 "UMSDR" "UpstreamMaxStreamDurationReached",
    DURATION_TIMEOUT = 22 "DT" "DurationTimeout",
    UPSTREAM_PROTOCOL_ERROR = 23 "UPE" "UpstreamProtocolError",
    NO_CLUSTER_FOUND = 24 "NC" "NoClusterFound",
    OVERLOAD_MANAGER = 25 "OM" "OverloadManagerTerminated",
}

impl Flags {
    pub fn add(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Short or long names, joined with commas.
    pub fn write(self, long: bool, out: &mut Vec<u8>) {
        let mut first = true;
        for (flag, short_name, long_name) in Flags::ALL {
            if self.has(*flag) {
                if !first {
                    out.push(b',');
                }
                first = false;
                out.extend_from_slice(if long { long_name } else { short_name }.as_bytes());
            }
        }
    }
}
