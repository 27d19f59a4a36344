//! Opens one upstream connection.
