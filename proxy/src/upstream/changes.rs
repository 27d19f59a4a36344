//! What a shard has not seen: clusters with new endpoints, and that the overload manager has moved. Noted by the
//! control thread, taken by the shard.
//!
//! Invariant: what is noted is taken. A letter is due only for the first of a set, and the next set begins when the
//! shard has taken this one: so at most one such letter is unread, and its box cannot be full. The endpoints
//! themselves lie with the cluster: the shard takes the newest, and those between are skipped.
#![allow(clippy::disallowed_types, reason = "locked by the control thread, and by a shard for a letter")]

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one shard has not looked at.
#[derive(Debug, Default)]
pub struct Changes(Mutex<Noted>);

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Those whose endpoints have changed, by number.
    pub clusters: BTreeSet<usize>,
    pub overload: bool,
}

impl Changes {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a cluster. True: the shard is to be told.
    #[must_use]
    pub fn note(&self, cluster: usize) -> bool {
        let mut noted = self.noted();
        let first = *noted == Noted::default();
        noted.clusters.insert(cluster);
        first
    }

    /// Notes that the overload manager has moved. True: the shard is to be told.
    #[must_use]
    pub fn note_overload(&self) -> bool {
        let mut noted = self.noted();
        let first = *noted == Noted::default();
        noted.overload = true;
        first
    }

    pub fn take(&self) -> Noted {
        std::mem::take(&mut self.noted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_changes_is_one_letter_and_none_is_lost() {
        let changes = Changes::default();
        let noted =
            |clusters: &[usize], overload| Noted { clusters: clusters.iter().copied().collect(), overload };
        let letters = (0..3000).filter(|n| changes.note(n % 3)).count();
        assert!(!changes.note_overload(), "it comes with the same letter");
        assert_eq!((letters, changes.take()), (1, noted(&[0, 1, 2], true)));
        assert!(changes.note(1), "what comes after the set was taken is told anew");
        assert_eq!((changes.take(), changes.take()), (noted(&[1], false), noted(&[], false)));
        assert!(changes.note_overload() && !changes.note_overload() && !changes.note(4));
    }
}
