//! Bugs that tests plant, one at a time: some to show that the simulator finds them, and panics to show what they end.
//!
//! Without the feature `mutations` nothing can be planted, and the question costs nothing.

#[cfg(feature = "mutations")]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A receive that was cancelled to go on with other buffers, or that is wanted again meanwhile, is not armed.
    LostWake,
    /// The kernel's word on a send is heard twice.
    DoubleCompletion,
    /// A chunk is a byte shorter than its data.
    ShortChunk,
    /// A received buffer is never given back.
    LeakedBuffer,
    /// A slot is free before the last word on its cancelled receive.
    LateCompletion,
    /// A timer is due a tick before its time.
    EarlyTimer,
    /// A pooled connection that its peer has closed is used again.
    DeadReuse,
}

impl Mutation {
    pub const ALL: [Mutation; 7] = [
        Mutation::LostWake,
        Mutation::DoubleCompletion,
        Mutation::ShortChunk,
        Mutation::LeakedBuffer,
        Mutation::LateCompletion,
        Mutation::EarlyTimer,
        Mutation::DeadReuse,
    ];
}

/// A panic at a place in the code. It goes off once each time that it is armed, on whichever shard comes there first.
#[cfg(feature = "mutations")]
#[derive(Debug)]
pub struct Trap {
    place: &'static str,
    armed: AtomicBool,
}

#[cfg(feature = "mutations")]
impl Trap {
    /// Lives as long as the process: shards on other threads hold it.
    pub fn at(place: &'static str) -> &'static Trap {
        Box::leak(Box::new(Trap { place, armed: AtomicBool::new(false) }))
    }

    pub fn arm(&self) {
        self.armed.store(true, Relaxed);
    }

    /// Whether it still waits for somebody to come by.
    pub fn is_armed(&self) -> bool {
        self.armed.load(Relaxed)
    }
}

/// The planted bugs of a runtime, if any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted {
    #[cfg(feature = "mutations")]
    what: Option<Mutation>,
    #[cfg(feature = "mutations")]
    trap: Option<&'static Trap>,
}

impl Planted {
    #[cfg(feature = "mutations")]
    pub fn one(mutation: Mutation) -> Planted {
        Planted { what: Some(mutation), trap: None }
    }

    #[cfg(feature = "mutations")]
    pub fn trap(trap: &'static Trap) -> Planted {
        Planted { what: None, trap: Some(trap) }
    }

    #[inline]
    pub fn is(self, mutation: Mutation) -> bool {
        #[cfg(feature = "mutations")]
        return self.what == Some(mutation);
        #[cfg(not(feature = "mutations"))]
        {
            let _nothing_is_planted = mutation;
            false
        }
    }

    /// Panics if a trap for this place is armed.
    #[inline]
    #[track_caller]
    pub fn pass(self, place: &'static str) {
        #[cfg(feature = "mutations")]
        if let Some(trap) = self.trap
            && trap.place == place
            && trap.armed.swap(false, Relaxed)
        {
            panic!("planted in {place}");
        }
        #[cfg(not(feature = "mutations"))]
        let _nothing_is_planted = place;
    }
}
