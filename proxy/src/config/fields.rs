//! Which fields of the API are implemented, harmless or refused.
