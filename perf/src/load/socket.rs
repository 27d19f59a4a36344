//! Sockets of the load generator: non-blocking, no delay, on the loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
    listen as listen_on, recv, send, socket_with, sockopt,
};

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// A listening socket outside the range of ephemeral ports.
pub(super) fn listen() -> io::Result<(OwnedFd, SocketAddrV4)> {
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port()?))?;
    listen_on(&fd, 4096)?;
    let at = SocketAddrV4::try_from(getsockname(&fd)?)?;
    Ok((fd, at))
}

/// A port that nobody holds now, below the ephemeral ones: a port that the kernel also gives to clients may be taken
/// before the proxy binds it.
pub fn free_port() -> io::Result<u16> {
    let mut seed = crate::clock::now();
    for _ in 0..1000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let port = 18_000 + u16::try_from((seed >> 33) % 14_000).unwrap_or(0);
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
        if bind(&fd, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok() && listen_on(&fd, 1).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port between 18000 and 32000"))
}

/// Starts to connect; the socket is writable when it is done.
pub(super) fn start_connect(to: SocketAddrV4) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    match connect(&fd, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let fd = accept_with(listener, FLAGS).ok()?;
    let _ = sockopt::set_tcp_nodelay(&fd, true);
    Some(fd)
}

/// What one read gave.
pub(super) enum Got {
    Bytes(usize),
    Nothing,
    End,
    Failed(Errno),
}

#[inline]
pub(super) fn read(fd: &OwnedFd, into: &mut [u8]) -> Got {
    match recv(fd, into, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Got::End,
        Ok((_, n)) => Got::Bytes(n),
        Err(Errno::AGAIN) => Got::Nothing,
        Err(error) => Got::Failed(error),
    }
}

/// Sends from `offset` on until all is sent or the socket is full; answers the new offset.
#[inline]
pub(super) fn write(fd: &OwnedFd, bytes: &[u8], mut offset: usize) -> Result<usize, Errno> {
    while offset < bytes.len() {
        match send(fd, &bytes[offset..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => offset += n,
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(offset)
}

/// The value of `content-length` in a head; `None` without one, an error for a chunked message.
pub(super) fn content_length(head: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut rest = head;
    let mut length = None;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.len() > 15 && line[0] | 0x20 == b'c' && line[..15].eq_ignore_ascii_case(b"content-length:") {
            let digits = line[15..].trim_ascii();
            length = Some(digits.iter().fold(0usize, |n, d| n * 10 + usize::from(d.wrapping_sub(b'0'))));
        } else if line.len() > 18
            && line[0] | 0x20 == b't'
            && line[..18].eq_ignore_ascii_case(b"transfer-encoding:")
        {
            return Err("a chunked message where a length was sent");
        }
    }
    Ok(length)
}
