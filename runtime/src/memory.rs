//! Memory of the whole process: its allocator, what it uses, what it may use.

use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

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

/// Gives whole pages back to the system; they read as zeros until they are written again.
pub(crate) fn forget(at: NonNull<u8>, bytes: usize) {
    let page = usize::try_from(PAGE).expect("a page fits");
    let skip = at.as_ptr().align_offset(page);
    let whole = bytes.saturating_sub(skip) / page * page;
    if whole > 0 {
        // WHY: the pointer is moved to the next page.
        // SAFETY: it stays within the `bytes` that the caller owns.
        let from = unsafe { at.add(skip) };
        // WHY: an allocator that gives buffers back would take them from under the kernel.
        // SAFETY: these pages belong to the caller, who says that nobody needs what stands in them.
        let _best_effort = unsafe { libc::madvise(from.as_ptr().cast(), whole, libc::MADV_DONTNEED) };
    }
}

/// Bytes that this process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub resident: u64,
    /// Those of them that belong to it alone: reserved address space is no memory.
    pub private: u64,
}

/// `None`: there is no `/proc`.
pub fn used() -> Option<Used> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map(|n| n.trim().parse::<u64>().ok());
    let (resident, shared) = (pages.next()??, pages.next()??);
    Some(Used { resident: resident * PAGE, private: resident.saturating_sub(shared) * PAGE })
}

const PAGE: u64 = 4096;

/// What a cgroup says of memory: its own use, and the lowest limit of it and those around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroup {
    pub used: u64,
    pub limit: Option<u64>,
}

/// The cgroup of this process, v2 or v1. `None`: no controller of memory.
pub fn cgroup() -> Option<Cgroup> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    cgroup_below(Path::new("/sys/fs/cgroup"), &own)
}

/// Bytes of the machine.
pub fn physical() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `own` has the form of `/proc/self/cgroup`: number, controllers, path.
fn cgroup_below(mount: &Path, own: &str) -> Option<Cgroup> {
    let parts = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let (mut v1, mut v2) = (None, None);
    for (controllers, path) in parts {
        if controllers.split(',').any(|c| c == "memory") {
            v1 = Some(path);
        } else if controllers.is_empty() {
            v2 = Some(path);
        }
    }
    let v2 = v2.and_then(|path| group(mount, path, "memory.current", "memory.max"));
    v2.or_else(|| group(&mount.join("memory"), v1?, "memory.usage_in_bytes", "memory.limit_in_bytes"))
}

/// Walks from the group to its root. In a container the path may be one of the host, which is not there: then the
/// root is the container's own group.
fn group(root: &Path, path: &str, used: &str, limit: &str) -> Option<Cgroup> {
    let number = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    let mut at = Some(PathBuf::from(path.trim_start_matches('/')));
    let mut found: Option<Cgroup> = None;
    while let Some(here) = at {
        let dir = root.join(&here);
        if let Some(bytes) = number(&dir, limit).filter(|n| *n < UNLIMITED)
            && let Some(found) = &mut found
        {
            found.limit = Some(found.limit.map_or(bytes, |lowest| lowest.min(bytes)));
        } else if let (None, Some(used)) = (&found, number(&dir, used)) {
            found = Some(Cgroup { used, limit: number(&dir, limit).filter(|n| *n < UNLIMITED) });
        }
        at = here.parent().map(Path::to_path_buf);
    }
    found
}

/// What v1 writes for no limit is the largest number of whole pages.
const UNLIMITED: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout};

    use super::*;

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
        let full = used().expect("procfs").resident;
        for block in blocks {
            // WHY: as above.
            // SAFETY: it was allocated with this layout, and is freed once.
            unsafe { ALLOCATOR.dealloc(block, layout) };
        }
        give_back();
        let after = used().expect("procfs").resident;
        assert!(full.saturating_sub(after) > (BLOCKS * layout.size() / 2) as u64, "{full} then {after}");
    }

    /// A tree of files, each with a number or a word.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("selvedge-cgroup-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn limits_come_from_the_group_and_those_around_it() {
        let v2 = [
            ("pod/box/memory.current", "100\n"),
            ("pod/box/memory.max", "max\n"),
            ("pod/memory.current", "900\n"),
            ("pod/memory.max", "5000\n"),
        ];
        let v1 = [
            ("memory/memory.usage_in_bytes", "7\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/box/memory.usage_in_bytes", "50\n"),
            ("memory/box/memory.limit_in_bytes", "400\n"),
        ];
        type Case<'t> = (&'t str, &'t [(&'t str, &'t str)], &'t str, Option<(u64, Option<u64>)>);
        let in_namespace = [("memory.current", "3"), ("memory.max", "10")];
        let cases: [Case<'_>; 6] = [
            ("v2", &v2, "0::/pod/box\n", Some((100, Some(5000)))),
            ("v2 in a namespace", &in_namespace, "0::/\n", Some((3, Some(10)))),
            ("v1", &v1, "4:memory:/box\n0::/\n", Some((50, Some(400)))),
            ("v1 of the host", &v1, "4:memory:/host/path\n0::/x\n", Some((7, None))),
            ("v1 with others", &v1, "4:cpu,memory:/box\n", Some((50, Some(400)))),
            ("none", &[("cpu/x", "1")], "2:cpu:/\n0::/\n", None),
        ];
        for (name, files, own, expected) in cases {
            let root = tree(name, files);
            let found = cgroup_below(&root, own).map(|c| (c.used, c.limit));
            assert_eq!(found, expected, "{name}");
            fs::remove_dir_all(root).expect("removed");
        }
    }

    #[test]
    fn the_machine_has_memory_and_we_use_some() {
        let (used, all) = (used().expect("procfs"), physical().expect("procfs"));
        assert!(used.private <= used.resident && used.resident < all, "{used:?} of {all}");
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
