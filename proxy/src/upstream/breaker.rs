//! Circuit breakers, shared by all shards.
