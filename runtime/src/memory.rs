//! Memory of the whole process.

/// Gives the allocator's free memory back to the system: after work that took much and keeps little.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // WHY: glibc keeps freed memory for itself; nothing in std asks it not to.
    // SAFETY: no pointers; it moves no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
