//! One accepted connection.
