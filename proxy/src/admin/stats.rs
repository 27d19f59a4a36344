//! `/stats` in its forms, and what the admin server counts of itself.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::query::Query;
use super::reply::{JSON, Reply};
use super::{Admin, page};
use crate::config::regex;
use crate::limits;
use crate::stats::block::Block;
use crate::stats::names::{Http, HttpHist, Listener, ListenerHist, ListenerHttp, Worker};
use crate::stats::scope::{Registry, ScopeName};
use crate::stats::scrape::{self, Buckets, Selection, Shown};

pub(super) fn stats(admin: &Admin, query: &Query) -> Reply {
    answer(admin, query, query.filled("format").unwrap_or("text"))
}

pub(super) fn prometheus(admin: &Admin, query: &Query) -> Reply {
    answer(admin, query, "prometheus")
}

fn answer(admin: &Admin, query: &Query, format: &str) -> Reply {
    if !["html", "active-html", "json", "prometheus", "text"].contains(&format) {
        return Reply::error(400, "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n");
    }
    let selection = match selection(admin, query, format) {
        Ok(selection) => selection,
        Err(fault) => return Reply::error(400, fault),
    };
    (admin.state.refresh)();
    let registry = &admin.state.process.registry;
    match format {
        "prometheus" => Reply::text(scrape::prometheus(registry, &selection)),
        "json" => Reply::new(200, JSON, scrape::json(registry, &selection)),
        "text" => Reply::text(scrape::text(registry, &selection)),
        _ => page::stats(query, &scrape::text(registry, &selection), format == "active-html"),
    }
}

fn selection(admin: &Admin, query: &Query, format: &str) -> Result<Selection, String> {
    let shown = match query.filled("type") {
        None | Some("All") => Shown::All,
        Some("Counters") => Shown::Counters,
        Some("Gauges") => Shown::Gauges,
        Some("Histograms") => Shown::Histograms,
        Some("TextReadouts") => Shown::TextReadouts,
        Some(_) => return Err("invalid &type= param".to_owned()),
    };
    match query.filled("hidden") {
        // There are no hidden stats.
        None | Some("include" | "exclude") => {}
        Some("only") => return Ok(Selection { shown: Shown::TextReadouts, ..Selection::default() }),
        Some(_) => return Err("usage: /stats?hidden=(include|only|exclude)\n\n".to_owned()),
    }
    Ok(Selection {
        filter: query.filled("filter").map(filter).transpose()?,
        invert: query.has("invert_filter"),
        used_only: query.has("usedonly"),
        // envoy: for Prometheus the kind of stats is not looked at
        shown: if format == "prometheus" { Shown::All } else { shown },
        buckets: buckets(query, format)?,
        tags: admin.state.options.stats_tags.clone(),
    })
}

fn filter(pattern: &str) -> Result<::regex::Regex, String> {
    let invalid = |reason: String| format!("Invalid re2 regex: {reason}");
    let translated = regex::translate(pattern).map_err(invalid)?;
    ::regex::RegexBuilder::new(&translated)
        .size_limit(limits::ADMIN_REGEX_BYTES)
        .build()
        .map_err(|_| invalid("pattern too large - compile failed".to_owned()))
}

fn buckets(query: &Query, format: &str) -> Result<Buckets, String> {
    let buckets = match query.filled("histogram_buckets") {
        None | Some("none") => Buckets::Unset,
        Some("summary") => Buckets::Summary,
        Some("cumulative") => Buckets::Cumulative,
        Some("disjoint") => Buckets::Disjoint,
        Some("detailed") => Buckets::Detailed,
        Some("prometheusnative") if format == "prometheus" => {
            let text =
                "unsupported prometheusnative histogram type when not using protobuf exposition format";
            return Err(text.to_owned());
        }
        Some("prometheusnative") => {
            return Err("Invalid histogram_buckets type for non prometheus stats type".to_owned());
        }
        Some(_) => {
            return Err("usage: /stats?histogram_buckets=\
                (cumulative|disjoint|detailed|summary|prometheusnative)\n"
                .to_owned());
        }
    };
    if format == "prometheus" && matches!(buckets, Buckets::Disjoint | Buckets::Detailed) {
        return Err("unsupported prometheus histogram bucket mode".to_owned());
    }
    Ok(buckets)
}

/// Stats are found by slot: there is no table of names whose use one could watch.
pub(super) fn lookups(_: &Admin, _: &Query) -> Reply {
    Reply::text("Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n")
}

pub(super) fn lookups_changed(_: &Admin, _: &Query) -> Reply {
    Reply::ok()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the admin server counts of itself; written by its thread alone.
#[derive(Debug)]
pub(super) struct Counts {
    http: Arc<Block<Http>>,
    listener: Arc<Block<Listener>>,
    listener_http: Arc<Block<ListenerHttp>>,
    thread: Arc<Block<Worker>>,
}

impl Counts {
    pub(super) fn new(registry: &Registry) -> Counts {
        let manager = ("envoy_http_conn_manager_prefix", "admin");
        let scope = |prefix, family| ScopeName::new(prefix, family, &[]);
        Counts {
            http: registry.scope(ScopeName::new("http.admin.", "http", &[manager])).block(0),
            listener: registry.scope(scope("listener.admin.", "listener.admin")).block(0),
            listener_http: registry
                .scope(ScopeName::new("listener.admin.http.admin.", "listener.admin.http", &[manager]))
                .block(0),
            thread: registry
                .scope(scope("listener.admin.main_thread.", "listener.admin.main_thread"))
                .block(0),
        }
    }

    pub(super) fn opened(&self) {
        for stat in [Http::DownstreamCxTotal, Http::DownstreamCxActive] {
            self.http.inc(stat);
        }
        self.http.inc(Http::DownstreamCxHttp1Total);
        self.http.inc(Http::DownstreamCxHttp1Active);
        self.listener.inc(Listener::DownstreamCxTotal);
        self.listener.inc(Listener::DownstreamCxActive);
        self.thread.inc(Worker::DownstreamCxTotal);
        self.thread.inc(Worker::DownstreamCxActive);
        self.listener.record(ListenerHist::ConnectionsAcceptedPerSocketEvent, 1);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.http.add(Http::DownstreamCxRxBytesTotal, bytes as u64);
    }

    pub(super) fn sent(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.http.add(Http::DownstreamCxTxBytesTotal, *bytes as u64);
        }
    }

    pub(super) fn closed(&self, by_peer: bool, after: Duration) {
        self.http.record(HttpHist::DownstreamCxLengthMs, millis(after));
        self.listener.record(ListenerHist::DownstreamCxLengthMs, millis(after));
        let side = if by_peer { Http::DownstreamCxDestroyRemote } else { Http::DownstreamCxDestroyLocal };
        self.http.inc(side);
        self.http.dec(Http::DownstreamCxActive);
        self.http.dec(Http::DownstreamCxHttp1Active);
        self.http.inc(Http::DownstreamCxDestroy);
        self.listener.dec(Listener::DownstreamCxActive);
        self.listener.inc(Listener::DownstreamCxDestroy);
        self.thread.dec(Worker::DownstreamCxActive);
    }

    pub(super) fn asked(&self) {
        self.http.inc(Http::DownstreamRqTotal);
        self.http.inc(Http::DownstreamRqHttp1Total);
        self.http.inc(Http::DownstreamRqActive);
    }

    pub(super) fn answered(&self, status: u16, after: Duration) {
        self.http.record(HttpHist::DownstreamRqTime, millis(after));
        self.http.dec(Http::DownstreamRqActive);
        let (http, listener) = match status / 100 {
            1 => (Http::DownstreamRq1xx, ListenerHttp::DownstreamRq1xx),
            2 => (Http::DownstreamRq2xx, ListenerHttp::DownstreamRq2xx),
            3 => (Http::DownstreamRq3xx, ListenerHttp::DownstreamRq3xx),
            4 => (Http::DownstreamRq4xx, ListenerHttp::DownstreamRq4xx),
            _ => (Http::DownstreamRq5xx, ListenerHttp::DownstreamRq5xx),
        };
        self.http.inc(http);
        self.http.inc(Http::DownstreamRqCompleted);
        self.listener_http.inc(listener);
        self.listener_http.inc(ListenerHttp::DownstreamRqCompleted);
    }
}
