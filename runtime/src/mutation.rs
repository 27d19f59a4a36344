//! Bugs that tests plant, one at a time, to show that the simulator finds them.
//!
//! Without the feature `mutations` nothing can be planted, and the question costs nothing.

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
}

impl Mutation {
    pub const ALL: [Mutation; 5] = [
        Mutation::LostWake,
        Mutation::DoubleCompletion,
        Mutation::ShortChunk,
        Mutation::LeakedBuffer,
        Mutation::LateCompletion,
    ];
}

/// The planted bug of a runtime, if any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted {
    #[cfg(feature = "mutations")]
    what: Option<Mutation>,
}

impl Planted {
    #[cfg(feature = "mutations")]
    pub fn one(mutation: Mutation) -> Planted {
        Planted { what: Some(mutation) }
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
}
