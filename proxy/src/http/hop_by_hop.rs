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

/// What is no field, though `Connection` names it.
const KEPT_NAMES: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b"http2-settings"];
/// Names that a `Connection` may list; one more is an attack.
const NOMINATED_MAX: usize = 9;
/// Bytes of a `te` that `Connection` names.
const TE_BYTES_MAX: usize = 255;

/// Removes the fields that `Connection` names, and their names from it. `false`: it names what no client may remove.
//= envoy: Utility::sanitizeConnectionHeader
pub fn strip_nominated(fields: &mut Fields) -> bool {
    let first = fields.get(H::Connection).unwrap_or_default();
    if first.eq_ignore_ascii_case(b"keep-alive") && fields.all(H::Connection).count() == 1 {
        return true;
    }
    let value = fields.all(H::Connection).collect::<Vec<_>>().join(&b","[..]);
    if value.split(|&b| b == b',').filter(|name| !name.is_empty()).count() > NOMINATED_MAX {
        return false;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for name in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
        match H::of(name) {
            _ if KEPT_NAMES.iter().any(|n| name.eq_ignore_ascii_case(n)) => kept.push(name),
            H::XForwardedFor | H::XForwardedHost | H::XForwardedProto => return false,
            _ if name.starts_with(b":") => return false,
            H::Te if fields.get(H::Te).is_some_and(|te| te.len() > TE_BYTES_MAX) => return false,
            H::Te if fields.get(H::Te).is_some_and(wants_trailers) => fields.set(H::Te, b"trailers"),
            // What frames the message is no client's to remove.
            H::Connection | H::ContentLength | H::TransferEncoding => {}
            _ => fields.remove_named(name),
        }
    }
    fields.set(H::Connection, &kept.join(&b","[..]));
    true
}

fn wants_trailers(te: &[u8]) -> bool {
    te.split(|&b| b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
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
        assert!(strip_nominated(&mut fields));
        strip_request(&mut fields, false);
        assert_eq!(names(&fields), ["x-b=2", "te=trailers", "content-length=3"]);
    }

    #[test]
    fn what_connection_may_name() {
        let nominate = |connection: &[&str], te: &str| {
            let mut fields = Fields::default();
            for value in connection {
                fields.append_named(b"Connection", value.as_bytes());
            }
            for (name, value) in
                [("host", "h"), ("content-length", "3"), ("cookie", "c"), ("x-a", "1"), ("te", te)]
            {
                fields.append_named(name.as_bytes(), value.as_bytes());
            }
            strip_nominated(&mut fields).then(|| names(&fields).join(" "))
        };
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["Host"], Some("connection= content-length=3 cookie=c x-a=1 te=q, trailers")),
            (&["content-length, COOKIE"], Some("connection= host=h content-length=3 x-a=1 te=q, trailers")),
            (
                &["Upgrade, x-a", "close"],
                Some("connection=Upgrade,close host=h content-length=3 cookie=c te=q, trailers"),
            ),
            (&["te,, ,"], Some("connection= host=h content-length=3 cookie=c x-a=1 te=trailers")),
            (
                &["a,b,c,d,e,f,g,h,i"],
                Some("connection= host=h content-length=3 cookie=c x-a=1 te=q, trailers"),
            ),
            (&["a,b,c,d,e,f,g,h,i", "j"], None),
            (&["close, X-Forwarded-For"], None),
            (&["x-forwarded-proto"], None),
            (&["x-forwarded-host"], None),
            (&["x-a, :path"], None),
        ];
        for (connection, left) in cases {
            assert_eq!(nominate(connection, "q, trailers").as_deref(), *left, "{connection:?}");
        }
        assert_eq!(nominate(&["te"], &"t".repeat(256)), None);
        let left = nominate(&["te"], &"t".repeat(255));
        assert_eq!(left.as_deref(), Some("connection= host=h content-length=3 cookie=c x-a=1"));
    }
}
