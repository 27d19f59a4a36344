//! Counts the live allocations of a thread: a simulation runs on one, and must leave as many as it found. Nothing can be
//! handed to an allocator, so that the number is the thread's own: the one state outside the shards.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

thread_local! {
    /// Blocks that this thread has made, less those that it has freed; and whether anybody counts.
    static LIVE: Cell<(i64, bool)> = const { Cell::new((0, false)) };
}

/// An allocator that counts. Of a program that moves blocks between threads it says nothing.
#[derive(Debug)]
pub struct Counting<A>(pub A);

/// Live allocations of this thread. `None`: the program's allocator does not count.
pub fn live() -> Option<i64> {
    // One block at least, so that the answer does not depend on whether there was one before.
    drop(std::hint::black_box(Box::new(0u8)));
    let (live, counts) = LIVE.get();
    counts.then_some(live)
}

fn count(by: i64) {
    LIVE.set((LIVE.get().0 + by, true));
}

// WHY: only an allocator sees every block.
// SAFETY: the inner one does all that is asked; a thread's number without a destructor can be set at any time.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1);
        // WHY: see above.
        // SAFETY: the caller's terms are those of the inner allocator.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1);
        // WHY: see above.
        // SAFETY: the caller's terms are those of the inner allocator.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // WHY: see above.
        // SAFETY: the caller's terms are those of the inner allocator.
        unsafe { self.0.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-1);
        // WHY: see above.
        // SAFETY: the caller's terms are those of the inner allocator.
        unsafe { self.0.dealloc(block, layout) }
    }
}
