//! Heads to messages.
