//! Fields that end at a hop: they belong to one connection, and are not passed on.

use crate::http::header_id::IdSet;
use crate::http::message::{Fields, HeaderId as H};

const HOP: IdSet =
    IdSet::of(&[H::Connection, H::Upgrade, H::KeepAlive, H::ProxyConnection, H::TransferEncoding, H::Te]);
/// Ends here even where the connection is upgraded.
const ALWAYS: IdSet = IdSet::of(&[H::KeepAlive, H::ProxyConnection, H::TransferEncoding]);
const UPGRADE: IdSet = IdSet::of(&[H::Connection, H::Upgrade]);

/// Removes what belongs to the connection a request came on; an upgrade keeps what asks for it.
//= rfc9110#7.6.1
pub fn strip_request(fields: &mut Fields, upgrade: bool) {
    if !fields.contains_any(HOP) {
        return;
    }
    if !upgrade {
        strip_nominated(fields);
        fields.remove_ids(UPGRADE);
    }
    //= envoy: te passes only as "trailers"
    let trailers = fields.get(H::Te).map(|te| {
        te.split(|&b| b == b',').any(|t| {
            t.split(|&b| b == b';').next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"trailers")
        })
    });
    match trailers {
        Some(true) => fields.set(H::Te, b"trailers"),
        Some(false) => fields.remove(H::Te),
        None => {}
    }
    fields.remove_ids(ALWAYS);
}

/// Removes what belongs to the connection a response came on.
//= envoy: what its `connection` names stays
pub fn strip_response(fields: &mut Fields, upgrade: bool) {
    if !fields.contains_any(HOP) {
        return;
    }
    if !upgrade {
        fields.remove_ids(UPGRADE);
    }
    fields.remove_ids(ALWAYS);
}

/// Removes the fields that `Connection` names, but never those that framing, routing or identity rest on.
fn strip_nominated(fields: &mut Fields) {
    let Some(value) = fields.get(H::Connection) else { return };
    if value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close") {
        return;
    }
    let value = value.to_vec();
    for name in value.split(|&b| b == b',') {
        let name = name.trim_ascii();
        let id = H::of(name);
        let keeps = matches!(
            id,
            H::ContentLength
                | H::Host
                | H::Te
                | H::XForwardedFor
                | H::XForwardedProto
                | H::XForwardedHost
                | H::XRequestId
        );
        if !keeps && !name.is_empty() {
            fields.remove_named(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fields: &Fields) -> Vec<String> {
        fields.iter().map(|(_, n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect()
    }

    #[test]
    fn what_ends_here() {
        let mut fields = Fields::default();
        for (name, value) in [
            ("Connection", "x-a, keep-alive"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("TE", "gzip, Trailers;q=1"),
            ("Keep-Alive", "5"),
            ("Upgrade", "h2c"),
            ("content-length", "3"),
        ] {
            fields.append_named(name.as_bytes(), value.as_bytes());
        }
        strip_request(&mut fields, false);
        assert_eq!(names(&fields), ["x-b=2", "te=trailers", "content-length=3"]);
    }
}
