//! Every bound of the runtime, derived.

/// Submission queue entries: what one turn may ask of the kernel before it submits early.
pub const SQ_ENTRIES: u32 = 1024;
/// Completion queue entries: a burst from every connection that one turn can serve, with room for multishot tails.
pub const CQ_ENTRIES: u32 = 16 * 1024;
/// Bytes of a small buffer: a head, or a quarter of a common body. Smaller ones cost more per body byte.
pub const SMALL_BYTES: usize = 16 * 1024;
/// Small buffers at start: one for the first bytes of each connection that becomes readable in one turn.
pub const SMALL_BUFS: usize = 256;
/// Small buffers at most: a provided ring of this many entries; growth happens when it ran dry.
/// stat: `server.selvedge.small_buffers_dry`
pub const SMALL_BUFS_MAX: usize = 2048;
/// Bytes of a large buffer: body bytes, where 64 KiB is the cheapest size measured.
pub const LARGE_BYTES: usize = 64 * 1024;
/// Large buffers at start: few, since the whole ring cycles through the cache.
pub const LARGE_BUFS: usize = 16;
/// Large buffers at most: as many connections move a large body at full speed. stat: `server.selvedge.large_buffers_dry`
pub const LARGE_BUFS_MAX: usize = 128;
/// Capacity of received, unread buffers that one socket may hold before its receive is paused: two large ones.
pub const RECV_CREDIT: usize = 2 * LARGE_BYTES;
/// Bytes of a chunk that are copied behind the last one: less than what a gathered send costs more than a plain one.
pub const JOIN_BYTES: usize = 512;
/// Chunks in one gathered send.
pub const SEND_CHUNKS: usize = 32;
/// Reads of one socket in one turn of the epoll driver, so that one sender cannot starve the others.
pub const READS_PER_TURN: usize = 4;
/// Operations that the epoll driver runs in one system call; more are several calls. The kernel counts twice as many
/// against `fs.aio-max-nr` (65,536 unless set).
pub const BATCH_OPERATIONS: usize = 128;
/// Operations from which on one call for all costs less than a call for each.
pub const BATCH_WORTH: usize = 2;
/// Connections accepted in one turn of the epoll driver.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Readiness events taken in one turn of the epoll driver.
pub const EVENTS_PER_TURN: usize = 1024;
/// Completions below which the epoll driver hands over what it knows before it asks the kernel again.
pub const SMALL_TURN: usize = 4;
/// How long accepting stops when descriptors ran out and none of ours closes, in milliseconds.
/// stat: `server.selvedge.accept_pauses`
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// How long receives that found no buffer wait at most before they look again, in milliseconds. They are fed when
/// a buffer comes back; this is for one that came back while the kernel was answering.
pub const STARVED_PAUSE_MS: u64 = 10;
/// Unread letters of control to one shard: each kind once, and again.
pub const CONTROL_LETTERS: usize = 16;
/// Generations of tasks that may be born of the dropping of others at the end of a shard: a request's end opens a
/// connection for the next one, and that one's task starts nothing.
pub const LAST_WORDS: usize = 3;
/// Share of the buffers in use from which a connection holds one at a time: 500 peers that read slowly then leave most
/// of them to the others.
pub const TIGHT_SHARE: (usize, usize) = (1, 8);
/// Share of the buffers in use from which new requests are refused: the rest is for what has begun.
/// envoy: an overload manager that is configured. stat: `server.selvedge.requests_shed`
pub const SHORT_SHARE: (usize, usize) = (7, 8);
/// One part in so many of the budget is left to heads, which are copied into blocks of their own.
pub const HEADS_SHARE: usize = 8;
/// The byte budget of a shard unless configured: all buffers come out of it.
pub const BUDGET_BYTES: usize = 512 * 1024 * 1024;
/// The smallest byte budget of a shard that is worth a start: its first buffers (5 MiB), and as much for heads and growth.
pub const BUDGET_MIN: usize = 10 * 1024 * 1024;

const _: () =
    assert!(SMALL_BUFS_MAX.is_power_of_two() && SMALL_BUFS_MAX <= 1 << 15, "a provided ring's entries");
const _: () =
    assert!(LARGE_BUFS_MAX.is_power_of_two() && LARGE_BUFS_MAX <= 1 << 15, "a provided ring's entries");
const _: () = assert!(EVENTS_PER_TURN <= i32::MAX as usize, "a number that epoll_wait takes");
const _: () =
    assert!(TIGHT_SHARE.0 * SHORT_SHARE.1 < SHORT_SHARE.0 * TIGHT_SHARE.1, "one comes before the other");
const _: () = assert!(SHORT_SHARE.0 < SHORT_SHARE.1 && HEADS_SHARE > 1, "parts of a whole");
const _: () =
    assert!(BUDGET_MIN >= SMALL_BUFS * SMALL_BYTES + LARGE_BUFS * LARGE_BYTES, "the first buffers fit");
const _: () = assert!(BUDGET_MIN <= BUDGET_BYTES);
const _: () = assert!(SMALL_BUFS <= SMALL_BUFS_MAX && LARGE_BUFS <= LARGE_BUFS_MAX);
