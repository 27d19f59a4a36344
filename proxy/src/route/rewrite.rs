//! Paths and hosts as routes rewrite them, clusters as they choose them, and where redirects point to. Pure.

use std::ops::Range;

use regex::bytes::Regex;

use crate::http::message::RequestHead;
use crate::route::matchers::{PathMatch, without_query};
use crate::route::table::{
    ClusterId, Forward, HostRewrite, PathRewrite, Redirect, RedirectPath, RedirectScheme, RegexRewrite,
    Route, Substitution, SubstitutionPart, Target, Weighted, WeightedEntry, WeightedTarget,
};

/// What a route's target comes to for one request.
#[derive(Debug, Clone, Copy)]
pub enum Chosen<'a> {
    Known(ClusterId),
    /// No cluster of that name was there at compile time.
    Unknown(&'a str),
    /// A field names it; `None`: the request has no such field.
    Named(Option<&'a [u8]>),
}

impl Forward {
    /// The cluster for this request, and the weighted entry that it belongs to.
    pub fn choose<'t: 'h, 'h>(
        &'t self,
        head: &'h RequestHead,
        random: u64,
    ) -> (Chosen<'h>, Option<&'t WeightedEntry>) {
        let known = |name: &'h str, id: Option<ClusterId>| id.map_or(Chosen::Unknown(name), Chosen::Known);
        match &self.target {
            Target::Cluster { name, id } => (known(name, *id), None),
            Target::Header(name) => (Chosen::Named(named_value(head, name)), None),
            Target::Weighted(weighted) => {
                let entry = weighted.entry(head, random);
                let chosen = match &entry.target {
                    WeightedTarget::Cluster { name, id } => known(name, *id),
                    WeightedTarget::Header(name) => Chosen::Named(named_value(head, name)),
                };
                (chosen, Some(entry))
            }
        }
    }

    /// The path to send upstream, query included, appended to `out`. `false`: it stays as it is.
    pub fn rewrite_path(&self, rule: &PathMatch, path: &[u8], out: &mut Vec<u8>) -> bool {
        match &self.path {
            PathRewrite::Keep => return false,
            PathRewrite::Matched(with) => replace_matched(rule, with, path, out),
            PathRewrite::Regex(rewrite) => replace_regex(rewrite, path, out),
        }
        true
    }

    /// The host to send upstream, unless the endpoint's name is wanted. `None`: it stays as it is.
    pub fn rewrite_host<'a>(&'a self, head: &'a RequestHead, out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        match &self.host {
            HostRewrite::Keep | HostRewrite::Auto => None,
            HostRewrite::Literal(host) => Some(host),
            HostRewrite::Header(name) => named_value(head, name).filter(|v| !v.is_empty()),
            HostRewrite::PathRegex(rewrite) => {
                rewrite.replace_all(without_query(head.path()), out);
                Some(out)
            }
        }
    }
}

impl Weighted {
    fn entry<'t>(&'t self, head: &RequestHead, random: u64) -> &'t WeightedEntry {
        let random = match self.random_header.as_ref().and_then(|name| named_value(head, name)) {
            Some(value) => std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(random),
            None => random,
        };
        let point = random % self.total.max(1);
        let at = self.entries.partition_point(|e| e.upto <= point);
        &self.entries[at.min(self.entries.len() - 1)]
    }
}

fn named_value<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    match name {
        b":authority" | b"host" => head.authority(),
        b":path" => Some(head.path()),
        b":method" => Some(head.method()),
        _ => head.fields.get_named(name),
    }
}

fn replace_matched(rule: &PathMatch, with: &[u8], path: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(with);
    out.extend_from_slice(&path[rule.matched_len(without_query(path)).min(path.len())..]);
}

fn replace_regex(rewrite: &RegexRewrite, path: &[u8], out: &mut Vec<u8>) {
    let plain = without_query(path);
    rewrite.replace_all(plain, out);
    out.extend_from_slice(&path[plain.len()..]);
}

impl RegexRewrite {
    /// Replaces every match, from left to right; none of an empty one right after another match.
    pub fn replace_all(&self, text: &[u8], out: &mut Vec<u8>) {
        if self.substitution.highest() >= self.pattern.captures_len() {
            // RE2: a substitution with a group that the pattern has not replaces nothing.
            out.extend_from_slice(text);
            return;
        }
        let mut copied = 0;
        for found in self.pattern.captures_iter(text) {
            let whole = found.get_match();
            out.extend_from_slice(&text[copied..whole.start()]);
            for part in &self.substitution.0 {
                match part {
                    SubstitutionPart::Literal(bytes) => out.extend_from_slice(bytes),
                    SubstitutionPart::Group(i) => {
                        out.extend_from_slice(found.get(usize::from(*i)).map_or(b"", |m| m.as_bytes()));
                    }
                }
            }
            copied = whole.end();
        }
        out.extend_from_slice(&text[copied..]);
    }

    pub fn new(pattern: Regex, substitution: &str) -> RegexRewrite {
        RegexRewrite { pattern, substitution: Substitution::parse(substitution) }
    }
}

impl Substitution {
    /// `\0` to `\9` are groups, `\\` is a backslash; at any other escape RE2 stops.
    pub fn parse(text: &str) -> Substitution {
        let (mut parts, mut literal) = (Vec::new(), Vec::new());
        let mut bytes = text.bytes();
        while let Some(b) = bytes.next() {
            match b {
                b'\\' => match bytes.next() {
                    Some(b'\\') => literal.push(b'\\'),
                    Some(digit @ b'0'..=b'9') => {
                        if !literal.is_empty() {
                            parts.push(SubstitutionPart::Literal(std::mem::take(&mut literal).into()));
                        }
                        parts.push(SubstitutionPart::Group(digit - b'0'));
                    }
                    _ => break,
                },
                _ => literal.push(b),
            }
        }
        if !literal.is_empty() {
            parts.push(SubstitutionPart::Literal(literal.into()));
        }
        Substitution(parts.into())
    }

    fn highest(&self) -> usize {
        let group = |part: &SubstitutionPart| match part {
            SubstitutionPart::Group(i) => usize::from(*i),
            SubstitutionPart::Literal(_) => 0,
        };
        self.0.iter().map(group).max().unwrap_or(0)
    }
}

impl Redirect {
    /// Whether the new path is made from the old one, and so counts as a rewrite.
    pub fn rewrites_path(&self) -> bool {
        matches!(self.path, RedirectPath::Matched(_) | RedirectPath::Regex(_))
    }

    /// The value of `location`, appended to `out`; the answer is where its path stands. `https`: the scheme of
    /// the request.
    //= envoy: RedirectAction
    pub fn location(
        &self,
        route: &Route,
        head: &RequestHead,
        https: bool,
        out: &mut Vec<u8>,
    ) -> Range<usize> {
        let own: &[u8] = if https { b"https" } else { b"http" };
        let scheme = match &self.scheme {
            RedirectScheme::Keep => own,
            RedirectScheme::Https => b"https",
            RedirectScheme::Named(name) => name,
        };
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        match &self.host {
            Some(host) => out.extend_from_slice(host),
            None => {
                let drop_port = |port: &[u8]| {
                    self.port.is_some()
                        || (scheme != own && port == if https { &b":443"[..] } else { b":80" })
                };
                out.extend_from_slice(host_without(head.authority().unwrap_or_default(), drop_port));
            }
        }
        if let Some(port) = self.port {
            out.extend_from_slice(format!(":{port}").as_bytes());
        }
        let start = out.len();
        let path = head.path();
        let mut keep_query = !self.strip_query;
        match &self.path {
            RedirectPath::Keep => out.extend_from_slice(path),
            RedirectPath::Whole(whole) => {
                out.extend_from_slice(whole);
                if whole.contains(&b'?') {
                    // Its own query has precedence and is not stripped.
                    keep_query = true;
                } else if let Some(at) = memchr::memchr(b'?', path) {
                    out.extend_from_slice(&path[at..]);
                }
            }
            RedirectPath::Matched(with) => replace_matched(&route.matcher.path, with, path, out),
            RedirectPath::Regex(rewrite) => replace_regex(rewrite, path, out),
        }
        if !keep_query && let Some(at) = memchr::memchr(b'?', &out[start..]) {
            out.truncate(start + at);
        }
        start..out.len()
    }
}

/// Where a request came to.
pub fn own_location(head: &RequestHead, out: &mut Vec<u8>) {
    out.extend_from_slice(b"http://");
    out.extend_from_slice(head.authority().unwrap_or_default());
    out.extend_from_slice(head.path());
}

/// Where a request goes that must come over TLS.
pub fn tls_location(head: &RequestHead, out: &mut Vec<u8>) {
    out.extend_from_slice(b"https://");
    out.extend_from_slice(host_without(head.authority().unwrap_or_default(), |port| port == b":80"));
    out.extend_from_slice(head.path());
}

/// The host, its port left out when `drop` says so of `:port`.
fn host_without(authority: &[u8], drop: impl Fn(&[u8]) -> bool) -> &[u8] {
    let colon = match authority.first() {
        Some(b'[') => memchr::memmem::rfind(authority, b"]:").map(|at| at + 1),
        _ => memchr::memrchr(b':', authority),
    };
    match colon {
        Some(at) if drop(&authority[at..]) => &authority[..at],
        _ => authority,
    }
}
