//! Replies of our own: what Envoy answers where no upstream does.

use std::borrow::Cow;

use selvedge_runtime::Chunk;

use super::Stream;
use crate::http::h1::encode::decimal;
use crate::http::header_id::IdSet;
use crate::http::message::{HeaderId as H, RequestHead, ResponseHead};
use crate::observe::flags::Flags;
use crate::route::pick::Picked;
use crate::route::rewrite;
use crate::route::table::{Direct, Redirect};

const BODY: IdSet = IdSet::of(&[H::ContentLength, H::ContentType]);

/// A local reply, before the connection manager's own fields.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Chunk,
    pub(crate) details: Cow<'static, str>,
    pub(crate) flags: Flags,
    pub(crate) location: Option<Vec<u8>>,
    /// Says `x-envoy-overloaded: true`.
    pub(crate) overloaded: bool,
}

impl Reply {
    pub(crate) fn text(status: u16, body: &[u8], details: &'static str) -> Reply {
        Reply {
            status,
            body: Chunk::copy_from(body),
            details: Cow::Borrowed(details),
            flags: Flags::default(),
            location: None,
            overloaded: false,
        }
    }

    pub(super) fn direct(direct: &Direct, head: &RequestHead) -> Reply {
        let mut reply = Reply::text(direct.status, b"", "direct_response");
        reply.body = Chunk::from_shared(std::sync::Arc::clone(&direct.body));
        //= envoy: a direct response of 201 or 3xx points to the request's own place
        if direct.status == 201 || direct.status / 100 == 3 {
            let mut location = Vec::new();
            rewrite::own_location(head, &mut location);
            reply.location = Some(location);
        }
        reply
    }
}

impl<'c> Stream<'c> {
    /// Makes the reply the response of this stream.
    pub(super) fn reply(&mut self, reply: Reply) {
        self.info.flags.add(reply.flags);
        self.info.details = Some(reply.details);
        let mut head = ResponseHead::new(reply.status);
        if let Some(location) = &reply.location {
            head.fields.append(H::Location, location);
        }
        if reply.overloaded {
            head.fields.append(H::XEnvoyOverloaded, b"true");
        }
        //= envoy: Utility::prepareLocalReply: the route's edits come before the body's fields
        self.route_mutations(&mut head);
        if reply.body.is_empty() {
            head.fields.remove_ids(BODY);
        } else {
            head.fields.set(H::ContentLength, decimal(reply.body.len() as u64, &mut [0; 20]));
            if !head.fields.contains(H::ContentType) {
                head.fields.append(H::ContentType, b"text/plain");
            }
        }
        self.send_response_head(head, reply.body.len() as u64, true);
        if !self.request.is_method(b"HEAD") && !reply.body.is_empty() {
            self.info.bytes_sent += reply.body.len() as u64;
            self.to_down.push(reply.body);
        }
        self.response_done = true;
    }

    /// Points elsewhere. A rewritten path is the request's own from here on, as logs show it.
    //= envoy: DirectResponseEntry::newUri, rewritePathHeader
    pub(super) fn redirect(&mut self, redirect: &Redirect, picked: Picked<'c>) {
        let mut reply = Reply::text(redirect.status, b"", "direct_response");
        let mut location = Vec::new();
        let path = redirect.location(picked.route, &self.request, false, &mut location);
        if redirect.rewrites_path() {
            self.set_path(&location[path]);
        }
        reply.location = Some(location);
        self.reply(reply);
    }
}
