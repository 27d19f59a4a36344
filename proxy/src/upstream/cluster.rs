//! The shard-local twin of a cluster.
