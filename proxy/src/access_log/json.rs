//! Log lines in JSON. Keys are sorted, as Envoy prints them.

use serde_json::Value;

use crate::access_log::format::{Format, FormatError, LogCx};

/// A compiled JSON format.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonFormat {
    root: Node,
    omit_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Value(Format),
    /// Keys are quoted.
    Object(Box<[(Box<[u8]>, Node)]>),
    List(Box<[Node]>),
    Fixed(Box<[u8]>),
    Null,
}

impl JsonFormat {
    pub fn compile(value: &Value, omit_empty: bool) -> Result<JsonFormat, FormatError> {
        Ok(JsonFormat { root: Node::compile(value, omit_empty)?, omit_empty })
    }

    pub fn write(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) {
        if !self.root.write(cx, self.omit_empty, out) {
            out.extend_from_slice(b"{}");
        }
    }
}

impl Node {
    fn compile(value: &Value, omit_empty: bool) -> Result<Node, FormatError> {
        Ok(match value {
            Value::Null => Node::Null,
            Value::String(text) => Node::Value(Format::compile(text, omit_empty)?),
            Value::Object(map) => {
                let mut entries = Vec::new();
                for (key, value) in map {
                    let mut name = [b"\"", key.as_bytes()].concat();
                    escape_from(1, &mut name);
                    name.push(b'"');
                    entries.push((name.into_boxed_slice(), Node::compile(value, omit_empty)?));
                }
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Node::Object(entries.into())
            }
            Value::Array(list) => {
                Node::List(list.iter().map(|v| Node::compile(v, omit_empty)).collect::<Result<_, _>>()?)
            }
            other => Node::Fixed(other.to_string().into_bytes().into()),
        })
    }

    /// `false`: nothing is written, for there is nothing to tell and such values are left out.
    fn write(&self, cx: &LogCx<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let found = match self {
            Node::Null => false,
            Node::Value(format) => format.write_json(cx, out),
            Node::Fixed(text) => {
                out.extend_from_slice(text);
                true
            }
            Node::Object(entries) => {
                let empty = Node::write_object(entries, cx, omit_empty, out);
                !(empty && omit_empty)
            }
            Node::List(values) => {
                out.push(b'[');
                let mut any = false;
                for value in values {
                    let before = out.len();
                    if any {
                        out.push(b',');
                    }
                    if value.write(cx, omit_empty, out) {
                        any = true;
                    } else {
                        out.truncate(before);
                    }
                }
                out.push(b']');
                true
            }
        };
        if !found {
            out.truncate(start);
            if !omit_empty {
                out.extend_from_slice(b"null");
                return true;
            }
        }
        found
    }

    /// Whether it has no entries.
    fn write_object(
        entries: &[(Box<[u8]>, Node)],
        cx: &LogCx<'_>,
        omit_empty: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        out.push(b'{');
        let mut empty = true;
        for (key, value) in entries {
            let before = out.len();
            if !empty {
                out.push(b',');
            }
            out.extend_from_slice(key);
            out.push(b':');
            if value.write(cx, omit_empty, out) {
                empty = false;
            } else {
                out.truncate(before);
            }
        }
        out.push(b'}');
        empty
    }
}

/// Escapes, in place, what stands in `out` from `start` on, as inside a JSON string. Of what is not UTF-8, each
/// byte beyond ASCII is escaped as one character.
//= envoy: Json::sanitize
pub(crate) fn escape_from(start: usize, out: &mut Vec<u8>) {
    let plain = |b: &u8| (0x20..0x80).contains(b) && !matches!(b, b'"' | b'\\');
    if out[start..].iter().all(plain) {
        return;
    }
    let is_text = std::str::from_utf8(&out[start..]).is_ok();
    let end = out.len();
    for at in start..end {
        let b = out[at];
        let short = match b {
            b'"' | b'\\' => b,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => 0,
        };
        if short != 0 && is_text {
            out.extend_from_slice(&[b'\\', short]);
        } else if b < 0x20 || short != 0 || (b >= 0x80 && !is_text) {
            let hex = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b)]);
        } else {
            out.push(b);
        }
    }
    out.drain(start..end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_envoy() {
        let escaped = |bytes: &[u8]| {
            let mut out = [b"x\"", bytes].concat();
            escape_from(2, &mut out);
            out.escape_ascii().to_string()
        };
        assert_eq!(escaped(b"plain"), r#"x\"plain"#);
        assert_eq!(escaped("\"\t\\é\u{1}\u{7f}".as_bytes()), r#"x\"\\\"\\t\\\\\xc3\xa9\\u0001\x7f"#);
        assert_eq!(escaped(b"a\xff\xc3\xa9\t\"\\/z"), r#"x\"a\\u00ff\\u00c3\\u00a9\\u0009\\u0022\\u005c/z"#);
    }
}
