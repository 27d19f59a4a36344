//! How many cores are ours, and staying on one.

use std::mem::{size_of, zeroed};

/// Cores that this process may run on at once: by affinity, bounded by the cgroup's quota. At least one.
//= envoy: --concurrency, default by hardware threads, cpuset and cgroup CPU limit
pub fn available_cores() -> usize {
    let by_affinity = allowed_cores().len().max(1);
    cgroup_quota().map_or(by_affinity, |quota| by_affinity.min(quota.max(1)))
}

/// The numbers of the cores that this thread may run on.
pub fn allowed_cores() -> Vec<usize> {
    // WHY: affinity has no wrapper in std.
    // SAFETY: all-zero is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // WHY: as above.
    // SAFETY: the pointer is to a set of ours, of that size.
    let answer = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if answer != 0 {
        return Vec::new();
    }
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| {
            // WHY: the set is opaque.
            // SAFETY: `core` is below CPU_SETSIZE.
            unsafe { libc::CPU_ISSET(core, &set) }
        })
        .collect()
}

/// Whole cores that the cgroup grants, v2 first, then v1; `None`: no quota.
fn cgroup_quota() -> Option<usize> {
    quota_v2(&std::fs::read_to_string("/sys/fs/cgroup/cpu.max").unwrap_or_default()).or_else(|| {
        let read =
            |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).unwrap_or_default();
        quota_v1(&read("cpu.cfs_quota_us"), &read("cpu.cfs_period_us"))
    })
}

fn quota_v2(cpu_max: &str) -> Option<usize> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    quota_v1(quota, period)
}

fn quota_v1(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (i64, i64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (quota > 0 && period > 0).then(|| usize::try_from(quota / period).unwrap_or(0))
}

/// Keeps the calling thread on one core. False: the kernel refuses.
pub fn pin(core: usize) -> bool {
    if core >= libc::CPU_SETSIZE as usize {
        return false;
    }
    // WHY: affinity has no wrapper in std.
    // SAFETY: all-zero is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // WHY: the set is opaque.
    // SAFETY: `core` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(core, &mut set) };
    // WHY: as above.
    // SAFETY: the pointer is to a set of ours, of that size.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_whole_cores() {
        assert_eq!(quota_v2("max 100000\n"), None);
        assert_eq!(quota_v2("250000 100000\n"), Some(2));
        assert_eq!(quota_v2("50000 100000\n"), Some(0));
        assert_eq!(quota_v1("-1\n", "100000\n"), None);
        assert_eq!(quota_v1("400000\n", "100000\n"), Some(4));
        assert_eq!(quota_v2(""), None);
    }

    #[test]
    fn there_is_a_core() {
        assert!(available_cores() >= 1);
        assert!(!pin(usize::MAX));
    }
}
