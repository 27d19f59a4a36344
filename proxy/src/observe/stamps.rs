//! Time marks of one request.
