//! How the memory of the process is parted: its own needs, the kernel's, buffers, connections. A sum, no measurement.

use std::fmt;

use selvedge_runtime::limits::{BUDGET_BYTES, BUDGET_MIN};

use crate::limits::{CONNECTION_BYTES, KERNEL_SHARE, OWN_GROWTH_BYTES};

/// What shards may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Buffers of each shard.
    pub shard_bytes: usize,
    /// Downstream connections of the process.
    pub connections: u64,
}

/// A limit below what a start needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSmall {
    pub limit: u64,
    pub needed: u64,
    pub shards: u64,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooSmall { limit, needed, shards } = self;
        write!(
            f,
            "the memory limit of {limit} bytes is too small: {shards} shard(s) and this configuration need {needed}"
        )
    }
}

impl Memory {
    /// `used`: what the process has taken by now, the configuration with it.
    pub fn plan(limit: u64, used: u64, shards: u64) -> Result<Memory, TooSmall> {
        let own = used + OWN_GROWTH_BYTES;
        let least = BUDGET_MIN as u64 * shards;
        let rest = limit.saturating_sub(limit / KERNEL_SHARE).saturating_sub(own);
        // Half for buffers, half for connections and what their requests keep.
        if rest / 2 < least {
            let parts = KERNEL_SHARE - 1;
            let needed = (own + 2 * least).saturating_mul(KERNEL_SHARE).div_ceil(parts);
            return Err(TooSmall { limit, needed, shards });
        }
        let shard_bytes = usize::try_from(rest / 2 / shards).unwrap_or(usize::MAX).min(BUDGET_BYTES);
        Ok(Memory { shard_bytes, connections: rest / 2 / CONNECTION_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_parts_are_no_more_than_the_whole() {
        for shards in [1, 2, 8] {
            for limit in [64, 256, 300, 1024, 1 << 20].map(|mib: u64| mib * MIB) {
                match Memory::plan(limit, 10 * MIB, shards) {
                    Ok(plan) => {
                        let buffers = plan.shard_bytes as u64 * shards;
                        let sum = buffers + plan.connections * CONNECTION_BYTES + limit / KERNEL_SHARE;
                        assert!(sum + 10 * MIB + OWN_GROWTH_BYTES <= limit, "{plan:?} of {limit}");
                        assert!(plan.shard_bytes >= BUDGET_MIN && plan.shard_bytes <= BUDGET_BYTES);
                    }
                    Err(small) => {
                        assert!(small.needed > limit, "{small:?}");
                        assert!(Memory::plan(small.needed, 10 * MIB, shards).is_ok(), "{small:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_limit_that_is_too_small_is_told_with_what_is_needed() {
        let told = Memory::plan(32 * MIB, 8 * MIB, 2).expect_err("too small").to_string();
        assert_eq!(
            told,
            "the memory limit of 33554432 bytes is too small: 2 shard(s) and this configuration need 100663296"
        );
        assert!(Memory::plan(0, 0, 1).is_err());
    }
}
