//! Making sockets: listening ones for the control thread, connecting ones for shards, and their options.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::addr::SocketAddress;
use crate::op::{Fd, NetError};

/// How a listening socket is made.
#[derive(Debug, Clone, Default)]
pub struct BindOptions {
    /// One socket for each shard on the same port.
    pub reuse_port: bool,
    /// Connections that wait to be accepted; 0: the kernel's bound.
    pub backlog: u32,
    /// An IPv6 socket that takes IPv4 too.
    pub ipv4_compat: bool,
    /// The mode of a Unix socket's path, e.g. 0o600; `None`: by the umask.
    pub mode: Option<u32>,
}

/// How a connecting socket is made.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    pub source: Option<SocketAddr>,
    pub keepalive: Option<Keepalive>,
}

/// TCP keep-alive; `None`: the kernel's setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keepalive {
    pub probes: Option<u32>,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
}

/// The length of a structure, as the socket calls want it.
pub(crate) fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small structure")
}

fn family_of(domain: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(domain).expect("a small number")
}

/// An address in the kernel's form.
pub(crate) struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl RawAddress {
    pub(crate) fn new(address: &SocketAddress) -> Result<RawAddress, NetError> {
        // WHY: the kernel wants one of several structures behind one pointer.
        // SAFETY: all-zero is a valid sockaddr_storage.
        let storage: libc::sockaddr_storage = unsafe { zeroed() };
        let mut this = RawAddress { storage, len: 0 };
        match address {
            SocketAddress::Ip(SocketAddr::V4(a)) => this.write(libc::sockaddr_in {
                sin_family: family_of(libc::AF_INET),
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddress::Ip(SocketAddr::V6(a)) => this.write(libc::sockaddr_in6 {
                sin6_family: family_of(libc::AF_INET6),
                sin6_port: a.port().to_be(),
                sin6_flowinfo: a.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                sin6_scope_id: a.scope_id(),
            }),
            SocketAddress::Unix(path) => {
                let mut name = path.as_bytes().to_vec();
                let is_abstract = name.first() == Some(&b'@');
                if is_abstract {
                    name[0] = 0;
                }
                // WHY: as above.
                // SAFETY: all-zero is a valid sockaddr_un.
                let mut un: libc::sockaddr_un = unsafe { zeroed() };
                if name.is_empty() || name.len() >= un.sun_path.len() {
                    return Err(NetError::Os(libc::ENAMETOOLONG));
                }
                un.sun_family = family_of(libc::AF_UNIX);
                for (to, from) in un.sun_path.iter_mut().zip(&name) {
                    *to = *from as libc::c_char;
                }
                this.write(un);
                let named = size_of::<libc::sa_family_t>() + name.len() + usize::from(!is_abstract);
                this.len = libc::socklen_t::try_from(named).expect("a path of at most 108 bytes");
            }
        }
        Ok(this)
    }

    fn write<T>(&mut self, value: T) {
        assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>());
        // WHY: sockaddr_storage exists to be written as one of its kinds.
        // SAFETY: it is large and aligned enough for every kind.
        unsafe { (&raw mut self.storage).cast::<T>().write(value) };
        self.len = len_of::<T>();
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    /// Asks the kernel for an address of `fd`.
    fn ask(
        fd: Fd,
        call: unsafe extern "C" fn(Fd, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
    ) -> Option<SocketAddress> {
        // WHY: as above.
        // SAFETY: all-zero is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        let mut len = len_of::<libc::sockaddr_storage>();
        // WHY: getsockname and getpeername alike.
        // SAFETY: the pointers are to a storage of ours and its length.
        let answer = unsafe { call(fd, (&raw mut storage).cast(), &raw mut len) };
        (answer == 0).then(|| RawAddress { storage, len }.read()).flatten()
    }

    fn read(&self) -> Option<SocketAddress> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // WHY: the family says which kind was written.
                // SAFETY: the kernel wrote a sockaddr_in.
                let a = unsafe { self.as_ptr().cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddress::Ip(SocketAddrV4::new(ip, u16::from_be(a.sin_port)).into()))
            }
            libc::AF_INET6 => {
                // WHY: as above.
                // SAFETY: the kernel wrote a sockaddr_in6.
                let a = unsafe { self.as_ptr().cast::<libc::sockaddr_in6>().read() };
                let (ip, port) = (Ipv6Addr::from(a.sin6_addr.s6_addr), u16::from_be(a.sin6_port));
                Some(SocketAddress::Ip(SocketAddrV6::new(ip, port, 0, a.sin6_scope_id).into()))
            }
            libc::AF_UNIX => {
                // WHY: as above.
                // SAFETY: the kernel wrote a sockaddr_un.
                let a = unsafe { self.as_ptr().cast::<libc::sockaddr_un>().read() };
                let named = (self.len as usize).saturating_sub(size_of::<libc::sa_family_t>());
                let name: Vec<u8> = a.sun_path.iter().take(named).map(|c| c.to_ne_bytes()[0]).collect();
                let text = match name.split_first() {
                    Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
                    _ => String::from_utf8_lossy(name.split(|&b| b == 0).next().unwrap_or(&[])).into_owned(),
                };
                Some(SocketAddress::unix(&text))
            }
            _ => None,
        }
    }
}

pub(crate) fn local_addr(fd: Fd) -> Option<SocketAddress> {
    RawAddress::ask(fd, libc::getsockname)
}

pub(crate) fn peer_addr(fd: Fd) -> Option<SocketAddress> {
    RawAddress::ask(fd, libc::getpeername)
}

/// The address that a listening socket got, e.g. when it was bound to port 0.
pub fn bound_address(fd: &OwnedFd) -> Option<SocketAddress> {
    local_addr(fd.as_raw_fd())
}

fn socket(domain: i32) -> Result<OwnedFd, NetError> {
    // WHY: sockets with options before bind have no wrapper in std.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(NetError::last());
    }
    // WHY: the descriptor is ours to close.
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_int(fd: Fd, level: i32, option: i32, value: i32) -> Result<(), NetError> {
    let len = len_of::<i32>();
    // WHY: socket options have no wrapper in std.
    // SAFETY: the pointer is to an int of ours.
    let answer = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
    if answer == 0 { Ok(()) } else { Err(NetError::last()) }
}

/// Whether the socket is one of several on its port, so that each shard has its own.
pub(crate) fn has_reuse_port(fd: Fd) -> bool {
    let (mut on, mut len) = (0i32, len_of::<i32>());
    // WHY: socket options have no wrapper in std.
    // SAFETY: the pointers are to an int of ours and its length.
    let answer = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, (&raw mut on).cast(), &raw mut len)
    };
    answer == 0 && on != 0
}

/// Small messages leave at once. Not an error where it means nothing (Unix sockets).
pub(crate) fn set_nodelay(fd: Fd) {
    let _not_tcp = set_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
}

pub(crate) fn set_nonblocking(fd: Fd, on: bool) {
    // WHY: the two drivers want sockets of opposite kinds.
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if flags >= 0 && wanted != flags {
        // WHY: as above.
        // SAFETY: no pointers.
        let _cannot_fail_on_an_open_descriptor = unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) };
    }
}

/// Tells the peer that nothing more comes.
pub(crate) fn shutdown_write(fd: Fd) {
    // WHY: half-close has no safe wrapper on a bare descriptor.
    // SAFETY: no pointers. A socket that is not connected any more answers an error that says nothing new.
    let _gone = unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Ends both directions at once, for every holder of the socket.
pub(crate) fn shutdown_both(fd: Fd) {
    // WHY: as above.
    // SAFETY: as above.
    let _gone = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// The close will be a reset.
pub(crate) fn linger_reset(fd: Fd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = len_of::<libc::linger>();
    // WHY: only this option makes a close a reset.
    // SAFETY: the pointer is to a linger of ours.
    let _closed_anyway =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
}

fn bind(fd: Fd, to: &SocketAddress) -> Result<(), NetError> {
    let raw = RawAddress::new(to)?;
    // WHY: sockets with options before bind have no wrapper in std.
    // SAFETY: the address lives across the call.
    let answer = unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) };
    if answer == 0 { Ok(()) } else { Err(NetError::last()) }
}

/// Connects: over, or `EINPROGRESS`. A Unix listener whose queue is full answers `EAGAIN`, and tells nobody of room.
/// The descriptor must be non-blocking.
pub(crate) fn connect(fd: Fd, to: &RawAddress) -> Result<(), NetError> {
    // WHY: std connects only sockets that it has made itself.
    // SAFETY: the address lives across the call.
    let answer = unsafe { libc::connect(fd, to.as_ptr(), to.len()) };
    if answer == 0 { Ok(()) } else { Err(NetError::last()) }
}

/// A bound, listening socket. A Unix path that nobody listens on any more is removed first.
pub fn bind_listen(to: &SocketAddress, options: &BindOptions) -> io::Result<OwnedFd> {
    let os = |e: NetError| io::Error::from_raw_os_error(e.os_code());
    let domain = match to {
        SocketAddress::Ip(a) if a.is_ipv4() => libc::AF_INET,
        SocketAddress::Ip(_) => libc::AF_INET6,
        SocketAddress::Unix(_) => libc::AF_UNIX,
    };
    let owned = socket(domain).map_err(os)?;
    let fd = owned.as_raw_fd();
    match to {
        SocketAddress::Ip(a) => {
            set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(os)?;
            if options.reuse_port {
                set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(os)?;
            }
            if a.is_ipv6() {
                let only = i32::from(!options.ipv4_compat);
                set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only).map_err(os)?;
            }
            set_nodelay(fd); // accepted sockets inherit it
        }
        SocketAddress::Unix(_) => {
            if let Some(path) = to.path() {
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
    }
    bind(fd, to).map_err(os)?;
    if let (Some(mode), Some(path)) = (options.mode, to.path()) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    let backlog = if options.backlog == 0 {
        libc::SOMAXCONN
    } else {
        i32::try_from(options.backlog).unwrap_or(i32::MAX)
    };
    // WHY: as above.
    // SAFETY: no pointers.
    let answer = unsafe { libc::listen(fd, backlog) };
    if answer == 0 { Ok(owned) } else { Err(io::Error::last_os_error()) }
}

/// A socket that is about to connect.
pub(crate) fn stream_socket(to: &SocketAddress, options: &ConnectOptions) -> Result<OwnedFd, NetError> {
    let domain = match to {
        SocketAddress::Ip(a) if a.is_ipv4() => libc::AF_INET,
        SocketAddress::Ip(_) => libc::AF_INET6,
        SocketAddress::Unix(_) => libc::AF_UNIX,
    };
    let owned = socket(domain)?;
    let fd = owned.as_raw_fd();
    if let Some(keep) = options.keepalive {
        set_int(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        let seconds = |d: Duration| i32::try_from(d.as_secs()).unwrap_or(i32::MAX);
        if let Some(probes) = keep.probes {
            set_int(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, i32::try_from(probes).unwrap_or(i32::MAX))?;
        }
        if let Some(idle) = keep.idle {
            set_int(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds(idle))?;
        }
        if let Some(interval) = keep.interval {
            set_int(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds(interval))?;
        }
    }
    if let Some(source) = options.source {
        let same_family = matches!(to, SocketAddress::Ip(a) if a.is_ipv4() == source.is_ipv4());
        if same_family {
            bind(fd, &SocketAddress::Ip(source))?;
        }
    }
    Ok(owned)
}

/// This host's own address: that of its first interface that is up and not loopback, else loopback.
pub fn host_address() -> IpAddr {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // WHY: std does not list interfaces.
    // SAFETY: the kernel side fills the pointer, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return IpAddr::V4(Ipv4Addr::LOCALHOST);
    }
    let mut found = None;
    let mut at = list;
    while !at.is_null() && found.is_none() {
        // WHY: a linked list of the C library.
        // SAFETY: not null, and it lives until freeifaddrs.
        let interface = unsafe { &*at };
        if !interface.ifa_addr.is_null() {
            // WHY: the family says which kind the address is.
            // SAFETY: not null; an address begins with its family.
            let family = unsafe { i32::from((*interface.ifa_addr).sa_family) };
            if family == libc::AF_INET {
                // WHY: as above.
                // SAFETY: the family says that it is a sockaddr_in.
                let a = unsafe { interface.ifa_addr.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
                found = (!ip.is_loopback()).then_some(IpAddr::V4(ip));
            }
        }
        at = interface.ifa_next;
    }
    // WHY: getifaddrs allocated it.
    // SAFETY: freed once; nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ip(text: &str) -> SocketAddress {
        SocketAddress::Ip(text.parse().expect("an address"))
    }

    fn option(fd: &OwnedFd, level: i32, name: i32) -> i32 {
        let (mut value, mut len) = (0i32, len_of::<i32>());
        // WHY: socket options have no wrapper in std.
        // SAFETY: the pointers are to an int of ours and its length.
        let answer =
            unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
        assert_eq!(answer, 0);
        value
    }

    #[test]
    fn addresses_come_back_as_they_went() {
        let hidden = format!("@selvedge-listen-{}", std::process::id());
        for address in [ip("127.0.0.1:0"), ip("[::1]:0"), SocketAddress::unix(&hidden)] {
            let fd = bind_listen(&address, &BindOptions::default()).expect("bound");
            let bound = bound_address(&fd).expect("an address");
            assert_eq!(bound.ip(), address.ip());
            assert!(bound.port().is_none_or(|port| port > 0) && (bound.port().is_some() || bound == address));
            assert!(!has_reuse_port(fd.as_raw_fd()));
        }
        for bad in [String::new(), "x".repeat(108)] {
            let refused = RawAddress::new(&SocketAddress::unix(&bad)).err();
            assert_eq!(refused, Some(NetError::Os(libc::ENAMETOOLONG)), "{} bytes", bad.len());
        }
    }

    #[test]
    fn one_port_for_several_sockets_only_where_asked_for() {
        let several = BindOptions { reuse_port: true, ..BindOptions::default() };
        let first = bind_listen(&ip("127.0.0.1:0"), &several).expect("bound");
        let taken = bound_address(&first).expect("an address");
        assert!(has_reuse_port(first.as_raw_fd()));
        let second = bind_listen(&taken, &several).expect("bound too");
        assert_eq!(bound_address(&second), Some(taken.clone()));
        let refused = bind_listen(&taken, &BindOptions::default()).expect_err("not asked for");
        assert_eq!(refused.raw_os_error(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn a_path_that_nobody_listens_on_any_more_is_taken_over() {
        let path = std::env::temp_dir().join(format!("selvedge-listen-{}.sock", std::process::id()));
        let address = SocketAddress::unix(path.to_str().expect("a path"));
        let options = BindOptions { mode: Some(0o640), ..BindOptions::default() };
        drop(bind_listen(&address, &options).expect("bound"));
        let _listens = bind_listen(&address, &options).expect("bound over the old path");
        assert_eq!(std::fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o640);
        UnixStream::connect(&path).expect("somebody listens");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_connecting_socket_has_what_was_asked_for() {
        let keepalive = Keepalive { probes: Some(3), idle: Some(Duration::from_secs(7)), interval: None };
        let source = "127.0.0.1:0".parse().expect("an address");
        let options = ConnectOptions { source: Some(source), keepalive: Some(keepalive) };
        let fd = stream_socket(&ip("127.0.0.1:9"), &options).expect("a socket");
        assert_eq!(option(&fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        assert_eq!(option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT), 3);
        assert_eq!(option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 7);
        assert!(local_addr(fd.as_raw_fd()).and_then(|a| a.port()).is_some_and(|port| port > 0), "bound");
        // A source of the other family means nothing here.
        let other = stream_socket(&ip("[::1]:9"), &options).expect("a socket");
        assert_eq!(local_addr(other.as_raw_fd()).and_then(|a| a.port()), Some(0));
    }
}
