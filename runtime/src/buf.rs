//! Bytes of a shard: chunks, the blocks they look into, the budget they are charged to.
//!
//! A block is one of three kinds: a buffer of a group (lent by the kernel side for one turn), a heap block
//! charged to the byte budget, or immutable bytes shared with the configuration. A chunk is a counted view of a
//! block. Counts are plain cells: chunks never leave their shard.
//!
//! Invariant: a group's buffer is either with the group or viewed by at least one chunk, never both.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use crate::limits;

/// A shard's allowance of buffer bytes.
#[derive(Debug, Clone)]
pub struct Budget(Rc<BudgetCells>);

#[derive(Debug)]
struct BudgetCells {
    used: Cell<usize>,
    limit: usize,
    strain: Cell<Strain>,
}

/// How much of the buffers is in use, as of the last turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Strain {
    #[default]
    None,
    /// So much that everyone holds one buffer where two or more would be faster.
    Tight,
    /// So much that what is left is for what has begun.
    Short,
}

impl Budget {
    pub fn new(limit: usize) -> Budget {
        Budget(Rc::new(BudgetCells { used: Cell::new(0), limit, strain: Cell::default() }))
    }

    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Whether `more` bytes still fit.
    pub fn fits(&self, more: usize) -> bool {
        self.0.used.get().saturating_add(more) <= self.0.limit
    }

    #[inline]
    pub fn strain(&self) -> Strain {
        self.0.strain.get()
    }

    /// Looks at the groups' buffers again.
    pub(crate) fn observe(&self, small: &Group, large: &Group) {
        let heap = self.used().saturating_sub(small.owned() + large.owned());
        // Large buffers are few, and small ones stand in for them: it is these that nobody can do without.
        let room = self.limit().saturating_sub(large.owned() + heap).min(small.max * small.buffer_bytes);
        let lent = small.lent.get() * small.buffer_bytes;
        let past = |(part, of): (usize, usize)| lent * of > room * part || heap * of > self.limit() * part;
        self.0.strain.set(if past(limits::SHORT_SHARE) {
            Strain::Short
        } else if past(limits::TIGHT_SHARE) {
            Strain::Tight
        } else {
            Strain::None
        });
    }

    /// A chunk that will be kept: where buffers are in demand in a block of its own size.
    pub fn keep(&self, chunk: Chunk) -> Chunk {
        if self.strain() == Strain::None { chunk } else { chunk.compact(self) }
    }

    fn charge(&self, bytes: usize) {
        self.0.used.set(self.0.used.get() + bytes);
    }

    fn release(&self, bytes: usize) {
        self.0.used.set(self.0.used.get() - bytes);
    }
}

struct Block {
    refs: Cell<u32>,
    data: NonNull<u8>,
    capacity: u32,
    origin: Origin,
}

enum Origin {
    /// A buffer of a group; the group's pointer is counted while the buffer is lent.
    Group {
        group: *const Group,
        id: u16,
    },
    Heap {
        bytes: Vec<u8>,
        budget: Option<Budget>,
    },
    Shared {
        _bytes: Arc<[u8]>,
    },
    Static,
}

/// A view of bytes in a block of this shard. Cloning counts, and copies nothing.
pub struct Chunk {
    block: NonNull<Block>,
    start: u32,
    len: u32,
}

const _: () = assert!(size_of::<Chunk>() <= 16);

impl Chunk {
    fn whole(block: Block, len: usize) -> Chunk {
        let len = u32::try_from(len).expect("a block is below 4 GiB");
        Chunk { block: NonNull::from(Box::leak(Box::new(block))), start: 0, len }
    }

    /// A copy outside any budget: for tests and for bytes that live as long as a configuration.
    pub fn copy_from(bytes: &[u8]) -> Chunk {
        BlockMut::from_vec(bytes.to_vec(), None).freeze()
    }

    pub fn from_shared(bytes: Arc<[u8]>) -> Chunk {
        let (len, data) = (bytes.len(), NonNull::from(&*bytes).cast());
        let capacity = 0; // not ours to account
        Chunk::whole(
            Block { refs: Cell::new(1), data, capacity, origin: Origin::Shared { _bytes: bytes } },
            len,
        )
    }

    pub fn from_static(bytes: &'static [u8]) -> Chunk {
        let (len, data) = (bytes.len(), NonNull::from(bytes).cast());
        Chunk::whole(Block { refs: Cell::new(1), data, capacity: 0, origin: Origin::Static }, len)
    }

    fn block(&self) -> &Block {
        // WHY: a chunk is a counted pointer that Rc cannot be: its target may be a group's own array.
        // SAFETY: the count includes this chunk, so the block lives; blocks are never borrowed mutably.
        unsafe { self.block.as_ref() }
    }

    /// Bytes that this chunk keeps from being reused: its whole block.
    pub fn capacity(&self) -> usize {
        self.block().capacity as usize
    }

    /// Whether the block is a group's buffer, on loan.
    pub fn is_lent(&self) -> bool {
        matches!(self.block().origin, Origin::Group { .. })
    }

    /// Takes the first `n` bytes; this chunk keeps the rest.
    pub fn split_to(&mut self, n: usize) -> Chunk {
        let head = self.slice(0..n);
        self.advance(n);
        head
    }

    /// A view of a part.
    pub fn slice(&self, range: Range<usize>) -> Chunk {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let mut part = self.clone();
        part.start += narrow(range.start);
        part.len = narrow(range.end - range.start);
        part
    }

    /// Forgets the first `n` bytes.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "{n} of {} bytes", self.len());
        self.start += narrow(n);
        self.len -= narrow(n);
    }

    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Adds bytes behind its own in its block, when nothing else views the block and there is room.
    fn absorb(&mut self, more: &[u8]) -> bool {
        if self.block().refs.get() != 1 {
            return false;
        }
        // WHY: a small body sent with its head as one piece saves the kernel a gathered send.
        // SAFETY: the count says that this chunk is the only way to the block.
        let block = unsafe { self.block.as_mut() };
        let Origin::Heap { bytes, .. } = &mut block.origin else { return false };
        let end = (self.start + self.len) as usize;
        if bytes.len() != end || bytes.capacity() - end < more.len() {
            return false;
        }
        let Ok(added) = u32::try_from(more.len()) else { return false };
        bytes.extend_from_slice(more); // within its capacity: it stays where it is
        self.len += added;
        true
    }

    /// The same bytes in a block of their own size, so that the block on loan goes back; as it is when that saves
    /// less than half, or the budget is used up.
    pub fn compact(self, budget: &Budget) -> Chunk {
        if !self.is_lent() || self.len() * 2 > self.capacity() || !budget.fits(self.len()) {
            return self;
        }
        let mut own = BlockMut::with_capacity(self.len(), budget);
        own.extend_from_slice(&self);
        own.freeze()
    }
}

/// A place or a length within a block, which is below 4 GiB.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a block's capacity is a u32, and `n` was checked against it"
)]
fn narrow(n: usize) -> u32 {
    n as u32
}

impl Clone for Chunk {
    fn clone(&self) -> Chunk {
        let refs = &self.block().refs;
        refs.set(refs.get().checked_add(1).expect("fewer than 2^32 views of one block"));
        Chunk { block: self.block, start: self.start, len: self.len }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let block = self.block();
        let refs = block.refs.get() - 1;
        block.refs.set(refs);
        if refs > 0 {
            return;
        }
        if let Origin::Group { group, id } = block.origin {
            // WHY: the loan counted the group so that its memory outlives the runtime's own handle.
            // SAFETY: `lend` leaked exactly one count for this loan.
            let group = unsafe { Rc::from_raw(group) };
            group.take_back(id);
        } else {
            // WHY: the last view frees the block.
            // SAFETY: it came from `Box::leak` in `whole`, and no other chunk points to it.
            let block = unsafe { Box::from_raw(self.block.as_ptr()) };
            if let Origin::Heap { budget: Some(budget), .. } = &block.origin {
                budget.release(block.capacity as usize);
            }
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // WHY: the block's bytes are reached through a raw pointer, since groups own them.
        // SAFETY: start + len lies in the block: every constructor and `slice` checks.
        let first = unsafe { self.block().data.add(self.start as usize) };
        // WHY: as above.
        // SAFETY: as above; the block lives, and nothing writes to a block that a chunk views.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.len as usize) }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({:?})", self.escape_ascii().to_string())
    }
}

/// A heap block while it is written: grows, is charged to the budget, becomes a chunk.
pub struct BlockMut {
    bytes: Vec<u8>,
    charged: usize,
    budget: Option<Budget>,
}

impl BlockMut {
    pub fn with_capacity(capacity: usize, budget: &Budget) -> BlockMut {
        BlockMut::from_vec(Vec::with_capacity(capacity), Some(budget.clone()))
    }

    /// Outside any budget: for tests and sans-IO use.
    pub fn unbudgeted(capacity: usize) -> BlockMut {
        BlockMut::from_vec(Vec::with_capacity(capacity), None)
    }

    fn from_vec(bytes: Vec<u8>, budget: Option<Budget>) -> BlockMut {
        let mut block = BlockMut { bytes, charged: 0, budget };
        block.settle();
        block
    }

    /// Charges what the vector grew by.
    fn settle(&mut self) {
        if let Some(budget) = &self.budget {
            budget.charge(self.bytes.capacity() - self.charged);
        }
        self.charged = self.bytes.capacity();
    }

    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.capacity() != self.charged {
            self.settle();
        }
    }

    pub fn push(&mut self, byte: u8) {
        self.extend_from_slice(&[byte]);
    }

    pub fn freeze(mut self) -> Chunk {
        let bytes = std::mem::take(&mut self.bytes);
        let budget = self.budget.take();
        let data = NonNull::new(bytes.as_ptr().cast_mut()).expect("a vector's pointer is not null");
        let (len, capacity) = (bytes.len(), u32::try_from(self.charged).expect("a block is below 4 GiB"));
        Chunk::whole(
            Block { refs: Cell::new(1), data, capacity, origin: Origin::Heap { bytes, budget } },
            len,
        )
    }
}

impl Drop for BlockMut {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.release(self.charged);
        }
    }
}

impl Deref for BlockMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for BlockMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for BlockMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockMut({} bytes)", self.bytes.len())
    }
}

/// A few chunks in order; one costs no allocation.
#[derive(Debug, Default)]
pub struct Chunks {
    first: Option<Chunk>,
    rest: VecDeque<Chunk>,
    bytes: usize,
}

impl Chunks {
    pub fn new() -> Chunks {
        Chunks::default()
    }

    /// Adds at the end; an empty chunk is dropped, a small one is copied behind the last where that has room.
    pub fn push(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.bytes += chunk.len();
        if chunk.len() <= limits::JOIN_BYTES
            && self.rest.back_mut().or(self.first.as_mut()).is_some_and(|last| last.absorb(&chunk))
        {
            return;
        }
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.push_back(chunk);
        }
    }

    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.first.take()?;
        self.first = self.rest.pop_front();
        self.bytes -= chunk.len();
        Some(chunk)
    }

    pub fn append(&mut self, mut other: Chunks) {
        while let Some(chunk) = other.pop() {
            self.push(chunk);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.first.iter().chain(self.rest.iter())
    }

    /// Bytes of blocks that these chunks keep.
    pub fn capacity(&self) -> usize {
        self.iter().map(Chunk::capacity).sum()
    }

    /// Forgets the first `n` bytes.
    pub fn advance(&mut self, mut n: usize) {
        assert!(n <= self.bytes, "{n} of {} bytes", self.bytes);
        self.bytes -= n;
        while n > 0 {
            let first = self.first.as_mut().expect("bytes remain");
            if first.len() > n {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.first = self.rest.pop_front();
        }
    }

    /// All bytes in one chunk; copies unless there is at most one.
    pub fn gather(mut self, budget: &Budget) -> Chunk {
        if self.count() <= 1 {
            return self.pop().unwrap_or_else(|| Chunk::from_static(b""));
        }
        let mut block = BlockMut::with_capacity(self.bytes, budget);
        for chunk in self.iter() {
            block.extend_from_slice(chunk);
        }
        block.freeze()
    }

    /// Copies what fills less than half of a lent block, see [`Chunk::compact`].
    pub(crate) fn compact(&mut self, budget: &Budget) {
        self.first = self.first.take().map(|chunk| chunk.compact(budget));
        for _ in 0..self.rest.len() {
            if let Some(chunk) = self.rest.pop_front() {
                self.rest.push_back(chunk.compact(budget));
            }
        }
    }

    /// Gives the spare memory of an empty list back.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
    }
}

impl From<Chunk> for Chunks {
    fn from(chunk: Chunk) -> Chunks {
        let mut chunks = Chunks::new();
        chunks.push(chunk);
        chunks
    }
}

/// Buffers of one size that received bytes land in. Grows in slabs, up to its bound and the budget.
pub(crate) struct Group {
    pub(crate) buffer_bytes: usize,
    max: usize,
    slab: usize,
    blocks: RefCell<Vec<NonNull<Block>>>,
    memory: RefCell<Vec<Box<[u8]>>>,
    /// Buffers that are with the group: the last one given back is the next one lent (it is warm).
    free: RefCell<Vec<u16>>,
    budget: Budget,
    pub(crate) lent: Cell<usize>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Group({} x {} bytes, {} lent)",
            self.blocks.borrow().len(),
            self.buffer_bytes,
            self.lent.get()
        )
    }
}

impl Group {
    pub(crate) fn new(buffer_bytes: usize, slab: usize, max: usize, budget: &Budget) -> Rc<Group> {
        Rc::new(Group {
            buffer_bytes,
            max,
            slab,
            blocks: RefCell::default(),
            memory: RefCell::default(),
            free: RefCell::default(),
            budget: budget.clone(),
            lent: Cell::new(0),
        })
    }

    /// Makes another slab of buffers; they are free afterwards. False: the bound or the budget is reached.
    pub(crate) fn grow(self: &Rc<Group>) -> bool {
        let have = self.blocks.borrow().len();
        let more = self.growth();
        if more == 0 {
            return false;
        }
        self.budget.charge(more * self.buffer_bytes);
        let mut memory = vec![0u8; more * self.buffer_bytes].into_boxed_slice();
        let base = NonNull::from(&mut *memory).cast::<u8>();
        for n in 0..more {
            let id = u16::try_from(have + n).expect("a group is at most 2^15 buffers");
            // WHY: one allocation serves a slab of buffers.
            // SAFETY: n * buffer_bytes lies within the slab's memory, which lives as long as the group.
            let data = unsafe { base.add(n * self.buffer_bytes) };
            let origin = Origin::Group { group: Rc::as_ptr(self), id };
            let capacity = u32::try_from(self.buffer_bytes).expect("a buffer is below 4 GiB");
            let block = Block { refs: Cell::new(0), data, capacity, origin };
            self.blocks.borrow_mut().push(NonNull::from(Box::leak(Box::new(block))));
            self.free.borrow_mut().push(id);
        }
        self.memory.borrow_mut().push(memory);
        true
    }

    /// All buffers together, lent or free.
    fn owned(&self) -> usize {
        self.blocks.borrow().len() * self.buffer_bytes
    }

    /// How many buffers the next slab may have.
    fn growth(&self) -> usize {
        let have = self.blocks.borrow().len();
        let more = self.slab.min(self.max - have);
        // Heads are copied into blocks of the same budget: buffers leave them a part.
        let heads = if have == 0 { 0 } else { self.budget.limit() / limits::HEADS_SHARE };
        if self.budget.fits(more * self.buffer_bytes + heads) { more } else { 0 }
    }

    /// Whether every buffer is lent, and there will be no others.
    pub(crate) fn is_spent(&self) -> bool {
        self.lent.get() >= self.blocks.borrow().len() && self.growth() == 0
    }

    pub(crate) fn has_grown(&self) -> bool {
        self.blocks.borrow().len() > self.slab
    }

    /// Gives the memory of buffers that nobody uses back to the system, those of the start aside: it comes back when
    /// it is written. Only between turns, when the kernel has told of everything that it has written.
    pub(crate) fn give_back(&self) {
        for block in self.blocks.borrow().iter().skip(self.slab) {
            // WHY: blocks are reached by pointer.
            // SAFETY: they live as long as the group.
            let block = unsafe { block.as_ref() };
            if block.refs.get() == 0 {
                crate::memory::forget(block.data, self.buffer_bytes);
            }
        }
    }

    /// All buffers together, lent or free.
    #[cfg(feature = "sim")]
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.borrow().len() * self.buffer_bytes
    }

    /// Allocations that it has made, and keeps.
    #[cfg(feature = "sim")]
    pub(crate) fn allocations(&self) -> usize {
        self.blocks.borrow().len() + self.memory.borrow().len()
    }

    /// The memory of a buffer, for a kernel that is to write it.
    pub(crate) fn memory_of(&self, id: u16) -> *mut u8 {
        // WHY: the address goes into the provided ring.
        // SAFETY: blocks live as long as the group.
        unsafe { self.blocks.borrow()[usize::from(id)].as_ref() }.data.as_ptr()
    }

    /// A free buffer's id, for a reader of our own.
    pub(crate) fn pop_free(&self) -> Option<u16> {
        self.free.borrow_mut().pop()
    }

    pub(crate) fn push_free(&self, id: u16) {
        self.free.borrow_mut().push(id);
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.borrow().len()
    }

    /// Writes into a free buffer, as a kernel would.
    #[cfg(feature = "sim")]
    pub(crate) fn write(&self, id: u16, bytes: &[u8]) {
        assert!(bytes.len() <= self.buffer_bytes, "{} bytes into a buffer", bytes.len());
        // WHY: a simulated kernel writes where a real one would.
        // SAFETY: the buffer is free, so no chunk views it, and it holds that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory_of(id), bytes.len()) };
    }

    /// A chunk over the first `len` bytes that were written into buffer `id`.
    pub(crate) fn lend(self: &Rc<Group>, id: u16, len: usize) -> Chunk {
        let block = self.blocks.borrow()[usize::from(id)];
        assert!(
            len <= self.buffer_bytes,
            "the kernel wrote {len} bytes into a buffer of {}",
            self.buffer_bytes
        );
        // WHY: the block is shared by pointer with its chunks.
        // SAFETY: blocks live as long as the group, and the loan below counts the group.
        let refs = unsafe { &block.as_ref().refs };
        assert_eq!(refs.get(), 0, "buffer {id} is lent already");
        refs.set(1);
        self.lent.set(self.lent.get() + 1);
        let _counted_until_taken_back = Rc::into_raw(Rc::clone(self));
        Chunk { block, start: 0, len: narrow(len) }
    }

    fn take_back(&self, id: u16) {
        self.lent.set(self.lent.get() - 1);
        self.free.borrow_mut().push(id);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for block in self.blocks.borrow_mut().drain(..) {
            // WHY: `grow` leaked the blocks so that chunks can point to them.
            // SAFETY: every loan counts the group, so no chunk points to this block any more.
            drop(unsafe { Box::from_raw(block.as_ptr()) });
        }
        self.budget.release(self.memory.borrow().iter().map(|m| m.len()).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_view_gives_the_buffer_back() {
        let budget = Budget::new(1 << 20);
        let group = Group::new(64, 2, 4, &budget);
        assert!(group.grow());
        let id = group.pop_free().expect("a buffer");
        let mut chunk = group.lend(id, 10);
        let head = chunk.split_to(4);
        assert_eq!((head.len(), chunk.len(), group.lent.get()), (4, 6, 1));
        drop(chunk);
        assert_eq!(group.free_count(), 1);
        drop(head);
        assert_eq!((group.free_count(), group.lent.get()), (2, 0));
    }

    #[test]
    fn a_loan_outlives_the_handle_of_its_group() {
        let budget = Budget::new(1 << 20);
        let group = Group::new(64, 2, 4, &budget);
        assert!(group.grow());
        let id = group.pop_free().expect("a buffer");
        let chunk = group.lend(id, 3);
        drop(group);
        assert_eq!(&*chunk, &[0, 0, 0]);
        drop(chunk);
        assert_eq!(budget.used(), 0);
    }

    /// What is kept under strain takes no more than it needs, and what is given back relieves it.
    #[test]
    fn strain_follows_what_is_lent() {
        let budget = Budget::new(64 * 64);
        let small = Group::new(64, 16, 16, &budget);
        let large = Group::new(64, 1, 1, &budget);
        assert!(small.grow() && large.grow());
        let mut lent: Vec<Chunk> = Vec::new();
        let mut strains = Vec::new();
        for _ in 0..16 {
            lent.push(small.lend(small.pop_free().expect("a buffer"), 10));
            budget.observe(&small, &large);
            strains.push(budget.strain());
        }
        let [tight, short] = [Strain::Tight, Strain::Short].map(|s| strains.iter().position(|is| *is == s));
        assert_eq!((tight, short), (Some(2), Some(14)), "{strains:?}");
        lent = lent.into_iter().map(|chunk| budget.keep(chunk)).collect();
        budget.observe(&small, &large);
        assert_eq!((small.lent.get(), budget.strain()), (0, Strain::None));
        small.give_back();
        assert!(lent.iter().all(|chunk| **chunk == [0; 10]));
        drop(lent);
    }

    #[test]
    fn growth_stops_at_the_bound_and_at_the_budget() {
        let budget = Budget::new(64 * 3);
        let group = Group::new(64, 2, 16, &budget);
        assert!(group.grow());
        assert!(!group.grow(), "the budget holds three buffers");
        let small = Group::new(64, 2, 2, &Budget::new(1 << 20));
        assert!(small.grow());
        assert!(!small.grow(), "the bound is two buffers");
    }

    #[test]
    fn a_budgeted_block_is_released_with_its_last_view() {
        let budget = Budget::new(1 << 20);
        let mut block = BlockMut::with_capacity(8, &budget);
        block.extend_from_slice(b"0123456789abcdef0123456789");
        let charged = budget.used();
        assert!(charged >= 26);
        let chunk = block.freeze();
        let part = chunk.slice(3..5);
        drop(chunk);
        assert_eq!(budget.used(), charged);
        assert_eq!(&*part, b"34");
        drop(part);
        assert_eq!(budget.used(), 0);
        drop(BlockMut::with_capacity(100, &budget));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_small_chunk_joins_the_one_before_it() {
        let budget = Budget::new(1 << 20);
        let head = || {
            let mut block = BlockMut::with_capacity(16, &budget);
            block.extend_from_slice(b"head ");
            block.freeze()
        };
        let mut chunks = Chunks::from(head());
        chunks.push(Chunk::from_static(b"body"));
        assert_eq!(
            (chunks.count(), chunks.bytes(), &**chunks.iter().next().expect("one")),
            (1, 9, &b"head body"[..])
        );
        chunks.push(Chunk::from_static(b"too much for it"));
        assert_eq!((chunks.count(), chunks.bytes()), (2, 24));
        drop(chunks);
        let viewed = head();
        let mut chunks = Chunks::from(viewed.clone());
        chunks.push(Chunk::from_static(b"x"));
        assert_eq!((chunks.count(), &*viewed), (2, &b"head "[..]), "another view must not change");
        drop((chunks, viewed));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn chunks_keep_order_and_count() {
        let mut chunks = Chunks::new();
        for part in [&b"ab"[..], b"", b"cde", b"f"] {
            chunks.push(Chunk::copy_from(part));
        }
        assert_eq!((chunks.bytes(), chunks.count()), (6, 3));
        chunks.advance(3);
        assert_eq!(&*chunks.gather(&Budget::new(100)), b"def");
    }
}
