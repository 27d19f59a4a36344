//! Response flags and response code details.
