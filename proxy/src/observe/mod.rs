//! What is known of a stream: stamps, flags, the facts that logs read.

pub mod flags;
pub mod info;
pub mod stamps;
