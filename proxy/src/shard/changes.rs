//! What a shard has not seen: another epoch, clusters with other endpoints, and that the overload manager has moved.
//! Noted by the control thread, taken by the shard.
//!
//! Invariant: what is noted is taken. A letter is due only for the first of a set, and the next set begins when the
//! shard has taken this one: so at most one such letter is unread, and its box cannot be full. Of epochs the newest
//! counts, and of a cluster's endpoints those that lie with it: what was between is skipped.
#![allow(clippy::disallowed_types, reason = "locked by the control thread, and by a shard for a letter")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::epoch::Epoch;

/// What one shard has not looked at.
#[derive(Debug, Default)]
pub struct Changes(Mutex<Noted>);

#[derive(Debug, Default)]
pub struct Noted {
    pub epoch: Option<Arc<Epoch>>,
    /// Those whose endpoints have changed, by number.
    pub clusters: BTreeSet<usize>,
    pub overload: bool,
}

impl Changes {
    /// True: it is the first of a set, so the shard is to be told.
    fn change(&self, note: impl FnOnce(&mut Noted)) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = noted.epoch.is_none() && noted.clusters.is_empty() && !noted.overload;
        note(&mut noted);
        first
    }

    /// Notes a cluster. True: the shard is to be told.
    #[must_use]
    pub fn note(&self, cluster: usize) -> bool {
        self.change(|noted| {
            noted.clusters.insert(cluster);
        })
    }

    /// Notes another epoch. True: the shard is to be told.
    #[must_use]
    pub fn note_epoch(&self, epoch: Arc<Epoch>) -> bool {
        self.change(|noted| noted.epoch = Some(epoch))
    }

    /// Notes that the overload manager has moved. True: the shard is to be told.
    #[must_use]
    pub fn note_overload(&self) -> bool {
        self.change(|noted| noted.overload = true)
    }

    pub fn take(&self) -> Noted {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_changes_is_one_letter_and_none_is_lost() {
        let changes = Changes::default();
        let take = || {
            let noted = changes.take();
            (noted.clusters.into_iter().collect::<Vec<_>>(), noted.overload)
        };
        let letters = (0..3000).filter(|n| changes.note(n % 3)).count();
        assert!(!changes.note_overload(), "it comes with the same letter");
        assert_eq!((letters, take()), (1, (vec![0, 1, 2], true)));
        assert!(changes.note(1), "what comes after the set was taken is told anew");
        assert_eq!((take(), take()), ((vec![1], false), (vec![], false)));
        assert!(changes.note_overload() && !changes.note_overload() && !changes.note(4));
    }
}
