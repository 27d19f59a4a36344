//! Reads the small messages that appear everywhere: durations, addresses, fractions, whether a field is set.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3 as kind;
use envoy_types::pb::google::protobuf;
use prost::Message;
use selvedge_runtime::SocketAddress;

use crate::config::rejection::{At, Fault};
use crate::route::matchers::Fraction;

/// Whether a field carries a value.
pub trait Set {
    fn is_set(&self) -> bool;
}

impl<T> Set for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> Set for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "the decoder's type; on the control side, never iterated in order"
)]
impl<K, V> Set for std::collections::HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl Set for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl Set for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl Set for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl Set for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

/// Refuses fields that this proxy knows and does not obey.
macro_rules! refuse_set {
    ($at:expr, $name:literal, $message:expr, [$($field:ident),* $(,)?]) => {
        $(
            if $crate::config::values::Set::is_set(&$message.$field) {
                return Err($at.field($name, stringify!($field)).not_implemented());
            }
        )*
    };
}
pub(crate) use refuse_set;

/// A duration in whole milliseconds, as Envoy reads most of them.
pub fn duration(value: &protobuf::Duration, at: &At<'_>) -> Result<Duration, Fault> {
    if value.seconds < 0 || value.nanos < 0 {
        return Err(at.refuse(format!(
            "Invalid duration: Expected positive duration: seconds: {} nanos: {}",
            value.seconds, value.nanos
        )));
    }
    let (seconds, nanos) = (value.seconds.unsigned_abs(), value.nanos.unsigned_abs());
    if nanos >= 1_000_000_000 || seconds > 315_576_000_000 {
        return Err(at.refuse("Invalid duration: Duration out-of-range"));
    }
    Ok(Duration::from_secs(seconds) + Duration::from_millis(u64::from(nanos / 1_000_000)))
}

pub fn duration_or(
    value: Option<&protobuf::Duration>,
    default: Duration,
    at: &At<'_>,
) -> Result<Duration, Fault> {
    value.map_or(Ok(default), |v| duration(v, at))
}

/// A time-out whose zero means none.
pub fn timeout(
    value: Option<&protobuf::Duration>,
    default: Option<Duration>,
    at: &At<'_>,
) -> Result<Option<Duration>, Fault> {
    match value {
        None => Ok(default),
        Some(value) => Ok(Some(duration(value, at)?).filter(|d| !d.is_zero())),
    }
}

/// A time-out that overrides an outer one: not set, or switched off, or a duration.
pub fn overriding(
    value: Option<&protobuf::Duration>,
    at: &At<'_>,
) -> Result<Option<Option<Duration>>, Fault> {
    value.map(|v| timeout(Some(v), None, at)).transpose()
}

pub fn fraction(value: &kind::FractionalPercent, at: &At<'_>) -> Result<Fraction, Fault> {
    let denominator = match value.denominator {
        0 => 100,
        1 => 10_000,
        2 => 1_000_000,
        _ => {
            let here = at.field("FractionalPercent", "denominator");
            return Err(here.violates("value must be one of the defined enum values"));
        }
    };
    Ok(Fraction { numerator: u64::from(value.numerator), denominator })
}

/// Decodes the message inside an `Any`.
pub fn unpack<M: Message + Default>(any: &protobuf::Any, at: &At<'_>) -> Result<M, Fault> {
    M::decode(&any.value[..]).map_err(|_| at.refuse(format!("Unable to unpack as {}", type_name(any))))
}

pub fn type_name(any: &protobuf::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or(&any.type_url)
}

/// An address as configured; a host may be a name that somebody has to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Known(SocketAddress),
    Name { host: String, port: u16 },
}

/// What a Unix socket's path may be long, its end included.
const UNIX_PATH_BYTES: usize = 108;

/// An address with its constraints checked. `at` is the field that holds it.
pub fn place(address: &core::Address, at: &At<'_>) -> Result<Place, Fault> {
    use core::address::Address as Kind;
    match &address.address {
        Some(Kind::SocketAddress(socket)) => {
            let here = at.field("Address", "socket_address");
            socket_place(socket, &here)
        }
        Some(Kind::Pipe(pipe)) => {
            let here = at.field("Address", "pipe");
            if pipe.path.is_empty() {
                return Err(here
                    .field("Pipe", "path")
                    .violates("value length must be at least 1 characters"));
            }
            if pipe.mode > 0o777 {
                return Err(here.field("Pipe", "mode").violates("value must be less than or equal to 511"));
            }
            if !pipe.path.starts_with('@') && pipe.path.len() >= UNIX_PATH_BYTES {
                return Err(here.refuse(format!(
                    "Path \"{}\" exceeds maximum UNIX domain socket path size of {UNIX_PATH_BYTES}.",
                    pipe.path
                )));
            }
            Ok(Place::Known(SocketAddress::unix(&pipe.path)))
        }
        Some(Kind::EnvoyInternalAddress(_)) => {
            Err(at.field("Address", "envoy_internal_address").not_implemented())
        }
        None => Err(at.lacks("address")),
    }
}

pub fn socket_place(socket: &core::SocketAddress, at: &At<'_>) -> Result<Place, Fault> {
    use core::socket_address::PortSpecifier;
    if socket.address.is_empty() {
        return Err(at
            .field("SocketAddress", "address")
            .violates("value length must be at least 1 characters"));
    }
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).map_err(|_| {
            at.field("SocketAddress", "port_value").violates("value must be less than or equal to 65535")
        })?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(at.field("SocketAddress", "named_port").not_implemented());
        }
        None => return Err(at.lacks("port_specifier")),
    };
    refuse_set!(at, "SocketAddress", socket, [protocol, resolver_name, network_namespace_filepath]);
    Ok(match socket.address.parse::<IpAddr>() {
        Ok(ip) => Place::Known(SocketAddress::Ip(SocketAddr::new(ip, port))),
        Err(_) => Place::Name { host: socket.address.clone(), port },
    })
}

/// An address that must be a number or a path.
pub fn known_place(address: &core::Address, at: &At<'_>) -> Result<SocketAddress, Fault> {
    known(place(address, at)?, at)
}

pub fn known(place: Place, at: &At<'_>) -> Result<SocketAddress, Fault> {
    match place {
        Place::Known(address) => Ok(address),
        Place::Name { host, .. } => Err(at.refuse(format!("malformed IP address: {host}"))),
    }
}

/// Whether a value is free of what ends a header: NUL, LF, CR.
pub fn header_safe(value: &str, at: &At<'_>) -> Result<(), Fault> {
    if value.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r')) {
        return Err(at.violates(r#"value does not match regex pattern "^[^\x00\n\r]*$""#));
    }
    Ok(())
}
