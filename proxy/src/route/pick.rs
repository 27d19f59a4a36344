//! Chooses the route of a request. Pure.
