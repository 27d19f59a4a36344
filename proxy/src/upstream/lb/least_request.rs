//! The less busy of a few.
