//! Who this binary says it is.
//!
//! Control planes read the five parts between slashes, and the second as the version of Envoy that we stand in for.

/// Forty hexadecimal digits, where Envoy has its commit: they name this version of Selvedge.
pub const REVISION: &str = "b429672e0bf7a1ed3ff2fde0ec4d985c31b0ea4e";
/// The first six digits of the revision, as the stat `server.version` shows them.
pub const REVISION_NUMBER: u32 = 0xb42967;
/// The version of Envoy whose behaviour this is.
pub const ENVOY: &str = "1.40.0";
/// envoy: the compatibility of hot restart, as `--hot-restart-version` prints it
pub const HOT_RESTART: &str = "11.104";

/// `revision/version/status/type/tls`
pub fn line() -> String {
    format!("{REVISION}/{ENVOY}/Clean/RELEASE/BoringSSL")
}
