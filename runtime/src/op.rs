//! What the kernel was asked and has answered, and whose a buffer is meanwhile.
//!
//! A socket's slot owns the chunks that are being sent until the kernel's last word about them, also when the
//! socket's owner is gone (the slot is then an orphan). A slot is free again when its owner is gone and no
//! operation is in flight.
//!
//! ```text
//! receive:  paused --arm--> armed --last completion--> paused
//!                             | cancel                   ^
//!                             v                          |
//!                         cancelling --last completion---+   (bytes that had arrived are queued, none is lost)
//! ```

use std::fmt;
use std::os::fd::{OwnedFd, RawFd};

use crate::buf::{Chunk, Chunks};
use crate::task::TaskId;

/// Why the network did not do what was asked. A value: who is to blame and what it means is the caller's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetError {
    Reset,
    Refused,
    TimedOut,
    BrokenPipe,
    Unreachable,
    /// EMFILE or ENFILE.
    NoDescriptors,
    /// The byte budget or the kernel's memory is used up.
    NoBuffers,
    Canceled,
    Os(i32),
}

impl NetError {
    pub(crate) fn from_os(code: i32) -> NetError {
        match code {
            libc::ECONNRESET => NetError::Reset,
            libc::ECONNREFUSED => NetError::Refused,
            libc::ETIMEDOUT => NetError::TimedOut,
            libc::EPIPE => NetError::BrokenPipe,
            libc::EHOSTUNREACH | libc::ENETUNREACH => NetError::Unreachable,
            libc::EMFILE | libc::ENFILE => NetError::NoDescriptors,
            libc::ENOBUFS | libc::ENOMEM => NetError::NoBuffers,
            libc::ECANCELED => NetError::Canceled,
            other => NetError::Os(other),
        }
    }

    pub(crate) fn last() -> NetError {
        NetError::from_os(last_os_error())
    }

    /// The errno that stands for it.
    pub fn os_code(self) -> i32 {
        match self {
            NetError::Reset => libc::ECONNRESET,
            NetError::Refused => libc::ECONNREFUSED,
            NetError::TimedOut => libc::ETIMEDOUT,
            NetError::BrokenPipe => libc::EPIPE,
            NetError::Unreachable => libc::EHOSTUNREACH,
            NetError::NoDescriptors => libc::EMFILE,
            NetError::NoBuffers => libc::ENOBUFS,
            NetError::Canceled => libc::ECANCELED,
            NetError::Os(code) => code,
        }
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.os_code()).to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

impl std::error::Error for NetError {}

pub(crate) fn last_os_error() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Which group of buffers the next receive is armed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecvClass {
    #[default]
    Small,
    Large,
}

/// A slot's number, and which of its owners in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SockId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Generations are carried in 24 bits of an operation's user data.
const GENERATION_MASK: u32 = (1 << 24) - 1;

impl SockId {
    /// As the low 56 bits of a word that the kernel hands back.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the word apart")]
    pub(crate) fn from_bits(word: u64) -> SockId {
        SockId { index: word as u32, generation: (word >> 32) as u32 & GENERATION_MASK }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecvState {
    Paused,
    Armed,
    Cancelling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectState {
    Idle,
    Running,
    Done(Result<(), NetError>),
}

/// One socket, from its making until the kernel's last word.
#[derive(Debug)]
pub(crate) struct Sock {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) generation: u32,
    pub(crate) recv: RecvState,
    pub(crate) armed_class: RecvClass,
    pub(crate) class: RecvClass,
    /// The receive is being cancelled, and shall be armed again then.
    pub(crate) rearm: bool,
    pub(crate) orphan: bool,
    pub(crate) reset_on_close: bool,
    /// Waits for a buffer to come free before it can be armed again.
    pub(crate) starved: bool,
    pub(crate) queue: Chunks,
    /// The receive side has ended: `Ok` by the peer's FIN.
    pub(crate) end: Option<Result<(), NetError>>,
    pub(crate) recv_task: TaskId,
    /// The owner's number for this socket, noted when something comes to it.
    pub(crate) watcher: Option<u32>,
    pub(crate) send_task: TaskId,
    pub(crate) sending: Option<Chunks>,
    pub(crate) sent: Option<Result<(), NetError>>,
    pub(crate) connect: ConnectState,
}

impl Sock {
    fn new(generation: u32) -> Sock {
        Sock {
            fd: None,
            generation,
            recv: RecvState::Paused,
            armed_class: RecvClass::Small,
            class: RecvClass::Small,
            rearm: false,
            orphan: false,
            reset_on_close: false,
            starved: false,
            queue: Chunks::new(),
            end: None,
            recv_task: TaskId::NONE,
            watcher: None,
            send_task: TaskId::NONE,
            sending: None,
            sent: None,
            connect: ConnectState::Idle,
        }
    }

    /// Whether the kernel may still speak about this slot.
    pub(crate) fn in_flight(&self) -> bool {
        self.recv != RecvState::Paused || self.sending.is_some() || self.connect == ConnectState::Running
    }
}

/// Slots by number; freed ones are taken again with the next generation.
#[derive(Debug, Default)]
pub(crate) struct Socks {
    slots: Vec<Sock>,
    free: Vec<u32>,
}

impl Socks {
    pub(crate) fn take(&mut self) -> SockId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Sock::new(0));
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 sockets")
        });
        let slot = &mut self.slots[index as usize];
        *slot = Sock::new((slot.generation + 1) & GENERATION_MASK);
        SockId { index, generation: slot.generation }
    }

    pub(crate) fn give(&mut self, id: SockId) {
        let slot = &mut self.slots[id.index as usize];
        assert_eq!(slot.generation, id.generation, "a slot is given back by its owner");
        assert!(!slot.in_flight(), "a slot is given back after the kernel's last word");
        *slot = Sock::new(slot.generation);
        self.free.push(id.index);
    }

    /// The slot, if it still has that owner.
    pub(crate) fn find(&mut self, id: SockId) -> Option<&mut Sock> {
        self.slots.get_mut(id.index as usize).filter(|s| s.generation == id.generation)
    }

    pub(crate) fn at(&mut self, id: SockId) -> &mut Sock {
        let slot = &mut self.slots[id.index as usize];
        assert_eq!(slot.generation, id.generation, "a live handle's slot is its own");
        slot
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sock> {
        self.slots.iter_mut()
    }

    #[cfg(feature = "sim")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sock> {
        self.slots.iter()
    }

    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// The kernel's word on an operation, the same from every driver.
#[derive(Debug)]
pub(crate) enum Completion {
    /// Bytes, the end (`Ok(None)`), or why not; `more`: the receive is still armed.
    Recv {
        id: SockId,
        result: Result<Option<Chunk>, NetError>,
        more: bool,
    },
    /// Bytes that the kernel took, of those in the slot.
    Sent {
        id: SockId,
        result: Result<usize, NetError>,
    },
    Connected {
        id: SockId,
        result: Result<(), NetError>,
    },
    Accepted {
        listener: u32,
        result: Result<OwnedFd, NetError>,
        more: bool,
    },
    /// Another thread rang.
    Woken,
}

/// What one gathered send hands to the kernel; lives in the driver until the kernel took it.
pub(crate) struct Gather {
    pub(crate) header: libc::msghdr,
    pub(crate) parts: Vec<libc::iovec>,
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gather({} parts)", self.parts.len())
    }
}

impl Gather {
    pub(crate) fn empty() -> Gather {
        // WHY: msghdr has private padding on some targets, so it cannot be written out.
        // SAFETY: all-zero is a valid msghdr: no name, no control data, no parts.
        let header = unsafe { std::mem::zeroed() };
        Gather { header, parts: Vec::with_capacity(crate::limits::SEND_CHUNKS) }
    }

    /// Points at the first chunks of a send.
    pub(crate) fn fill(&mut self, chunks: &Chunks) {
        self.parts.clear();
        for chunk in chunks.iter().take(crate::limits::SEND_CHUNKS) {
            self.parts.push(libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() });
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = self.parts.len() as _;
    }
}

pub(crate) type Fd = RawFd;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_not_taken_for_its_next_owners() {
        let mut socks = Socks::default();
        let (a, b) = (socks.take(), socks.take());
        assert_eq!((a.index, b.index, socks.in_use()), (0, 1, 2));
        socks.give(a);
        let heir = socks.take();
        assert_eq!((heir.index, heir.generation), (0, a.generation + 1));
        assert!(socks.find(a).is_none() && socks.find(heir).is_some());
        assert_eq!(SockId::from_bits(heir.to_bits()), heir);
        // The kind of an operation stands in the bits above.
        assert_eq!(SockId::from_bits(heir.to_bits() | 0xff << 56), heir);
    }

    #[test]
    #[should_panic(expected = "after the kernel's last word")]
    fn a_slot_in_flight_is_not_given_back() {
        let mut socks = Socks::default();
        let id = socks.take();
        socks.at(id).recv = RecvState::Cancelling;
        socks.give(id);
    }

    #[test]
    fn errors_keep_their_number() {
        for code in 1..134 {
            let known = NetError::from_os(code);
            // Some numbers say the same.
            let same = match code {
                libc::ENETUNREACH => libc::EHOSTUNREACH,
                libc::ENFILE => libc::EMFILE,
                libc::ENOMEM => libc::ENOBUFS,
                other => other,
            };
            assert_eq!(known.os_code(), same);
            assert!(!known.to_string().contains("os error"), "{known}");
        }
        assert_eq!(NetError::from_os(libc::ECONNRESET).to_string(), "Connection reset by peer");
    }
}
