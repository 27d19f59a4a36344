//! Asks another service whether a request may pass.
