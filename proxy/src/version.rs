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

/// Our own name and version, for people.
pub const NAME: &str = "selvedge";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The parts of the line, for those who want them one by one.
pub const STATUS: &str = "Clean";
pub const TYPE: &str = "RELEASE";
pub const TLS: &str = "BoringSSL";
/// What the node says to control planes.
pub const USER_AGENT: &str = "envoy";

/// `revision/version/status/type/tls`
pub fn line() -> String {
    format!("{REVISION}/{ENVOY}/{STATUS}/{TYPE}/{TLS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_find_five_parts() {
        let line = line();
        let parts: Vec<&str> = line.split('/').collect();
        assert!(parts[0].len() == 40 && parts[0].bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
        assert_eq!(parts[1..], ["1.40.0", "Clean", "RELEASE", "BoringSSL"]);
        assert_eq!(u32::from_str_radix(&parts[0][..6], 16), Ok(REVISION_NUMBER));
    }
}
