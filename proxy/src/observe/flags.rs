//! Response flags: why a stream did not go as its sender hoped, in Envoy's words.

macro_rules! flags {
    ($($flag:ident = $number:literal $short:literal $long:literal,)*) => {
        /// A set of response flags, in the order in which they were added: five bits for each, the first lowest.
        //= envoy: they are printed in that order
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Flags(u64);

        impl Flags {
            $(pub const $flag: Flags = Flags($number + 1);)*
            /// Every flag with its short and long name.
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

const BITS: u32 = 5;
/// More causes than one stream can have; further ones are not added.
const FLAGS_MAX: u32 = u64::BITS / BITS;

impl Flags {
    fn each(self) -> impl Iterator<Item = Flags> {
        std::iter::successors(Some(self.0), |rest| Some(rest >> BITS))
            .take_while(|rest| *rest != 0)
            .map(|rest| Flags(rest & ((1 << BITS) - 1)))
    }

    pub fn add(&mut self, other: Flags) {
        for flag in other.each() {
            let used = (u64::BITS - self.0.leading_zeros()).div_ceil(BITS);
            if !self.has(flag) && used < FLAGS_MAX {
                self.0 |= flag.0 << (used * BITS);
            }
        }
    }

    pub fn has(self, other: Flags) -> bool {
        other.each().any(|flag| self.each().any(|own| own == flag))
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Short or long names, joined with commas.
    pub fn write(self, long: bool, out: &mut Vec<u8>) {
        for (n, flag) in self.each().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            let names = Flags::ALL.iter().find(|(known, ..)| *known == flag);
            let (_, short_name, long_name) = names.expect("every flag is in the list");
            out.extend_from_slice(if long { long_name } else { short_name }.as_bytes());
        }
    }
}

#[test]
fn flags_keep_their_order() {
    let mut flags = Flags::default();
    assert!(flags.is_empty() && !flags.has(Flags::FAILED_LOCAL_HEALTH_CHECK));
    let mut both = Flags::DELAY_INJECTED;
    both.add(Flags::UPSTREAM_CONNECTION_FAILURE);
    flags.add(Flags::OVERLOAD_MANAGER);
    flags.add(both);
    flags.add(Flags::DELAY_INJECTED);
    let mut out = Vec::new();
    flags.write(false, &mut out);
    assert_eq!(String::from_utf8_lossy(&out), "OM,DI,UF");
    assert!(flags.has(Flags::DELAY_INJECTED) && !flags.has(Flags::FAULT_INJECTED));
    for (flag, ..) in Flags::ALL {
        flags.add(*flag);
    }
    assert_eq!(flags.each().count(), 12, "what fits");
}
