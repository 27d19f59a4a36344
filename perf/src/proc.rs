//! What the kernel says about a contender: run time and memory of its whole process tree.
//!
//! Run time is the scheduler's (`schedstat`, nanoseconds), summed over all threads. Limits: a thread that is running
//! at the moment of reading is accounted up to its last tick (4 ms at 250 Hz), and threads that have ended are not
//! counted; `ticks` (which does count them, 10 ms coarse) is read as a check on that.

use std::fs;

/// One reading of a process tree.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunTime {
    pub ns: u64,
    /// Ready to run, while others had the core.
    pub waited_ns: u64,
    /// User and system time in hundredths of a second, threads that have ended included.
    pub ticks: u64,
}

/// Memory of a process tree in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub rss: u64,
    pub pss: u64,
    /// Heap, stacks and written copies: what belongs to no file.
    pub anonymous: u64,
}

/// The process and all that descend from it.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        let path = format!("/proc/{0}/task/{0}/children", all[next]);
        let children = fs::read_to_string(path).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        next += 1;
    }
    all
}

pub fn run_time(pids: &[u32]) -> RunTime {
    let mut sum = RunTime::default();
    for pid in pids {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let line = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
            sum.ns += numbers.next().unwrap_or(0);
            sum.waited_ns += numbers.next().unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in brackets: state is field 3, user and system time are 14 and 15.
        let after = stat.rsplit(')').next().unwrap_or_default();
        sum.ticks +=
            after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    }
    sum
}

pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(kib)) = (words.next(), words.next().and_then(|n| n.parse::<u64>().ok()))
            else {
                continue;
            };
            match name {
                "Rss:" => sum.rss += kib * 1024,
                "Pss:" => sum.pss += kib * 1024,
                "Anonymous:" => sum.anonymous += kib * 1024,
                _ => {}
            }
        }
    }
    sum
}

/// A line about the machine, for the head of every table.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find(|l| l.starts_with("model name"))
        .and_then(|l| l.split(':').nth(1))
        .unwrap_or("?")
        .trim();
    let cores = info.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let tcp = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}, tcp {}", kernel.trim(), tcp.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let me = std::process::id();
        assert!(tree(me).contains(&me));
        assert!(run_time(&[me]).ns > 0);
        let memory = memory(&[me]);
        assert!(memory.rss > 0 && memory.pss <= memory.rss);
    }
}
