//! The path and the parameters of an admin request. Pure.

/// The parameters, decoded, in the order given. Of two with the same name the first counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Of the part behind the question mark, or of a form's body.
    pub(super) fn parse(text: &str) -> Query {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode(name);
            if !pairs.iter().any(|(n, _)| *n == name) {
                pairs.push((name, decode(value)));
            }
        }
        Query { pairs }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The value, when it is not empty.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

/// Percent escapes to bytes; one that is none stays. Bytes that are no UTF-8 are replaced.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    while let Some(&b) = bytes.get(at) {
        at += 1;
        match (b, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 2;
            }
            _ => out.push(b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The path as the list of endpoints knows it: what needs no escape decoded, dots resolved, slashes merged.
//= envoy: the admin server's connection manager has normalize_path and merge_slashes
pub(super) fn normal_path(raw: &str) -> String {
    let plain = plain(raw);
    let mut parts: Vec<&str> = Vec::new();
    for part in plain.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let folder = !parts.is_empty() && ["/", "/.", "/.."].iter().any(|end| plain.ends_with(end));
    format!("/{}{}", parts.join("/"), if folder { "/" } else { "" })
}

/// Decodes the escapes of letters, digits and `-._~`; others stay, so that `%2f` parts nothing.
fn plain(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).unwrap_or("%");
        match decode(escape).as_bytes() {
            [b] if b.is_ascii_alphanumeric() || b"-._~".contains(b) => out.push(char::from(*b)),
            _ => out.push_str(escape),
        }
        rest = &rest[at + escape.len()..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let q = Query::parse("usedonly&filter=%5ea%2B+b&x=y=z&&filter=2");
        assert!(q.has("usedonly") && !q.has("used"));
        assert_eq!((q.get("filter"), q.get("x"), q.filled("usedonly")), (Some("^a++b"), Some("y=z"), None));
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }

    #[test]
    fn paths() {
        for (raw, expected) in [
            ("//stats", "/stats"),
            ("///", "/"),
            ("/%72eady", "/ready"),
            ("/ready/", "/ready/"),
            ("/a/../ready", "/ready"),
            ("/x/%2e%2E/./ready", "/ready"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/%2fready%", "/%2fready%"),
            ("/%é", "/%é"),
        ] {
            assert_eq!(normal_path(raw), expected);
        }
    }
}
