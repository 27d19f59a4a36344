//! Which clusters have endpoints that a shard has not seen: noted by the control thread, taken by the shard.
//!
//! Invariant: a cluster that is noted is taken. A letter is due only for the first of a set, and the next set begins
//! when the shard has taken this one: so at most one such letter is unread, and its box cannot be full. The endpoints
//! themselves lie with the cluster: the shard takes the newest, and those between are skipped.
#![allow(clippy::disallowed_types, reason = "locked by the control thread, and by a shard for a letter")]

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The clusters that one shard has not looked at since their endpoints changed, by number.
#[derive(Debug, Default)]
pub struct Changes(Mutex<BTreeSet<usize>>);

impl Changes {
    fn set(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a cluster. True: the shard is to be told.
    #[must_use]
    pub fn note(&self, cluster: usize) -> bool {
        let mut set = self.set();
        let first = set.is_empty();
        set.insert(cluster);
        first
    }

    pub fn take(&self) -> BTreeSet<usize> {
        std::mem::take(&mut self.set())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_changes_is_one_letter_and_none_is_lost() {
        let changes = Changes::default();
        let letters = (0..3000).filter(|n| changes.note(n % 3)).count();
        assert_eq!((letters, changes.take()), (1, BTreeSet::from([0, 1, 2])));
        assert!(changes.note(1), "what comes after the set was taken is told anew");
        assert_eq!((changes.take(), changes.take()), (BTreeSet::from([1]), BTreeSet::new()));
    }
}
