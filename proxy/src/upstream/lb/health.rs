//! How load is shared between healthy and degraded endpoints, and when health is disregarded.

/// Invariant: `healthy_percent <= 100`; what is left goes to degraded endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub healthy_percent: u32,
    /// Too few are healthy: all endpoints are used.
    pub panic: bool,
}

impl Shares {
    //= envoy: LoadBalancerBase::recalculatePerPriorityState, recalculatePerPriorityPanic
    pub fn new(
        healthy: usize,
        degraded: usize,
        total: usize,
        overprovisioning: u32,
        panic_threshold: f64,
    ) -> Shares {
        let threshold = panic_threshold.round().clamp(0.0, 100.0);
        let percent = |part: usize| {
            let share = part as u64 * u64::from(overprovisioning) / total.max(1) as u64;
            u32::try_from(share.min(100)).unwrap_or(100)
        };
        let (able, half_able) = (percent(healthy), percent(degraded));
        let available = (able + half_able).min(100);
        if available == 0 {
            return Shares { healthy_percent: 100, panic: threshold > 0.0 };
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of endpoints")]
        let usable = (healthy + degraded) as f64 * 100.0 / total as f64;
        let degraded_percent = (half_able * 100 / available).min(100 - (able * 100 / available).min(100));
        Shares {
            healthy_percent: if healthy == 0 { 0 } else { 100 - degraded_percent },
            panic: available < 100 && usable < threshold,
        }
    }
}
