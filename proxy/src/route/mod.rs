//! Routes: compiled tables and the pure pick.

#[doc(hidden)]
pub mod fuzz;
pub mod matchers;
pub mod mutations;
pub mod pick;
pub mod prefixes;
pub mod rewrite;
pub mod table;
