//! Memory of the whole process: its allocator.

/// The allocator of a program that runs shards. A request makes about a dozen short-lived blocks: glibc spends
/// 5,600 instructions on them, this one 1,100 (callgrind; of 32,400 for one keep-alive request).
pub type Allocator = mimalloc::MiMalloc;

pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// Keeps the process from huge pages; call it first. One byte of a huge page that is in use keeps all of it: the
/// configuration's leftovers would hold 14 MB instead of 7.
pub fn without_huge_pages() {
    let zero: libc::c_ulong = 0;
    // WHY: nothing in std tells the kernel so.
    // SAFETY: plain numbers. A kernel that cannot do it keeps its huge pages.
    let _best_effort = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, zero, zero, zero) };
}

/// Gives the allocator's free memory back to the system: after work that took much and keeps little.
pub fn give_back() {
    // WHY: the allocator keeps freed pages for itself; nothing in std asks it not to.
    // SAFETY: no pointers; it moves no live allocation.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout};

    use super::*;

    /// Resident bytes of this process.
    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("procfs");
        let pages: usize = pages.split(' ').nth(1).expect("a field").parse().expect("a number");
        pages * 4096
    }

    #[test]
    fn free_memory_goes_back_to_the_system() {
        // Much more than the tests beside this one take and give meanwhile.
        const BLOCKS: usize = 12 * 1024;
        let layout = Layout::from_size_align(16 * 1024, 8).expect("a layout");
        let blocks: Vec<*mut u8> = (0..BLOCKS)
            .map(|_| {
                // WHY: the allocator of the binaries is not that of this test.
                // SAFETY: the layout is not empty.
                let block = unsafe { ALLOCATOR.alloc(layout) };
                assert!(!block.is_null());
                // WHY: only pages that were written are resident.
                // SAFETY: the block has that many bytes.
                unsafe { block.write_bytes(1, layout.size()) };
                block
            })
            .collect();
        let full = resident();
        for block in blocks {
            // WHY: as above.
            // SAFETY: it was allocated with this layout, and is freed once.
            unsafe { ALLOCATOR.dealloc(block, layout) };
        }
        give_back();
        let after = resident();
        assert!(full.saturating_sub(after) > BLOCKS * layout.size() / 2, "{full} then {after}");
    }

    #[test]
    fn huge_pages_are_off_for_the_process() {
        without_huge_pages();
        let zero: libc::c_ulong = 0;
        // WHY: nothing in std asks the kernel.
        // SAFETY: plain numbers.
        let off = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, zero, zero, zero, zero) };
        assert_eq!(off, 1);
    }
}
