//! The response's side of a stream: read strictly, edited, framed for the client.

use std::borrow::Cow;

use selvedge_runtime::{Chunk, NetError, RecvClass};

use super::account::charge_code;
use super::{Cut, Fate, Reply, Stream};
use crate::access_log::format::LogCx;
use crate::filters::Dir;
use crate::http::edge::{self, Signature};
use crate::http::h1::body::{BodyDecoder, BodyEvent};
use crate::http::h1::encode::{decimal, encode_response, frame, frame_response, last_chunk};
use crate::http::h1::response::{self, DecodedResponse, RequestKind};
use crate::http::header_id::JOINED_IN_RESPONSE;
use crate::http::hop_by_hop;
use crate::http::message::{Framing, HeaderId as H, ResponseHead, Trailers, Version};
use crate::limits;
use crate::observe::flags::Flags;
use crate::stats::names::{Cluster as ClusterStat, Http, ListenerHttp};
use crate::upstream::endpoint::EndpointStat;
use crate::upstream::pool;

impl Stream<'_> {
    pub(super) fn on_up_bytes(&mut self, chunk: Chunk) -> Result<(), Cut> {
        let Some(up) = &mut self.up else { return Ok(()) };
        up.cluster.stats.add(ClusterStat::UpstreamCxRxBytesTotal, chunk.len() as u64);
        self.info.upstream_wire_received += chunk.len() as u64;
        if self.tunnel {
            self.info.bytes_sent += chunk.len() as u64;
            self.to_down.push(chunk);
            self.flush_down();
            return Ok(());
        }
        if up.body.is_some() {
            self.on_body(chunk)?;
        } else {
            if self.info.stamps.upstream_first.is_none() {
                self.info.stamps.upstream_first = Some(self.conn.cx.rt.now_fine());
            }
            self.on_head_bytes(chunk)?;
        }
        self.flush_down();
        Ok(())
    }

    fn on_head_bytes(&mut self, mut bytes: Chunk) -> Result<(), Cut> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let bounds = up.cluster.config().response_head_limits();
        // Interim responses may stand before the final one.
        loop {
            let Some(up) = &mut self.up else { return Ok(()) };
            match up.gather.end(&mut bytes, &bounds, self.conn.cx.rt.budget()) {
                Err(_) => return self.bad_response(),
                Ok(None) => return Ok(()),
                Ok(Some(end)) => {
                    self.conn.cx.rt.pass("response head");
                    let block = self.conn.cx.rt.budget().keep(bytes.split_to(end));
                    let kind = RequestKind { head: self.request.is_method(b"HEAD"), upgrade: self.upgrade };
                    match response::decode_response(block, kind, &bounds) {
                        Err(_) => return self.bad_response(),
                        Ok(response) if response.head.status == 101 => {
                            return self.switch_protocols(response, bytes);
                        }
                        //= rfc9110#15.2: an interim response is not the answer
                        Ok(response) if response.head.status < 200 => {
                            self.interims += 1;
                            if self.interims > limits::INTERIM_RESPONSES {
                                return self.bad_response();
                            }
                            //= envoy: only the first one counts, and passes
                            if self.interims == 1 {
                                charge_code(
                                    &self.info,
                                    self.origin.internal,
                                    &up.cluster,
                                    response.head.status,
                                );
                                self.pass_interim(response.head);
                            }
                        }
                        Ok(response) => return self.on_response(response, bytes),
                    }
                }
            }
        }
    }

    /// An interim response on its way to the client. //= envoy: proxy_100_continue
    fn pass_interim(&mut self, mut head: ResponseHead) {
        if !self.conn.twin.hcm.proxy_100_continue {
            return;
        }
        hop_by_hop::strip_response(&mut head.fields, false);
        let mut block = self.conn.cx.rt.block(head.fields.byte_size() + 64);
        encode_response(&head, self.request.version, Framing::None, &mut block);
        self.to_down.push(block.freeze());
        self.count_status(head.status);
        self.flush_down();
    }

    fn on_response(&mut self, response: DecodedResponse, rest: Chunk) -> Result<(), Cut> {
        if let Some(up) = self.up.as_ref().filter(|_| !response.keep_alive) {
            //= envoy: counted by the head, however the body ends
            up.cluster.stats.inc(ClusterStat::UpstreamCxCloseNotify);
        }
        if self.upgrade && (200..400).contains(&response.head.status) && self.asks_for_websocket() {
            return self.refuse_handshake(&response.head);
        }
        let Some(up) = &mut self.up else { return Ok(()) };
        up.keep_alive = response.keep_alive;
        up.body = Some(BodyDecoder::new(response.framing));
        charge_code(&self.info, self.origin.internal, &up.cluster, response.head.status);
        let good = response.head.status < 500;
        up.conn.host.inc(if good { EndpointStat::RqSuccess } else { EndpointStat::RqError });
        let long = matches!(response.framing, Framing::Length(n) if n >= limits::LARGE_BODY_BYTES);
        up.conn.socket.set_recv_class(if long { RecvClass::Large } else { RecvClass::Small });
        self.try_deadline = selvedge_runtime::Instant::FAR;
        let mut head = response.head;
        head.fields.join_repeated(JOINED_IN_RESPONSE);
        hop_by_hop::strip_response(&mut head.fields, false);
        if self.info.details.is_none() {
            self.info.details = Some(Cow::Borrowed("via_upstream"));
        }
        self.add_service_time(&mut head);
        self.info.status = Some(head.status);
        self.route_mutations(&mut head);
        self.down_framing = match response.framing {
            // envoy: a response to HTTP/1.1 of unknown length becomes chunked
            Framing::UntilClose => Framing::Chunked,
            framing => framing,
        };
        match &self.filters {
            None => self.send_response_head(head),
            Some(_) => {
                self.respond_through_filters(head);
                self.drive_response()?;
            }
        }
        self.on_body(rest)
    }

    fn asks_for_websocket(&self) -> bool {
        self.request.fields.get(H::Upgrade).is_some_and(|p| p.eq_ignore_ascii_case(b"websocket"))
    }

    /// A WebSocket is neither agreed to nor refused: the client learns the status, and nothing of the body.
    //= envoy: websocket_handshake_unsuccessful
    fn refuse_handshake(&mut self, head: &ResponseHead) -> Result<(), Cut> {
        let mut reply = Reply::text(head.status, b"", "websocket_handshake_unsuccessful");
        reply.location = head.fields.get(H::Location).map(<[u8]>::to_vec);
        self.drop_upstream();
        self.reply(reply);
        self.flush_down();
        Ok(())
    }

    fn add_service_time(&mut self, head: &mut ResponseHead) {
        // envoy: only after the whole request
        let whole = self.request_done && self.to_up.is_empty();
        if self.conn.twin.hcm.router.suppress_envoy_headers || !whole {
            return;
        }
        let stamps = &self.info.stamps;
        //= envoy: from the end of the request; a response that comes before has none
        if let (Some(asked), Some(first)) = (stamps.request_last, stamps.upstream_first) {
            head.fields.set(H::XEnvoyUpstreamServiceTime, decimal(first.millis_since(asked), &mut [0; 20]));
        }
    }

    /// What route, virtual host and table do to a response. //= envoy: for them a reply of ours has no status yet
    pub(super) fn route_mutations(&mut self, head: &mut ResponseHead) {
        let Some(picked) = self.picked else { return };
        let protocol = Some(self.request.version.text());
        for level in picked.mutations(self.entry).filter(|l| !l.response.is_empty()) {
            let (info, request) = (&self.info, &self.request);
            level.response.apply(
                head,
                JOINED_IN_RESPONSE,
                |head| &mut head.fields,
                |format, response, out| {
                    let response = Some(response);
                    let cx =
                        LogCx { info, request, response, trailers: None, protocol, local_reply_body: b"" };
                    format.write(&cx, out);
                },
            );
        }
    }

    /// The connection manager's last edits, and the head's bytes.
    pub(super) fn send_response_head(&mut self, mut head: ResponseHead) {
        let twin = &self.conn.twin;
        let server = twin.hcm.server_header;
        let request_id = self.request.fields.get(H::XRequestId);
        let request_id = request_id.filter(|_| twin.hcm.always_set_request_id_in_response);
        let (name, via) = (&*twin.hcm.server_name, &*twin.hcm.edge.via);
        self.conn.cx.with_date(|date| {
            edge::response_out(&mut head.fields, Signature { name, server, via, date, request_id });
        });
        let old = self.request.version == Version::H10;
        self.decide_keep_alive(old);
        if self.fate != Fate::KeepAlive || (self.conn.is_draining() && !self.tunnel) {
            head.fields.set(H::Connection, b"close");
        } else if old {
            head.fields.set(H::Connection, b"keep-alive");
        }
        let framed = frame_response(&mut head, self.down_framing, self.request.is_method(b"HEAD"), old);
        self.down_framing = framed.body;
        let mut block = self.conn.cx.rt.block(head.fields.byte_size() + 256);
        self.conn.cx.rt.pass("response encoding");
        encode_response(&head, self.request.version, framed.named, &mut block);
        self.to_down.push(block.freeze());
        self.count_status(head.status);
        if !self.request_done {
            self.conn.twin.http.inc(Http::DownstreamRqResponseBeforeRqComplete);
        }
        self.info.stamps.first_out = Some(self.conn.cx.rt.now());
        self.info.status = Some(head.status);
        self.response = Some(head);
    }

    /// Whether the connection lives on after this response.
    fn decide_keep_alive(&mut self, old: bool) {
        let twin = &self.conn.twin;
        //= envoy: asked of every response, also where the connection ends anyway
        let drains = !self.tunnel && self.conn.drains();
        if self.fate != Fate::KeepAlive {
            return;
        }
        let most = twin.hcm.max_requests_per_connection;
        //= envoy: doEndStream: where the reply is made while the head is read, the rest of the request may be to come
        let closed = if self.waited { Fate::Close } else { Fate::CloseDelayed };
        if !self.request_done && !self.tunnel {
            //= envoy: a response before the end of the request closes the connection
            self.fate = Fate::CloseDelayed;
        } else if old && self.down_framing == Framing::Chunked {
            self.fate = Fate::Close;
        } else if drains {
            //= envoy: the end of the drain closes the connection, whatever else would have
        } else if !self.keep_alive {
            self.fate = closed;
        } else if most > 0 && self.conn.requests.get() >= most {
            twin.http.inc(Http::DownstreamCxMaxRequestsReached);
            self.fate = closed;
        }
    }

    pub(super) fn count_status(&self, status: u16) {
        if self.info.health_check {
            return;
        }
        let twin = &self.conn.twin;
        let (http, listener) = match status / 100 {
            1 => (Http::DownstreamRq1xx, ListenerHttp::DownstreamRq1xx),
            2 => (Http::DownstreamRq2xx, ListenerHttp::DownstreamRq2xx),
            3 => (Http::DownstreamRq3xx, ListenerHttp::DownstreamRq3xx),
            4 => (Http::DownstreamRq4xx, ListenerHttp::DownstreamRq4xx),
            _ => (Http::DownstreamRq5xx, ListenerHttp::DownstreamRq5xx),
        };
        twin.http.inc(http);
        twin.listener_http.inc(listener);
        twin.http.inc(Http::DownstreamRqCompleted);
        twin.listener_http.inc(ListenerHttp::DownstreamRqCompleted);
    }

    /// Body bytes on their way to the client.
    pub(super) fn emit(&mut self, data: Chunk) {
        self.info.bytes_sent += data.len() as u64;
        frame(self.down_framing, data, &mut self.to_down, self.conn.cx.rt.budget());
    }

    /// The end of what goes to the client.
    pub(super) fn response_last(&mut self, trailers: Option<Trailers>) {
        if self.down_framing == Framing::Chunked {
            last_chunk(trailers.as_ref(), &mut self.to_down, self.conn.cx.rt.budget());
        }
        self.response_trailers = trailers;
        self.response_done = true;
    }

    fn on_body(&mut self, mut chunk: Chunk) -> Result<(), Cut> {
        self.conn.cx.rt.pass("response body");
        while let Some(body) = self.up.as_mut().and_then(|up| up.body.as_mut()) {
            match body.decode(&mut chunk) {
                Ok(BodyEvent::NeedMore) => break,
                Ok(BodyEvent::Data(data)) => self.response_data(data),
                Ok(BodyEvent::End(trailers)) => {
                    //= envoy: enable_trailers: otherwise nobody sees them, filters and logs neither
                    let trailers = trailers.filter(|_| self.passes_trailers);
                    self.response_ended(&chunk);
                    self.response_over(trailers);
                    break;
                }
                Err(_) => {
                    self.info.flags.add(Flags::UPSTREAM_PROTOCOL_ERROR);
                    if let Some(up) = &self.up {
                        up.cluster.stats.inc(ClusterStat::UpstreamCxProtocolError);
                    }
                    return Err(self.cut_upstream(PROTOCOL_ERROR_LATE));
                }
            }
        }
        if self.is_open(Dir::Response) { Ok(()) } else { self.drive_response() }
    }

    /// The whole response is here: the connection goes back when nothing speaks against it.
    fn response_ended(&mut self, rest: &Chunk) {
        self.route_deadline = selvedge_runtime::Instant::FAR;
        let now = self.conn.cx.rt.now();
        self.info.stamps.upstream_last = Some(now);
        let Some(up) = self.up.take() else { return };
        self.record_upstream_time(&up.cluster);
        let idle = !up.busy || up.conn.socket.poll_sent().is_ready();
        if self.request_done && self.to_up.is_empty() && idle {
            let until_close = up.body.as_ref().is_some_and(BodyDecoder::ends_with_connection);
            if !rest.is_empty() {
                //= envoy: nobody has asked for it
                up.cluster.stats.inc(ClusterStat::UpstreamCxProtocolError);
            }
            if up.keep_alive && !until_close && rest.is_empty() {
                pool::give(up.conn);
            } else {
                up.conn.retire();
            }
        }
    }

    /// The upstream closed, or its connection broke.
    pub(super) fn on_up_end(&mut self, error: Option<NetError>) -> Result<(), Cut> {
        let Some(up) = &self.up else { return Ok(()) };
        up.conn.ended_by_peer();
        if error.is_none() && !self.tunnel && up.body.as_ref().is_some_and(BodyDecoder::ends_with_connection)
        {
            self.response_ended(&Chunk::from_static(b""));
            self.response_over(None);
            self.flush_down();
            return if self.is_open(Dir::Response) { Ok(()) } else { self.drive_response() };
        }
        //= envoy: in the middle of a message the end is a protocol error
        if up.gather.has_begun() {
            return self.bad_response();
        }
        if self.response.is_some() && !self.tunnel {
            self.info.flags.add(Flags::UPSTREAM_PROTOCOL_ERROR);
            up.cluster.stats.inc(ClusterStat::UpstreamCxProtocolError);
            return Err(self.cut_upstream(PROTOCOL_ERROR_LATE));
        }
        self.info.flags.add(Flags::UPSTREAM_CONNECTION_TERMINATION);
        if self.tunnel {
            return Err(self.cut_upstream(TERMINATION_LATE));
        }
        self.charge_abort(503);
        self.drop_upstream();
        self.reset_before_response(503, "connection termination", false);
        Ok(())
    }

    /// The response has begun and cannot be finished: what the client gets is visibly broken.
    fn cut_upstream(&mut self, details: &'static str) -> Cut {
        self.drop_upstream();
        Cut::Upstream(details)
    }

    fn bad_response(&mut self) -> Result<(), Cut> {
        self.info.flags.add(Flags::UPSTREAM_PROTOCOL_ERROR);
        if let Some(up) = &self.up {
            up.cluster.stats.inc(ClusterStat::UpstreamCxProtocolError);
        }
        self.charge_abort(502);
        self.drop_upstream();
        self.reset_before_response(502, "protocol error", false);
        Ok(())
    }

    /// Counts a failure of the upstream. //= envoy: not once an interim response has come
    fn charge_abort(&self, status: u16) {
        if let Some(up) = self.up.as_ref().filter(|_| self.interims == 0) {
            charge_code(&self.info, self.origin.internal, &up.cluster, status);
            up.conn.host.inc(EndpointStat::RqError);
        }
    }

    /// The reply where no response has begun. `reason`: in Envoy's words.
    pub(super) fn reset_before_response(&mut self, status: u16, reason: &str, overloaded: bool) {
        const FRONT: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";
        //= envoy: an interim response is a beginning
        let when = if self.interims == 0 { "before" } else { "after" };
        let mut details = format!("upstream_reset_{when}_response_started{{{}", reason.replace(' ', "_"));
        if let Some(failure) = &self.info.failure {
            details.push('|');
            details.push_str(failure);
        }
        details.push('}');
        let mut reply = Reply::text(status, format!("{FRONT}{reason}").as_bytes(), "");
        reply.details = Cow::Owned(details);
        reply.overloaded = overloaded;
        self.reply(reply);
        self.flush_down();
    }

    /// 101: from here on bytes pass both ways.
    fn switch_protocols(&mut self, response: DecodedResponse, rest: Chunk) -> Result<(), Cut> {
        let Some(up) = &mut self.up else { return Ok(()) };
        charge_code(&self.info, self.origin.internal, &up.cluster, 101);
        up.body = Some(BodyDecoder::new(Framing::UntilClose));
        self.tunnel = true;
        self.disarm();
        let mut head = response.head;
        head.fields.join_repeated(JOINED_IN_RESPONSE);
        hop_by_hop::strip_response(&mut head.fields, true);
        self.add_service_time(&mut head);
        self.info.status = Some(head.status);
        self.route_mutations(&mut head);
        self.down_framing = Framing::UntilClose;
        self.info.details = Some(Cow::Borrowed("via_upstream"));
        self.send_response_head(head);
        self.info.bytes_sent += rest.len() as u64;
        self.to_down.push(rest);
        self.flush_down();
        self.flush_up();
        Ok(())
    }
}

const PROTOCOL_ERROR_LATE: &str = "upstream_reset_after_response_started{protocol_error}";
const TERMINATION_LATE: &str = "upstream_reset_after_response_started{connection_termination}";
