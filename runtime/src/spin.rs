//! Watching for work before sleeping: before every sleep while it finds some, seldom while it does not.

use std::time::Duration;

/// Watches in a row that find nothing before they become seldom.
const PATIENCE: u32 = 16;
/// Of how many sleeps one is watched before, then.
const SELDOM: u32 = 16;

#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    /// Sleeps since a watch found work.
    vain: u32,
}

impl Spin {
    pub(crate) fn new(limit_us: u32) -> Spin {
        Spin { limit: Duration::from_micros(limit_us.into()), vain: 0 }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !self.limit.is_zero()
    }

    /// How long to watch before a sleep of `wait`; zero: not at all.
    pub(crate) fn before(&self, wait: Option<Duration>) -> Duration {
        if !self.is_wanted() || (self.vain >= PATIENCE && !self.vain.is_multiple_of(SELDOM)) {
            return Duration::ZERO;
        }
        wait.map_or(self.limit, |wait| wait.min(self.limit))
    }

    /// A sleep follows, or work was found before it.
    pub(crate) fn learn(&mut self, found: bool) {
        self.vain = if found { 0 } else { self.vain.wrapping_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watching_in_vain_becomes_seldom_until_it_pays() {
        let mut spin = Spin::new(50);
        let mut watched = 0;
        for _ in 0..PATIENCE + 10 * SELDOM {
            watched += u32::from(!spin.before(None).is_zero());
            spin.learn(false);
        }
        assert_eq!(watched, PATIENCE + 10);
        spin.learn(true);
        assert_eq!(spin.before(Some(Duration::from_micros(20))), Duration::from_micros(20));
        assert_eq!(spin.before(None), Duration::from_micros(50));
        assert!(Spin::new(0).before(None).is_zero());
    }
}
