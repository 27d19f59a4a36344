//! Memory of the whole process: its allocator.

use std::ffi::c_int;

/// The allocator of a program that runs shards. A request makes about a dozen short-lived blocks: glibc spends
/// 5,600 instructions on them, this one 1,100 (callgrind; of 32,400 for one keep-alive request).
pub type Allocator = mimalloc::MiMalloc;

pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// An option of the allocator that its bindings do not name. mimalloc.h, `mi_option_e`
const MINIMAL_PURGE_KIB: c_int = 44;
const _: () = assert!(libmimalloc_sys::_mi_option_last == 47, "another list of options: count again");

/// Gives the allocator's free memory back to the system: after work that took much and keeps little.
pub fn give_back() {
    // WHY: by itself the allocator gives back whole huge pages only.
    // SAFETY: plain numbers, an option that exists.
    unsafe { libmimalloc_sys::mi_option_set(MINIMAL_PURGE_KIB, 64) };
    // WHY: the allocator keeps freed pages for itself; nothing in std asks it not to.
    // SAFETY: no pointers; it moves no live allocation.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
