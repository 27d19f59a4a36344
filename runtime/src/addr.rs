//! Addresses of sockets: IP and Unix, as Envoy prints them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Where a socket is, or shall be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketAddress {
    Ip(SocketAddr),
    /// A path, or a name in the abstract space when it begins with `@`. Empty: an unnamed peer.
    Unix(Arc<str>),
}

impl SocketAddress {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            SocketAddress::Ip(a) => Some(a.ip()),
            SocketAddress::Unix(_) => None,
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            SocketAddress::Ip(a) => Some(a.port()),
            SocketAddress::Unix(_) => None,
        }
    }

    pub fn unix(path: &str) -> SocketAddress {
        SocketAddress::Unix(Arc::from(path))
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            SocketAddress::Unix(p) if !p.is_empty() && !p.starts_with('@') => Some(PathBuf::from(&**p)),
            _ => None,
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::Ip(a) => a.fmt(f),
            SocketAddress::Unix(p) => f.write_str(p),
        }
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(a: SocketAddr) -> Self {
        SocketAddress::Ip(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_show_what_they_are() {
        let ip = |s: &str| SocketAddress::Ip(s.parse().expect("an address"));
        for (address, shown, port, path) in [
            (ip("127.0.0.1:80"), "127.0.0.1:80", Some(80), None),
            (ip("[::1]:443"), "[::1]:443", Some(443), None),
            (SocketAddress::unix("/run/x.sock"), "/run/x.sock", None, Some("/run/x.sock")),
            (SocketAddress::unix("@name"), "@name", None, None),
            (SocketAddress::unix(""), "", None, None),
        ] {
            assert_eq!((address.to_string().as_str(), address.port()), (shown, port));
            assert_eq!((address.path(), address.ip().is_some()), (path.map(PathBuf::from), port.is_some()));
        }
    }
}
