//! Compiles a listener and its connection manager.
