//! Every bound of the data path, derived.
