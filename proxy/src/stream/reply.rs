//! Replies of our own: what Envoy answers where no upstream does.

use std::borrow::Cow;

use selvedge_runtime::Chunk;

use super::Stream;
use crate::http::h1::encode::decimal;
use crate::http::header_id::IdSet;
use crate::http::message::{Framing, HeaderId as H, RequestHead, ResponseHead};
use crate::observe::flags::Flags;
use crate::route::pick::Picked;
use crate::route::rewrite;
use crate::route::table::{Direct, Redirect};

const BODY: IdSet = IdSet::of(&[H::ContentLength, H::ContentType]);

/// A local reply, before the connection manager's own fields.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Chunk,
    pub details: Cow<'static, str>,
    pub flags: Flags,
    pub location: Option<Vec<u8>>,
    /// Fields of a filter's; they replace those of the same name.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Says `x-envoy-overloaded: true`.
    pub overloaded: bool,
}

impl Reply {
    pub fn text(status: u16, body: &[u8], details: &'static str) -> Reply {
        Reply {
            status,
            body: Chunk::copy_from(body),
            details: Cow::Borrowed(details),
            flags: Flags::default(),
            location: None,
            headers: Vec::new(),
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
        //= envoy: Utility::prepareLocalReply: the route's edits come before the filter's and the body's fields
        self.route_mutations(&mut head);
        for (name, _) in &reply.headers {
            head.fields.remove_named(name);
        }
        for (name, value) in &reply.headers {
            head.fields.append_named(name, value);
        }
        let length = reply.body.len() as u64;
        if length > 0 {
            head.fields.set(H::ContentLength, decimal(length, &mut [0; 20]));
            if !head.fields.contains(H::ContentType) {
                head.fields.append(H::ContentType, b"text/plain");
            }
            self.down_framing = Framing::Length(length);
        } else {
            head.fields.remove_ids(BODY);
            self.down_framing = Framing::None;
        }
        let body = if self.request.is_method(b"HEAD") { Chunk::from_static(b"") } else { reply.body };
        match self.reply_through_filters(head, &body) {
            Some(head) => {
                self.send_response_head(head);
                self.emit(body);
                self.response_last(None);
            }
            None => self.broken = self.drive_response().err(),
        }
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
