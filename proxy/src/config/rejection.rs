//! Says which field of which resource is wrong, and why, in Envoy's words where users see them.
//!
//! Invariant: a rejection names one resource and one field path; it never contains a value that may be secret.

use std::fmt;

use crate::config::snapshot::ResourceKind;

/// Why a resource was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub kind: ResourceKind,
    pub name: String,
    /// By proto names, e.g. `virtual_hosts[0].routes[2].match.safe_regex`; empty: the resource as a whole.
    pub path: String,
    pub reason: String,
}

impl fmt::Display for Rejection {
    /// Envoy's message alone: what it prints after `error initializing configuration '…': `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// One wrong field within a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub path: String,
    pub reason: String,
}

impl Fault {
    pub fn of(self, kind: ResourceKind, name: &str) -> Rejection {
        Rejection { kind, name: name.to_owned(), path: self.path, reason: self.reason }
    }
}

/// Where in a resource the compiler stands: a chain of fields on the stack.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    outer: Option<&'a At<'a>>,
    message: &'static str,
    field: &'static str,
    index: Option<usize>,
    /// Checks of constraints begin anew inside an `Any`.
    any: bool,
}

impl<'a> At<'a> {
    /// The resource itself.
    pub fn resource() -> At<'static> {
        At { outer: None, message: "", field: "", index: None, any: true }
    }

    /// A field of a message of type `message`.
    pub fn field(&'a self, message: &'static str, field: &'static str) -> At<'a> {
        At { outer: Some(self), message, field, index: None, any: false }
    }

    pub fn item(&'a self, message: &'static str, field: &'static str, index: usize) -> At<'a> {
        At { outer: Some(self), message, field, index: Some(index), any: false }
    }

    /// Inside an `Any` held by this field.
    pub fn unpacked(mut self) -> At<'a> {
        self.any = true;
        self
    }

    /// A refusal in words of its own.
    pub fn refuse(&self, reason: impl Into<String>) -> Fault {
        Fault { path: self.path(), reason: reason.into() }
    }

    /// A field that this proxy knows, with a value that it does not obey.
    pub fn not_implemented(&self) -> Fault {
        self.refuse(format!("this value of {}.{} is not implemented yet", self.message, self.field))
    }

    /// A constraint of the API that this field breaks.
    pub fn violates(&self, rule: &str) -> Fault {
        let chain = self.chain(&format!("{}: {rule}", self.link()));
        self.refuse(format!("Proto constraint validation failed ({chain})"))
    }

    /// A oneof of the message in this field that is not set.
    pub fn lacks(&self, oneof: &str) -> Fault {
        let leaf = format!("field: \"{oneof}\", reason: is required");
        let leaf = if self.any { leaf } else { format!("{}: {EMBEDDED} | caused by {leaf}", self.link()) };
        let chain = self.chain(&leaf);
        self.refuse(format!("Proto constraint validation failed ({chain})"))
    }

    pub fn path(&self) -> String {
        let mut path = self.outer.map(At::path).unwrap_or_default();
        if !self.field.is_empty() {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(self.field);
        }
        if let Some(index) = self.index {
            path.push_str(&format!("[{index}]"));
        }
        path
    }

    fn link(&self) -> String {
        let index = self.index.map(|i| format!("[{i}]")).unwrap_or_default();
        format!("{}ValidationError.{}{index}", self.message, camel(self.field))
    }

    fn chain(&self, leaf: &str) -> String {
        let mut text = leaf.to_owned();
        let mut at = *self;
        while let Some(outer) = at.outer {
            if at.any || outer.any {
                break;
            }
            text = format!("{}: {EMBEDDED} | caused by {text}", outer.link());
            at = *outer;
        }
        text
    }
}

const EMBEDDED: &str = "embedded message failed validation";

fn camel(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut upper = true;
    for c in field.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            out.extend(c.to_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_speak_as_envoy() {
        let root = At::resource();
        let routes = root.field("HttpConnectionManager", "route_config");
        let host = routes.item("RouteConfiguration", "virtual_hosts", 1);
        let domains = host.field("VirtualHost", "domains");
        assert_eq!(
            domains.violates("value must contain at least 1 item(s)").reason,
            "Proto constraint validation failed (HttpConnectionManagerValidationError.RouteConfig: embedded message failed \
             validation | caused by RouteConfigurationValidationError.VirtualHosts[1]: embedded message failed validation \
             | caused by VirtualHostValidationError.Domains: value must contain at least 1 item(s))"
        );
        assert_eq!(
            host.lacks("action").reason,
            "Proto constraint validation failed (HttpConnectionManagerValidationError.RouteConfig: embedded message failed \
             validation | caused by RouteConfigurationValidationError.VirtualHosts[1]: embedded message failed validation \
             | caused by field: \"action\", reason: is required)"
        );
        assert_eq!(
            root.lacks("route_specifier").reason,
            "Proto constraint validation failed (field: \"route_specifier\", reason: is required)"
        );
        assert_eq!(domains.refuse("x").path, "route_config.virtual_hosts[1].domains");
    }
}
