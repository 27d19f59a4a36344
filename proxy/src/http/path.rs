//! Checks of a request's path. It rewrites nothing.

/// Why a path is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// It does not begin with a slash: `OPTIONS *`, or a URL where those are not taken.
    NotAbsolute,
    /// It holds a `#`: what follows belongs to the client and never goes over the wire.
    Fragment,
}

/// The first fault of a path and query.
//= envoy: http_reject_path_with_fragment
pub fn fault(path: &[u8]) -> Option<PathFault> {
    if path.first() != Some(&b'/') {
        return Some(PathFault::NotAbsolute);
    }
    memchr::memchr(b'#', path).map(|_| PathFault::Fragment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        assert_eq!(fault(b"/a?b"), None);
        assert_eq!(fault(b"*"), Some(PathFault::NotAbsolute));
        assert_eq!(fault(b"?x#y"), Some(PathFault::NotAbsolute));
        assert_eq!(fault(b"/a#b"), Some(PathFault::Fragment));
    }
}
