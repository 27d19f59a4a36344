//! Connections of one shard to one endpoint.
