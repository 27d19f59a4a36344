//! Compiles a cluster.
