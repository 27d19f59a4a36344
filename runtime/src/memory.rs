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
