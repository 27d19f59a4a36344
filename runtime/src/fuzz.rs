//! What is fuzzed of the runtime: sequences of operations, each checked against a plain model.
//!
//! The bytes of a fuzzer say which operations; each function panics where code and model differ.

pub use bytes::Bytes;
pub use chunks::chunks;
pub use tasks::tasks;
pub use timers::timers;

mod bytes;
mod chunks;
mod tasks;
mod timers;
