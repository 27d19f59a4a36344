//! Shard state, epoch swap, accept loop.
