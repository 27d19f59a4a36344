//! Shard-side buffers and the writer thread.
