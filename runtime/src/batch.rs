//! Reads and writes of non-blocking sockets, many in one system call.
//!
//! Linux AIO runs such operations within `io_submit`, one after the other, and leaves their results in memory that it
//! shares with us; a container's default seccomp profile allows it where it forbids io_uring. Where the kernel gives
//! no context (`fs.aio-max-nr`, `CONFIG_AIO`), each operation is a call of its own.
//!
//! Invariant: the kernel touches an operation's memory only within [`Batch::run`]; outside it nothing is in flight.
//! A write to a closed connection raises SIGPIPE, which Rust's runtime ignores from the start of the process.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits;
use crate::op::{Fd, NetError};

/// `struct iocb` of linux/aio_abi.h, little-endian.
#[cfg(target_endian = "little")]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Operation {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: u16,
    fd: u32,
    buf: u64,
    len: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

const _: () = assert!(size_of::<Operation>() == 64);

const READ: u16 = 0;
const WRITE: u16 = 1;
const WRITE_GATHERED: u16 = 8;

/// `struct io_event`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Event {
    data: u64,
    operation: u64,
    result: i64,
    more: i64,
}

/// The head of the ring of events, which lies where the context's number says.
#[repr(C)]
struct Ring {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    header_bytes: u32,
}

const RING_MAGIC: u32 = 0xa10a_10a1;

/// The kernel's side: a context of Linux AIO.
#[derive(Debug)]
struct Context(u64);

impl Context {
    fn new() -> Option<Context> {
        let mut number = 0u64;
        // WHY: the libc crate has no wrapper for it.
        // SAFETY: the kernel writes one word of ours.
        let answer = unsafe { libc::syscall(libc::SYS_io_setup, limits::BATCH_OPERATIONS, &raw mut number) };
        let context = (answer == 0).then_some(Context(number))?;
        // An unknown layout of the ring is one that we do not read.
        (context.ring().magic == RING_MAGIC && context.ring().incompatible == 0).then_some(context)
    }

    fn ring(&self) -> &Ring {
        // WHY: reading the results here saves a system call.
        // SAFETY: the number of a context is the address where the kernel mapped its ring, until it is destroyed.
        unsafe { &*std::ptr::with_exposed_provenance::<Ring>(usize::try_from(self.0).expect("an address")) }
    }

    /// Runs operations from the first on; how many, or the error of the first.
    fn submit(&self, operations: &[*const Operation]) -> Result<usize, i32> {
        // WHY: the libc crate has no wrapper for it.
        // SAFETY: each operation names memory that lives across the call; sockets are done with it when it returns.
        let answer =
            unsafe { libc::syscall(libc::SYS_io_submit, self.0, operations.len(), operations.as_ptr()) };
        usize::try_from(answer).map_err(|_| crate::op::last_os_error())
    }

    /// Takes `n` results: each stands where its operation's number says.
    fn collect(&self, n: usize, results: &mut [i64]) {
        let ring = self.ring();
        let events = (&raw const *ring).cast::<u8>();
        let mut head = ring.head.load(Ordering::Relaxed);
        for _ in 0..n {
            assert!(
                head != ring.tail.load(Ordering::Acquire),
                "an operation on a socket is over when io_submit is"
            );
            let at = ring.header_bytes as usize + head as usize * size_of::<Event>();
            // WHY: as in `ring`.
            // SAFETY: events follow the header, and `head` is below their number.
            let event = unsafe { events.add(at) }.cast::<Event>();
            // WHY: as above.
            // SAFETY: the kernel wrote this event before it moved the tail past it.
            let event = unsafe { event.read_unaligned() };
            results[usize::try_from(event.data).expect("a number of ours")] = event.result;
            head = if head + 1 == ring.entries { 0 } else { head + 1 };
        }
        ring.head.store(head, Ordering::Release);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // WHY: the libc crate has no wrapper for it.
        // SAFETY: nothing refers to the ring any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// Operations that are collected, and then run in one go.
pub(crate) struct Batch {
    context: Option<Context>,
    operations: Vec<Operation>,
    pointers: Vec<*const Operation>,
    results: Vec<i64>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({:?}, {} operations)", self.context, self.operations.len())
    }
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch { context: Context::new(), ..Batch::one_by_one() }
    }

    /// As where the kernel gives no context.
    fn one_by_one() -> Batch {
        Batch { context: None, operations: Vec::new(), pointers: Vec::new(), results: Vec::new() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.operations.len() == limits::BATCH_OPERATIONS
    }

    fn push(&mut self, opcode: u16, fd: Fd, buf: *const u8, len: usize) {
        assert!(!self.is_full(), "a batch that is full is run first");
        self.operations.push(Operation {
            data: self.operations.len() as u64,
            opcode,
            fd: fd.cast_unsigned(),
            buf: buf.expose_provenance() as u64,
            len: len as u64,
            ..Operation::default()
        });
    }

    /// The memory must live, and be nobody else's, until the batch was run.
    pub(crate) fn read(&mut self, fd: Fd, into: *mut u8, len: usize) {
        self.push(READ, fd, into, len);
    }

    /// The bytes must live until the batch was run.
    pub(crate) fn write(&mut self, fd: Fd, bytes: &[u8]) {
        self.push(WRITE, fd, bytes.as_ptr(), bytes.len());
    }

    /// The parts and their bytes must live until the batch was run.
    pub(crate) fn write_gathered(&mut self, fd: Fd, parts: &[libc::iovec]) {
        self.push(WRITE_GATHERED, fd, parts.as_ptr().cast(), parts.len());
    }

    /// Runs all of it; the results in order.
    pub(crate) fn run(&mut self) -> impl ExactSizeIterator<Item = Result<usize, NetError>> + '_ {
        let n = self.operations.len();
        self.results.clear();
        self.results.resize(n, 0);
        let mut at = 0;
        if let Some(context) = self.context.as_ref().filter(|_| n >= limits::BATCH_WORTH) {
            self.pointers.clear();
            self.pointers.extend(self.operations.iter().map(|operation| &raw const *operation));
            // It stops in front of what it cannot take: that one gets a call of its own below.
            while at < n
                && let Ok(done) = context.submit(&self.pointers[at..])
            {
                context.collect(done, &mut self.results);
                at += done;
            }
        }
        for (operation, result) in self.operations[at..].iter().zip(&mut self.results[at..]) {
            *result = run_alone(operation);
        }
        self.operations.clear();
        self.results.iter().map(|&result| {
            usize::try_from(result)
                .map_err(|_| NetError::from_os(i32::try_from(-result).unwrap_or(libc::EIO)))
        })
    }
}

fn run_alone(operation: &Operation) -> i64 {
    let fd = operation.fd.cast_signed();
    let len = usize::try_from(operation.len).expect("it was a usize");
    let buf = usize::try_from(operation.buf).expect("it was an address");
    let done = match operation.opcode {
        READ => {
            let into = std::ptr::with_exposed_provenance_mut(buf);
            // WHY: the bytes land where the chunk will view them.
            // SAFETY: the memory holds `len` bytes and is nobody else's.
            unsafe { libc::recv(fd, into, len, 0) }
        }
        WRITE => {
            let from = std::ptr::with_exposed_provenance(buf);
            // WHY: the bytes go from where they lie.
            // SAFETY: they live across the call.
            unsafe { libc::send(fd, from, len, libc::MSG_NOSIGNAL) }
        }
        _ => {
            let parts = std::ptr::with_exposed_provenance(buf);
            // WHY: one call takes head and body from where they lie.
            // SAFETY: the parts and what they point to live across the call.
            unsafe { libc::writev(fd, parts, i32::try_from(len).expect("few parts")) }
        }
    };
    if done < 0 { -i64::from(crate::op::last_os_error()) } else { done as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().expect("a pair");
        a.set_nonblocking(true).expect("a flag");
        (a, b)
    }

    /// The same with and without a context.
    fn both(test: impl Fn(Batch)) {
        test(Batch::new());
        test(Batch::one_by_one());
    }

    #[test]
    fn results_come_in_order_and_errors_do_not_stop_the_others() {
        both(|mut batch| {
            let (full, mut peer) = pair();
            let (empty, _silent) = pair();
            let (over, gone) = pair();
            drop(gone);
            peer.write_all(b"hello").expect("room");
            let (mut first, mut second, mut third) = ([0u8; 16], [0u8; 16], [0u8; 16]);
            batch.read(full.as_raw_fd(), first.as_mut_ptr(), 16);
            batch.read(empty.as_raw_fd(), second.as_mut_ptr(), 16);
            batch.read(-1, second.as_mut_ptr(), 16);
            batch.read(over.as_raw_fd(), third.as_mut_ptr(), 16);
            batch.write(over.as_raw_fd(), b"too late");
            batch.write(full.as_raw_fd(), b"answer");
            let results: Vec<_> = batch.run().collect();
            assert_eq!(
                results,
                [
                    Ok(5),
                    Err(NetError::from_os(libc::EAGAIN)),
                    Err(NetError::from_os(libc::EBADF)),
                    Ok(0),
                    Err(NetError::from_os(libc::EPIPE)),
                    Ok(6)
                ]
            );
            assert_eq!(&first[..5], b"hello");
            let mut answer = [0u8; 6];
            peer.read_exact(&mut answer).expect("the answer");
            assert_eq!(&answer, b"answer");
        });
    }

    #[test]
    fn gathered_parts_go_in_order_and_a_batch_is_used_again() {
        both(|mut batch| {
            let (a, mut peer) = pair();
            for round in 0..1000u32 {
                let texts = [round.to_string(), "-".to_owned(), "end".to_owned()];
                let parts: Vec<_> = texts
                    .iter()
                    .map(|t| libc::iovec { iov_base: t.as_ptr().cast_mut().cast(), iov_len: t.len() })
                    .collect();
                batch.write_gathered(a.as_raw_fd(), &parts);
                batch.write(a.as_raw_fd(), b".");
                let whole = texts.concat() + ".";
                assert_eq!(batch.run().collect::<Vec<_>>(), [Ok(whole.len() - 1), Ok(1)]);
                let mut got = vec![0u8; whole.len()];
                peer.read_exact(&mut got).expect("what was sent");
                assert_eq!(got, whole.as_bytes());
            }
        });
    }
}
