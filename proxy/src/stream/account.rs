//! The end of a stream: counters, histograms, log lines; once for each, whatever way it ended.

use std::borrow::Cow;

use super::{Cut, Fate, Stream};
use crate::access_log::format::LogCx;
use crate::access_log::sink::LogId;
use crate::config::access_log::{Compare, CompareOp, LogFilter, LogFormat};
use crate::downstream::PANIC_REPLY;
use crate::http::message::HeaderId as H;
use crate::log;
use crate::observe::flags::Flags;
use crate::observe::info::StreamInfo;
use crate::stats::names::{ClusterHist, Http, HttpHist};
use crate::upstream::cluster::ClusterTwin;

impl Stream<'_> {
    /// Accounts the stream and says what becomes of the connection.
    pub(super) fn finish(&mut self, cut: Option<Cut>) -> Fate {
        if std::mem::replace(&mut self.finished, true) {
            return self.fate;
        }
        let now = self.conn.cx.rt.now_fine();
        self.info.stamps.flushed = Some(now);
        let http = &self.conn.twin.http;
        match cut {
            //= envoy: what is still to come of the request is reset
            None if !self.request_done => http.inc(Http::DownstreamRqRxReset),
            None => {}
            Some(Cut::Downstream) => {
                self.info.flags.add(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
                self.info.details = Some(Cow::Borrowed("downstream_remote_disconnect"));
                http.inc(Http::DownstreamRqRxReset);
                self.fate = Fate::Close;
            }
            Some(Cut::Upstream(details) | Cut::Filter(details)) => {
                self.info.details = Some(Cow::Borrowed(details));
                http.inc(Http::DownstreamRqTxReset);
                http.inc(Http::DownstreamRqRxReset);
                self.fate = Fate::CloseDelayed;
            }
            Some(Cut::Panic) => self.account_panic(),
        }
        self.up = None;
        self.filters = None;
        http.dec(Http::DownstreamRqActive);
        if self.info.health_check {
            http.inc(Http::TracingHealthCheck);
        }
        if self.info.upgraded {
            http.dec(Http::DownstreamCxUpgradesActive);
        }
        let total = now.millis_since(self.info.stamps.begun);
        http.record(HttpHist::DownstreamRqTime, total);
        let twin = &self.conn.twin;
        for (log, file) in twin.hcm.access_logs.iter().zip(&twin.log_files) {
            if self.is_logged(&log.filter, total) {
                // A line that cannot be written costs that line.
                self.conn.cx.rt.contain(|| self.write_log(&log.format, *file));
            }
        }
        self.fate
    }

    /// The stack unwinds. Which request it was stands in the log beside the place, which is told already.
    fn account_panic(&mut self) {
        let http = &self.conn.twin.http;
        self.info.details = Some(Cow::Borrowed("panic"));
        http.inc(Http::DownstreamRqRxReset);
        let nothing_said = self.info.downstream_wire_sent == 0;
        self.conn.owes_answer.set(nothing_said);
        self.conn.busy.set(!nothing_said);
        if nothing_said {
            self.info.downstream_wire_sent = PANIC_REPLY.len() as u64;
            self.info.status = Some(500);
            if self.response.take().is_none() {
                self.count_status(500);
            }
        } else {
            http.inc(Http::DownstreamRqTxReset);
        }
        let id = self.request.fields.get(H::XRequestId).unwrap_or(b"-");
        let path = self.request.path();
        log::error(
            "http",
            &format!(
                "[C{}] the panic above ended request {} ({} {}), route '{}'",
                self.conn.id,
                id[..id.len().min(TOLD)].escape_ascii(),
                self.request.method().escape_ascii(),
                path[..path.len().min(TOLD)].escape_ascii(),
                self.info.route_name.as_deref().unwrap_or("-"),
            ),
        );
    }

    /// The response has come whole from `cluster`: how long that took.
    //= envoy: Filter::onUpstreamComplete: from the end of the request to the end of the response
    pub(super) fn record_upstream_time(&self, cluster: &ClusterTwin) {
        if self.info.health_check {
            return;
        }
        let stamps = &self.info.stamps;
        if let (Some(asked), Some(last)) = (stamps.request_last, stamps.upstream_last) {
            let (took, internal) = (last.millis_since(asked), self.origin.internal);
            cluster.stats.record(ClusterHist::UpstreamRqTime, took);
            cluster.stats.record(
                if internal {
                    ClusterHist::InternalUpstreamRqTime
                } else {
                    ClusterHist::ExternalUpstreamRqTime
                },
                took,
            );
        }
    }

    fn write_log(&self, format: &LogFormat, file: LogId) {
        let rt = &self.conn.cx.rt;
        let cx = LogCx {
            info: &self.info,
            request: &self.request,
            response: self.response.as_ref(),
            trailers: self.response_trailers.as_ref(),
            protocol: Some(self.request.version.text()),
            local_reply_body: b"",
        };
        self.conn.cx.logs.line(file, |out| {
            format.write(&cx, out);
            rt.pass("access log");
        });
    }

    fn is_logged(&self, filter: &LogFilter, total_ms: u64) -> bool {
        match filter {
            LogFilter::Always => true,
            LogFilter::Status(c) => compare(*c, u64::from(self.info.status.unwrap_or(0))),
            LogFilter::DurationMs(c) => compare(*c, total_ms),
            LogFilter::NotHealthCheck => !self.info.health_check,
            LogFilter::Traceable => false,
            LogFilter::Sample(share) => share.takes(self.conn.cx.rt.random()),
            LogFilter::And(all) => all.iter().all(|f| self.is_logged(f, total_ms)),
            LogFilter::Or(any) => any.iter().any(|f| self.is_logged(f, total_ms)),
            LogFilter::Header(matcher) => matcher.fits(&self.request, false),
            LogFilter::Flags(any) if any.is_empty() => !self.info.flags.is_empty(),
            LogFilter::Flags(any) => any.iter().any(|flag| self.info.flags.has(*flag)),
        }
    }
}

/// Counts the status of an upstream, or of its failure. //= envoy: health checks are left out
pub(super) fn charge_code(info: &StreamInfo, internal: bool, cluster: &ClusterTwin, status: u16) {
    if !info.health_check {
        cluster.stats.code(status, internal);
    }
}

fn compare(c: Compare, value: u64) -> bool {
    let bound = c.value;
    match c.op {
        CompareOp::Eq => value == bound,
        CompareOp::Ge => value >= bound,
        CompareOp::Le => value <= bound,
        CompareOp::Ne => value != bound,
    }
}

/// Bytes of an id or a path in a line of the process log.
const TOLD: usize = 256;
