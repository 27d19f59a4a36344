//! What an endpoint answers.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::Command;

pub(super) const TEXT: &str = "text/plain; charset=UTF-8";
/// envoy: some answers of the admin server name no character set
pub(super) const BARE_TEXT: &str = "text/plain";
pub(super) const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=UTF-8";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Cow<'static, str>,
    /// Of the connection, not of a command: fewer headers, and a length.
    pub(super) local: bool,
    /// Posted when the answer is on its way: the command may end the process.
    pub(super) then: Option<Command>,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, str>>) -> Reply {
        Reply { status, content_type, body: body.into(), local: false, then: None }
    }

    pub(super) fn ok() -> Reply {
        Reply::text("OK\n")
    }

    pub(super) fn text(body: impl Into<Cow<'static, str>>) -> Reply {
        Reply::new(200, TEXT, body)
    }

    pub(super) fn error(status: u16, body: impl Into<Cow<'static, str>>) -> Reply {
        Reply::new(status, TEXT, body)
    }

    //= envoy: local replies of the admin server's connection manager
    pub(super) fn local(status: u16, body: &'static str) -> Reply {
        Reply { local: true, ..Reply::new(status, BARE_TEXT, body) }
    }

    /// JSON as Envoy prints messages: each level one blank further in.
    pub(super) fn json(value: &serde_json::Value) -> Reply {
        Reply::new(200, JSON, pretty(value) + "\n")
    }
}

fn pretty(value: &serde_json::Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    value.serialize(&mut serializer).expect("a value of strings and numbers, into memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}
