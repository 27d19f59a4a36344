//! The io_uring driver: multishot accept and receive, buffers provided in two rings, one submit-and-wait a turn.
//!
//! Invariant: memory that the kernel may read or write lives in this value or in the socket's slot: bytes and
//! buffer rings until the operation's last completion, headers and addresses until the operation is submitted (then
//! the kernel has its own copy). The ring is dropped before all of it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd as RingFd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use crate::addr::SocketAddress;
use crate::buf::{Chunk, Chunks, Group};
use crate::limits;
use crate::listen::{self, RawAddress};
use crate::op::{Completion, Fd, Gather, NetError, RecvClass, SockId};
use crate::spin::Spin;

const SMALL: u16 = 0;
const LARGE: u16 = 1;

const RECV_SMALL: u64 = 1;
const RECV_LARGE: u64 = 2;
const SEND: u64 = 3;
const CONNECT: u64 = 4;
const ACCEPT: u64 = 5;
const CANCEL: u64 = 6;
const WAKE: u64 = 7;

fn user_data(kind: u64, id: SockId) -> u64 {
    kind << 56 | id.to_bits()
}

fn recv_kind(class: RecvClass) -> u64 {
    match class {
        RecvClass::Small => RECV_SMALL,
        RecvClass::Large => RECV_LARGE,
    }
}

/// A ring through which free buffers reach the kernel.
struct BufRing {
    group: Rc<Group>,
    memory: NonNull<u8>,
    entries: u16,
    tail: u16,
}

impl std::fmt::Debug for BufRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufRing({:?}, tail {})", self.group, self.tail)
    }
}

impl BufRing {
    fn layout(entries: u16) -> Layout {
        let bytes = usize::from(entries) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes, 4096).expect("a ring of at most 2^15 entries")
    }

    fn new(ring: &IoUring, group: Rc<Group>, id: u16, entries: u16) -> Result<BufRing, std::io::Error> {
        // WHY: the kernel wants page-aligned memory that we and it both write.
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(Self::layout(entries)) };
        let memory = NonNull::new(memory).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let this = BufRing { group, memory, entries, tail: 0 };
        // WHY: only a registered ring can be named by a receive.
        // SAFETY: the memory holds `entries` entries and lives until `this` is dropped, after the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(memory.as_ptr() as u64, entries, id, 0)?;
        }
        Ok(this)
    }

    /// Hands every free buffer of the group to the kernel.
    fn publish(&mut self) {
        if self.group.free_count() == 0 {
            return;
        }
        let base = self.memory.cast::<BufRingEntry>();
        let len = u32::try_from(self.group.buffer_bytes).expect("a buffer is below 4 GiB");
        while let Some(id) = self.group.pop_free() {
            let at = usize::from(self.tail & (self.entries - 1));
            // WHY: the entry lies in memory shared with the kernel.
            // SAFETY: `at` is below `entries`.
            let mut entry = unsafe { base.add(at) };
            // WHY: as above.
            // SAFETY: the kernel reads entries only below the published tail; no other reference exists.
            let entry = unsafe { entry.as_mut() };
            entry.set_addr(self.group.memory_of(id) as u64);
            entry.set_len(len);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
        }
        // WHY: the ring's tail lies in its first entry.
        // SAFETY: `base` points to that entry.
        let tail = unsafe { BufRingEntry::tail(base.as_ptr()) };
        // WHY: the kernel reads the tail concurrently.
        // SAFETY: it is aligned, lives as long as the ring, and is only written here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // WHY: allocated by hand above.
        // SAFETY: same layout; the ring that could read it is dropped first (`Uring::drop`).
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.entries)) };
    }
}

/// The ring of one shard. Made on the shard's own thread: no other may submit to it.
pub(crate) struct Uring {
    ring: ManuallyDrop<IoUring>,
    small: BufRing,
    large: BufRing,
    /// Message headers of gathered sends that are not submitted yet: the first `gathered`; the others are spare.
    #[expect(clippy::vec_box, reason = "the kernel reads a header where it lies")]
    gathers: Vec<Box<Gather>>,
    gathered: usize,
    /// Addresses of connects that are not submitted yet.
    #[expect(clippy::vec_box, reason = "the kernel reads an address where it lies")]
    connecting: Vec<Box<RawAddress>>,
    wake: OwnedFd,
    wake_word: Box<u64>,
    wake_armed: bool,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring({:?}, {:?})", self.small, self.large)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Closes that were pushed last must not be lost with the ring.
        self.close_ring();
    }
}

impl Uring {
    /// The kernel forgets every operation, in its own time: what they may write to must outlive them.
    fn close_ring(&mut self) {
        let _as_far_as_it_goes = self.ring.submit();
        // WHY: the ring goes before the memory that it knows of.
        // SAFETY: called once, by `drop`, or by `scuttle`, after which the value is neither used nor dropped.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
    }

    /// Ends the ring alone. The value must not be used any more, nor dropped.
    pub(crate) fn scuttle(&mut self) {
        self.close_ring();
    }

    /// Builds the ring with every feature that the driver rests on, or says which one is missing.
    pub(crate) fn new(
        small: Rc<Group>,
        large: Rc<Group>,
        wake: OwnedFd,
        spin: bool,
    ) -> Result<Uring, String> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all();
        builder.setup_cqsize(limits::CQ_ENTRIES);
        if spin {
            builder.setup_taskrun_flag();
        }
        let ring = builder.build(limits::SQ_ENTRIES).map_err(|e| format!("io_uring_setup: {e}"))?;
        let params = ring.params();
        if !params.is_feature_ext_arg() || !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
            return Err("the kernel's io_uring lacks EXT_ARG, NODROP or SUBMIT_STABLE".to_owned());
        }
        let provided = |group: Rc<Group>, id, entries: usize| {
            let entries = u16::try_from(entries).expect("checked in limits.rs");
            BufRing::new(&ring, group, id, entries).map_err(|e| format!("provided buffer rings: {e}"))
        };
        let small = provided(small, SMALL, limits::SMALL_BUFS_MAX)?;
        let large = provided(large, LARGE, limits::LARGE_BUFS_MAX)?;
        Ok(Uring {
            ring: ManuallyDrop::new(ring),
            small,
            large,
            gathers: Vec::new(),
            gathered: 0,
            connecting: Vec::new(),
            wake,
            wake_word: Box::new(0),
            wake_armed: false,
        })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        self.make_room();
        // WHY: the ring cannot know how long an entry's memory lives.
        // SAFETY: whatever an entry points to lives in this value until it is submitted, or in the socket's slot
        // until its last completion.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("room was made");
    }

    /// A full queue is submitted early. EBUSY and EINTR are normal: it is tried again.
    fn make_room(&mut self) {
        while self.ring.submission().is_full() {
            let _retried = self.ring.submit();
            self.recycle();
        }
    }

    /// The kernel has its own copy of headers and addresses once it took the entries that name them.
    fn recycle(&mut self) {
        if self.ring.submission().is_empty() {
            self.gathered = 0;
            self.connecting.clear();
        }
    }

    /// `once`: one buffer and no more. Otherwise the kernel may fill 32 before anybody can stop it.
    pub(crate) fn arm_recv(&mut self, id: SockId, fd: Fd, class: RecvClass, once: bool) {
        let group = match class {
            RecvClass::Small => SMALL,
            RecvClass::Large => LARGE,
        };
        let entry = if once {
            let any = opcode::Recv::new(RingFd(fd), std::ptr::null_mut(), 0).buf_group(group);
            any.build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(RingFd(fd), group).build()
        };
        self.push(&entry.user_data(user_data(recv_kind(class), id)));
    }

    pub(crate) fn cancel_recv(&mut self, id: SockId, class: RecvClass) {
        self.cancel(user_data(recv_kind(class), id));
    }

    pub(crate) fn cancel_send(&mut self, id: SockId) {
        self.cancel(user_data(SEND, id));
    }

    pub(crate) fn cancel_connect(&mut self, id: SockId) {
        self.cancel(user_data(CONNECT, id));
    }

    fn cancel(&mut self, target: u64) {
        let entry = opcode::AsyncCancel::new(target).build();
        self.push(&entry.user_data(CANCEL << 56));
    }

    pub(crate) fn send(&mut self, id: SockId, fd: Fd, chunks: &Chunks) {
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let mut parts = chunks.iter();
        let (first, second) = (parts.next().expect("a send has bytes"), parts.next());
        let entry = if second.is_none() {
            let len = u32::try_from(first.len()).expect("a chunk is below 4 GiB");
            opcode::Send::new(RingFd(fd), first.as_ptr(), len).flags(FLAGS).build()
        } else {
            self.make_room();
            if self.gathers.len() == self.gathered {
                self.gathers.push(Box::new(Gather::empty()));
            }
            let gather = &mut self.gathers[self.gathered];
            self.gathered += 1;
            gather.fill(chunks);
            let header = &raw const gather.header;
            opcode::SendMsg::new(RingFd(fd), header).flags(FLAGS.cast_unsigned()).build()
        };
        self.push(&entry.user_data(user_data(SEND, id)));
    }

    pub(crate) fn connect(&mut self, id: SockId, fd: Fd, to: &SocketAddress) -> Result<(), NetError> {
        let raw = Box::new(RawAddress::new(to)?);
        if matches!(to, SocketAddress::Unix(_)) {
            // Such a connect is over at once; the ring would have a thread of its own wait for room in a full queue.
            listen::set_nonblocking(fd, true);
            let connected = listen::connect(fd, &raw);
            listen::set_nonblocking(fd, false);
            connected?;
            self.push(&opcode::Nop::new().build().user_data(user_data(CONNECT, id)));
            return Ok(());
        }
        let entry = opcode::Connect::new(RingFd(fd), raw.as_ptr(), raw.len()).build();
        self.make_room();
        self.connecting.push(raw);
        self.push(&entry.user_data(user_data(CONNECT, id)));
        Ok(())
    }

    /// Leaves the close to the ring: a system call less. It runs before whatever is pushed later.
    pub(crate) fn close(&mut self, fd: OwnedFd) {
        let entry = opcode::Close::new(RingFd(fd.into_raw_fd())).build();
        self.push(&entry.user_data(CANCEL << 56));
    }

    /// One accept for every connection, or, from a socket that others accept from, one for the next: the kernel wakes
    /// whoever has waited longest, and a multishot accept never leaves the front of that queue.
    pub(crate) fn accept(&mut self, listener: u32, fd: Fd, shared: bool) {
        let entry = if shared {
            let no_address = std::ptr::null_mut();
            opcode::Accept::new(RingFd(fd), no_address, std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build()
        } else {
            opcode::AcceptMulti::new(RingFd(fd)).flags(libc::SOCK_CLOEXEC).build()
        };
        self.push(&entry.user_data(ACCEPT << 56 | u64::from(listener)));
    }

    pub(crate) fn cancel_accept(&mut self, listener: u32) {
        self.cancel(ACCEPT << 56 | u64::from(listener));
    }

    pub(crate) fn group(&self, class: RecvClass) -> &Rc<Group> {
        match class {
            RecvClass::Small => &self.small.group,
            RecvClass::Large => &self.large.group,
        }
    }

    fn arm_wake(&mut self) {
        if !self.wake_armed {
            self.wake_armed = true;
            let word: *mut u64 = &raw mut *self.wake_word;
            let entry = opcode::Read::new(RingFd(self.wake.as_raw_fd()), word.cast(), 8).build();
            self.push(&entry.user_data(WAKE << 56));
        }
    }

    /// One turn: submits, waits at most `wait` (`None`: until something happens), and collects.
    pub(crate) fn turn(&mut self, wait: Option<Duration>, spin: &mut Spin, out: &mut Vec<Completion>) {
        self.small.publish();
        self.large.publish();
        self.arm_wake();
        let watch = spin.before(wait);
        let wait = if watch.is_zero() { wait } else { self.watch(wait, watch) };
        if spin.is_wanted() && (!watch.is_zero() || wait != Some(Duration::ZERO)) {
            spin.learn(wait == Some(Duration::ZERO));
        }
        let answer = match wait {
            None => self.ring.submit_and_wait(1),
            Some(Duration::ZERO) => self.submit_and_look(),
            Some(wait) => {
                let ts = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&ts))
            }
        };
        self.recycle();
        if let Err(error) = answer {
            // A time-out, a signal, or a full completion queue: collect and go on. Anything else is our own fault.
            let code = error.raw_os_error().unwrap_or(0);
            let normal = matches!(code, libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN);
            assert!(normal, "io_uring_enter: {error}");
        }
        self.collect(out);
    }

    /// Submits, and lets the kernel finish what it can at once: no timer is set, and nobody sleeps.
    fn submit_and_look(&mut self) -> std::io::Result<usize> {
        let entries = u32::try_from(self.ring.submission().len()).expect("at most SQ_ENTRIES");
        // WHY: deferred work runs only in a call that asks for events, and the safe call asks only when it waits.
        // SAFETY: no argument is passed, and entries are sound since `push`.
        unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(entries, 0, EnterFlags::GETEVENTS.bits(), None)
        }
    }

    /// Watches the completion queue from user space for a while before sleeping.
    fn watch(&mut self, wait: Option<Duration>, watch: Duration) -> Option<Duration> {
        let _submitted_now = self.ring.submit();
        let begun = crate::time::monotonic();
        loop {
            for _ in 0..64 {
                if !self.ring.completion().is_empty() || self.ring.submission().taskrun() {
                    return Some(Duration::ZERO);
                }
                std::hint::spin_loop();
            }
            let spent = crate::time::monotonic() - begun;
            if spent >= watch {
                return wait.map(|w| w.saturating_sub(spent));
            }
        }
    }

    fn collect(&mut self, out: &mut Vec<Completion>) {
        let Uring { ring, small, large, wake_armed, .. } = self;
        for cqe in ring.completion() {
            let data = cqe.user_data();
            let id = SockId::from_bits(data);
            let more = cqueue::more(cqe.flags());
            match data >> 56 {
                RECV_SMALL => out.push(received(id, &cqe, &small.group, more)),
                RECV_LARGE => out.push(received(id, &cqe, &large.group, more)),
                SEND => out.push(Completion::Sent { id, result: amount(cqe.result()) }),
                CONNECT => out.push(Completion::Connected { id, result: amount(cqe.result()).map(|_| ()) }),
                ACCEPT => {
                    let fd = cqe.result();
                    let result = amount(fd).map(|_| {
                        // WHY: the kernel answers with a bare number.
                        // SAFETY: a successful accept gives a new descriptor that nobody else owns.
                        unsafe { OwnedFd::from_raw_fd(fd) }
                    });
                    out.push(Completion::Accepted { listener: id.index, result, more });
                }
                WAKE => {
                    *wake_armed = false;
                    out.push(Completion::Woken);
                }
                _ => {} // the completion of a cancel or of a close says nothing new
            }
        }
    }
}

fn amount(result: i32) -> Result<usize, NetError> {
    usize::try_from(result).map_err(|_| NetError::from_os(-result))
}

fn received(id: SockId, cqe: &cqueue::Entry, group: &Rc<Group>, more: bool) -> Completion {
    let chunk: Option<Chunk> = cqueue::buffer_select(cqe.flags())
        .map(|buffer| group.lend(buffer, usize::try_from(cqe.result()).unwrap_or(0)));
    let result = match amount(cqe.result()) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(chunk),
        Err(error) => Err(error),
    };
    Completion::Recv { id, result, more }
}
