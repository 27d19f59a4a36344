//! How busy the processors are, of the whole machine or of this container: a smoothed share of the time.
//!
//! Sans-IO but for `read`, which finds the numbers in `/proc` or in the cgroup's files, v2 before v1.
//= envoy: resource_monitors/cpu_utilization: the newest reading weighs 5 %

use std::time::Duration;

/// Time that was worked and time that there was, in the same unit, since some beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Times {
    pub(super) worked: f64,
    pub(super) total: f64,
}

const WEIGHT: f64 = 0.05;

/// Turns readings into a utilization.
#[derive(Debug, Default)]
pub(super) struct Utilization {
    before: Option<Times>,
    smoothed: f64,
}

impl Utilization {
    /// `None`: the numbers say nothing.
    pub(super) fn next(&mut self, now: Option<Times>) -> Option<f64> {
        let now = now?;
        let Some(before) = self.before.replace(now) else { return Some(self.smoothed) };
        let (worked, total) = (now.worked - before.worked, now.total - before.total);
        if worked < 0.0 || total <= 0.0 {
            return None;
        }
        let current = (worked / total).clamp(0.0, 1.0);
        self.smoothed = current * WEIGHT + self.smoothed * (1.0 - WEIGHT);
        Some(self.smoothed)
    }
}

/// The machine's, from `/proc/stat`: user, nice and system time of user, nice, system and idle time.
pub(super) fn host(stat: &str) -> Option<Times> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut times = [0.0; 4];
    for time in &mut times {
        *time = fields.next()?.parse().ok()?;
    }
    let [user, nice, system, idle] = times;
    let worked = user + nice + system;
    Some(Times { worked, total: worked + idle })
}

/// Of a cgroup v2: `cpu.stat`, and the cores that `cpu.max` and `cpuset.cpus.effective` leave.
pub(super) fn container_v2(stat: &str, max: &str, cpus: &str, now: Duration) -> Option<Times> {
    let usage: f64 = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?.trim().parse().ok()?;
    let available = count_cpus(cpus)?;
    let (quota, period) = max.trim().split_once(' ')?;
    let cores = match quota {
        "max" => available,
        quota => available.min(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?),
    };
    (cores > 0.0).then_some(Times { worked: usage, total: now.as_secs_f64() * 1e6 * cores })
}

/// Of a cgroup v1: `cpuacct.usage`, and `cpu.shares` where 1024 are a core.
pub(super) fn container_v1(usage: &str, shares: &str, now: Duration) -> Option<Times> {
    let (usage, shares): (f64, f64) = (usage.trim().parse().ok()?, shares.trim().parse().ok()?);
    (shares > 0.0).then_some(Times { worked: usage * 1000.0 / shares, total: now.as_secs_f64() * 1e9 })
}

/// `0-3,6` names five.
fn count_cpus(list: &str) -> Option<f64> {
    let mut count = 0u32;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_kernel_are_read() {
        let stat = "cpu  100 10 40 850 7 0 3 0 0 0\ncpu0 1 2 3 4\n";
        assert_eq!(host(stat), Some(Times { worked: 150.0, total: 1000.0 }));
        for bad in ["", "cpu0 1 2 3 4", "cpu  1 2 3", "cpu  1 2 x 4"] {
            assert_eq!(host(bad), None, "{bad}");
        }
        let second = Duration::from_secs(1);
        let v2 = |max, cpus| container_v2("usage_usec 500000\nuser_usec 1\n", max, cpus, second);
        assert_eq!(v2("max 100000\n", "0-1\n"), Some(Times { worked: 5e5, total: 2e6 }));
        assert_eq!(v2("50000 100000\n", "0-3,6\n"), Some(Times { worked: 5e5, total: 5e5 }));
        assert_eq!(
            (v2("0 100000", "0"), v2("max", "0"), v2("max 1", "3-1"), v2("max 1", "")),
            (None, None, None, None)
        );
        assert_eq!(container_v1("1000\n", "2048\n", second), Some(Times { worked: 488.28125, total: 1e9 }));
        assert_eq!((container_v1("1", "0", second), container_v1("", "1", second)), (None, None));
    }

    #[test]
    fn readings_are_smoothed() {
        let mut cpu = Utilization::default();
        let at = |worked, total| Some(Times { worked, total });
        assert_eq!(cpu.next(at(0.0, 0.0)), Some(0.0), "nothing to compare with");
        assert_eq!(cpu.next(at(10.0, 10.0)), Some(0.05));
        let next = cpu.next(at(20.0, 20.0)).expect("a number");
        assert!((next - 0.0975).abs() < 1e-9, "{next}");
        assert_eq!(cpu.next(at(20.0, 20.0)), None, "no time has passed");
        assert_eq!(cpu.next(None), None);
    }
}
