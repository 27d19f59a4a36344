//! Chooses the route of a request. Pure.
//!
//! Invariant: the winner is the first route, in the order of the configuration, whose rules all fit, as a scan
//! of the list would find it. The indices only leave out routes whose path rule cannot fit.

use crate::http::message::RequestHead;
use crate::route::matchers::{Asked, PathMatch, without_query};
use crate::route::prefixes::{Exacts, Prefixes};
use crate::route::table::{Mutations, RequireTls, Route, RouteTable, VirtualHost, WeightedEntry};

/// What the choice needs besides the head.
#[derive(Debug, Clone, Copy)]
pub struct PickInput {
    /// The stream's number: the same one chooses among weighted clusters.
    pub random: u64,
    /// The request came over TLS, or says so where it is believed (`x-forwarded-proto`).
    pub https: bool,
    /// The request came from an internal address.
    pub internal: bool,
}

/// The chosen route and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Picked<'t> {
    pub table: &'t RouteTable,
    pub host: &'t VirtualHost,
    pub route: &'t Route,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    Host,
    Route,
    /// The virtual host wants TLS: redirect to https.
    TlsRequired,
}

/// The first route that matches.
pub fn pick<'t>(table: &'t RouteTable, head: &RequestHead, input: PickInput) -> Result<Picked<'t>, Miss> {
    let host = table.find_host(head.authority()).ok_or(Miss::Host)?;
    //= envoy: require_tls
    let wants_tls = match host.require_tls {
        RequireTls::None => false,
        RequireTls::ExternalOnly => !input.internal,
        RequireTls::All => true,
    };
    if wants_tls && !input.https {
        return Err(Miss::TlsRequired);
    }
    let path = without_query(head.path());
    let asked = Asked { random: input.random, https: input.https };
    let found = host.paths.first(path, host.routes.len(), |i| host.routes[i].matcher.fits(path, head, asked));
    let route = &host.routes[found.ok_or(Miss::Route)?];
    Ok(Picked { table, host, route })
}

impl<'t> Picked<'t> {
    /// Route, virtual host and table in the order in which they edit a head.
    //= envoy: most_specific_header_mutations_wins
    pub fn levels(self) -> [&'t Mutations; 3] {
        let (route, host, table) = (&self.route.mutations, &self.host.mutations, &self.table.mutations);
        if self.table.most_specific_wins { [table, host, route] } else { [route, host, table] }
    }

    /// The same after those of the weighted entry, which come first.
    pub fn mutations(self, entry: Option<&'t WeightedEntry>) -> impl Iterator<Item = &'t Mutations> {
        entry.map(|e| &e.mutations).into_iter().chain(self.levels())
    }
}

/// Finds virtual hosts by domain.
#[derive(Debug, Default)]
pub struct DomainIndex {
    exact: Exacts,
    /// `*.example.com`, from the end to the star.
    suffixes: Prefixes,
    /// `example.*`, up to the star.
    prefixes: Prefixes,
    any: Option<u32>,
}

/// Hosts up to this length are turned to lower case without allocation; DNS allows 253 bytes and a port 6.
const HOST_BYTES_INLINE: usize = 320;

impl DomainIndex {
    /// Domains in lower case with the number of their virtual host. They are distinct.
    pub fn new(domains: Vec<(String, u32)>) -> DomainIndex {
        let (mut exact, mut suffixes, mut prefixes, mut any) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (domain, host) in domains {
            if domain == "*" {
                any = Some(host);
            } else if let Some(suffix) = domain.strip_prefix('*') {
                suffixes.push((suffix.bytes().rev().collect(), host));
            } else if let Some(prefix) = domain.strip_suffix('*') {
                prefixes.push((prefix.as_bytes().into(), host));
            } else {
                exact.push((domain.into_bytes().into_boxed_slice(), host));
            }
        }
        DomainIndex {
            exact: Exacts::new(exact),
            suffixes: Prefixes::new(suffixes),
            prefixes: Prefixes::new(prefixes),
            any,
        }
    }

    /// The virtual host of a host name: exact, longest suffix, longest prefix, any, in that order.
    //= envoy: virtual host domains search order
    pub fn find(&self, host: &[u8]) -> Option<u32> {
        if let Some(&found) = self.exact.of(host, true).first() {
            return Some(found);
        }
        // A star stands for at least one character.
        let longest = |index: &Prefixes, text: &[u8]| {
            index
                .of(text, true)
                .find(|(len, _)| *len < text.len())
                .and_then(|(_, hosts)| hosts.first().copied())
        };
        if !self.suffixes.is_empty() {
            let mut inline = [0_u8; HOST_BYTES_INLINE];
            let spilled: Vec<u8>;
            let reversed = match inline.get_mut(..host.len()) {
                Some(space) => {
                    space.iter_mut().zip(host.iter().rev()).for_each(|(to, from)| *to = *from);
                    &*space
                }
                None => {
                    spilled = host.iter().rev().copied().collect();
                    &spilled
                }
            };
            if let Some(found) = longest(&self.suffixes, reversed) {
                return Some(found);
            }
        }
        longest(&self.prefixes, host).or(self.any)
    }
}

impl RouteTable {
    fn find_host(&self, authority: Option<&[u8]>) -> Option<&VirtualHost> {
        let authority = authority?;
        let name = if self.ignore_port_in_host { without_port(authority) } else { authority };
        self.domains.find(name).map(|i| &self.hosts[i as usize])
    }
}

/// The host without its port, if there is one.
pub fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = memchr::memrchr(b':', authority) else { return authority };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    let bracketed = host.first() == Some(&b'[') && host.last() == Some(&b']');
    let one_colon = memchr::memchr(b':', host).is_none();
    let digits = port.iter().all(u8::is_ascii_digit);
    if digits && (bracketed || one_colon) { host } else { authority }
}

/// Finds the routes of a virtual host whose path rule may match.
#[derive(Debug, Default)]
pub struct PathIndex {
    exact: Exacts,
    prefixes: Prefixes,
    exact_folded: Exacts,
    prefixes_folded: Prefixes,
    /// Routes that only trying can tell.
    others: Box<[u32]>,
}

/// More lists than this (prefixes nested deeper) are not merged: then all routes are tried in order.
const LISTS_MAX: usize = 24;

impl PathIndex {
    pub fn new<'m>(rules: impl Iterator<Item = &'m PathMatch>) -> PathIndex {
        let (mut exact, mut prefixes) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut others = Vec::new();
        for (rule, number) in rules.zip(0_u32..) {
            let text = |bytes: &[u8], fold: bool| -> Box<[u8]> {
                if fold { bytes.to_ascii_lowercase().into() } else { bytes.into() }
            };
            match rule {
                PathMatch::Exact { path, ignore_case } => {
                    exact[usize::from(*ignore_case)].push((text(path, *ignore_case), number));
                }
                PathMatch::Prefix { prefix, ignore_case }
                | PathMatch::SeparatedPrefix { prefix, ignore_case } => {
                    prefixes[usize::from(*ignore_case)].push((text(prefix, *ignore_case), number));
                }
                PathMatch::Regex(_) => others.push(number),
            }
        }
        let ([exact, exact_folded], [prefixes, prefixes_folded]) = (exact, prefixes);
        PathIndex {
            exact: Exacts::new(exact),
            prefixes: Prefixes::new(prefixes),
            exact_folded: Exacts::new(exact_folded),
            prefixes_folded: Prefixes::new(prefixes_folded),
            others: others.into_boxed_slice(),
        }
    }

    /// The smallest number among the candidates for `path` that `fits`.
    pub fn first(&self, path: &[u8], count: usize, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut lists: [&[u32]; LISTS_MAX] = [&[]; LISTS_MAX];
        let fixed = [self.exact.of(path, false), self.exact_folded.of(path, true), &*self.others];
        let nested = self.prefixes.of(path, false).chain(self.prefixes_folded.of(path, true));
        let mut used = 0;
        for list in fixed.into_iter().chain(nested.map(|(_, items)| items)) {
            if list.is_empty() {
                continue;
            }
            let Some(slot) = lists.get_mut(used) else { return (0..count).find(|i| fits(*i)) };
            *slot = list;
            used += 1;
        }
        let lists = &mut lists[..used];
        loop {
            let next = lists.iter_mut().filter(|l| !l.is_empty()).min_by_key(|l| l[0])?;
            let number = next[0] as usize;
            *next = &next[1..];
            if fits(number) {
                return Some(number);
            }
        }
    }
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;
