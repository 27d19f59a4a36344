//! The connections that the admin server serves at once. When all places are taken and one more client comes, the one
//! goes that has had its answer for the longest: who reads slowly, or asks nothing, keeps nobody out.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "admin thread")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::limits;

/// How long a client may be without a word to ask or an answer to read before it must make room.
const SETTLED: Duration = Duration::from_secs(1);
/// How often it is looked whether one has been so for long enough.
const LOOKS_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Places {
    opened: Instant,
    most: usize,
    guests: Mutex<Vec<Arc<Guest>>>,
    freed: Notify,
}

/// One that is served.
#[derive(Debug, Default)]
struct Guest {
    /// When it came or was last answered, in milliseconds.
    since: AtomicU64,
    /// Its answer is being made.
    waits: AtomicBool,
    go: Notify,
}

/// Of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    guest: Arc<Guest>,
}

impl Places {
    pub(super) fn new() -> Arc<Places> {
        Places::of(limits::ADMIN_CONNECTIONS)
    }

    fn of(most: usize) -> Arc<Places> {
        Arc::new(Places { opened: Instant::now(), most, guests: Mutex::default(), freed: Notify::new() })
    }

    fn guests(&self) -> MutexGuard<'_, Vec<Arc<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for a place; sends somebody away who has one for no good reason.
    pub(super) async fn take(self: &Arc<Places>) -> Place {
        loop {
            {
                let (mut guests, now) = (self.guests(), self.now());
                if guests.len() < self.most {
                    let guest = Arc::new(Guest { since: AtomicU64::new(now), ..Guest::default() });
                    guests.push(Arc::clone(&guest));
                    return Place { places: Arc::clone(self), guest };
                }
                let settled = |guest: &&Arc<Guest>| {
                    let for_ms = now.saturating_sub(guest.since.load(Relaxed));
                    !guest.waits.load(Relaxed) && u128::from(for_ms) >= SETTLED.as_millis()
                };
                let oldest = guests.iter().filter(settled).min_by_key(|guest| guest.since.load(Relaxed));
                if let Some(oldest) = oldest {
                    oldest.go.notify_one();
                }
            }
            let _looks_again = tokio::time::timeout(LOOKS_EVERY, self.freed.notified()).await;
        }
    }
}

impl Place {
    pub(super) fn asked(&self) {
        self.guest.waits.store(true, Relaxed);
    }

    pub(super) fn answered(&self) {
        self.guest.since.store(self.places.now(), Relaxed);
        self.guest.waits.store(false, Relaxed);
    }

    /// Ends when somebody else is to have the place.
    pub(super) async fn lost(&self) {
        self.guest.go.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.guests().retain(|guest| !Arc::ptr_eq(guest, &self.guest));
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_had_an_answer_for_the_longest_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let places = Places::of(3);
            let (busy, late, early) = (places.take().await, places.take().await, places.take().await);
            busy.asked();
            late.asked();
            let then = places.now();
            while places.now() == then {
                tokio::task::yield_now().await;
            }
            late.answered();
            let (began, taker) = (Instant::now(), Arc::clone(&places));
            let taken = tokio::spawn(async move { taker.take().await });
            // The first to go is the one that came before the other was answered, and not at once.
            early.lost().await;
            assert!(began.elapsed() >= SETTLED - Duration::from_millis(100), "{:?}", began.elapsed());
            drop(early);
            let next = taken.await.expect("a place");
            let taker = Arc::clone(&places);
            let taken = tokio::spawn(async move { taker.take().await });
            late.lost().await;
            drop((late, next));
            taken.await.expect("a place");
        });
    }
}
