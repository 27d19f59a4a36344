//! The control plane, made dumb. Knows no shard and no proxy. Empty until live configuration comes.
