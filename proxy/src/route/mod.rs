//! Routes: compiled tables and the pure pick.

pub mod matchers;
pub mod pick;
pub mod table;
