//! Replies of our own: what Envoy answers where no upstream does.

use std::borrow::Cow;

use selvedge_runtime::Chunk;

use super::Stream;
use crate::http::h1::encode::decimal;
use crate::http::message::{Framing, HeaderId as H, RequestHead, ResponseHead};
use crate::observe::flags::Flags;
use crate::route::matchers::is_grpc;
use crate::route::pick::Picked;
use crate::route::rewrite;
use crate::route::table::{Direct, Redirect};

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
    /// What a gRPC client learns; `None`: what the status stands for there.
    pub grpc_status: Option<u64>,
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
            grpc_status: None,
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
        let is_head = self.request.is_method(b"HEAD");
        let mut body = reply.body;
        if is_grpc(&self.request) {
            let status = reply.grpc_status.unwrap_or_else(|| grpc_status_of(reply.status));
            speak_grpc(&mut head, status, if is_head { b"" } else { &body });
            body = Chunk::from_static(b"");
        }
        let length = body.len() as u64;
        //= rfc9110#6.4.1: these have no body, whatever they say
        if length > 0 && !matches!(head.status, 204 | 304) {
            head.fields.set(H::ContentLength, decimal(length, &mut [0; 20]));
            if !head.fields.contains(H::ContentType) {
                head.fields.append(H::ContentType, b"text/plain");
            }
            self.down_framing = Framing::Length(length);
        } else {
            body = Chunk::from_static(b"");
            head.fields.remove(H::ContentLength);
            if !head.fields.contains(H::GrpcStatus) {
                head.fields.remove(H::ContentType);
            }
            self.down_framing = Framing::None;
        }
        if is_head {
            body = Chunk::from_static(b"");
        }
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

/// Makes a reply one that gRPC clients read: always 200, and the body is the message.
//= envoy: Utility::prepareLocalReply
fn speak_grpc(head: &mut ResponseHead, status: u64, body: &[u8]) {
    head.status = 200;
    head.fields.set(H::ContentType, b"application/grpc");
    if !head.fields.contains(H::GrpcStatus) {
        head.fields.append(H::GrpcStatus, decimal(status, &mut [0; 20]));
    }
    if !body.is_empty() {
        let mut message = Vec::with_capacity(body.len());
        for byte in body {
            match byte {
                b' '..=b'~' if *byte != b'%' => message.push(*byte),
                _ => message.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
        head.fields.set(H::GrpcMessage, &message);
    }
}

//= envoy: Grpc::Utility::httpToGrpcStatus
fn grpc_status_of(status: u16) -> u64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
