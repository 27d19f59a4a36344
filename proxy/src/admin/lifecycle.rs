//! `/ready`, `/healthcheck/*`, `/drain_listeners`, `/quitquitquit`, `/reopen_logs`, `/reset_counters`, and the
//! profilers that are not in this build.

use std::sync::atomic::Ordering::Relaxed;

use super::query::Query;
use super::reply::Reply;
use super::{Admin, Command};
use crate::log;
use crate::process::LIVE;

pub(super) fn ready(admin: &Admin, _: &Query) -> Reply {
    let status = if admin.state.process.state() == LIVE { 200 } else { 503 };
    Reply::error(status, format!("{}\n", admin.state_name()))
}

pub(super) fn health_fail(admin: &Admin, _: &Query) -> Reply {
    admin.state.process.server.failing_health.store(true, Relaxed);
    Reply::ok()
}

pub(super) fn health_ok(admin: &Admin, _: &Query) -> Reply {
    admin.state.process.server.failing_health.store(false, Relaxed);
    Reply::ok()
}

//= envoy: flags count when they are there, whatever their value; skip_exit drains connections and stops nothing
pub(super) fn drain_listeners(admin: &Admin, query: &Query) -> Reply {
    let skip_exit = query.has("skip_exit");
    (admin.state.commands)(Command::DrainListeners {
        graceful: skip_exit || query.has("graceful"),
        skip_exit,
        inbound_only: query.has("inboundonly"),
    });
    Reply::ok()
}

pub(super) fn quit(_: &Admin, _: &Query) -> Reply {
    Reply { then: Some(Command::Quit), ..Reply::ok() }
}

pub(super) fn reopen_logs(admin: &Admin, _: &Query) -> Reply {
    (admin.state.commands)(Command::ReopenLogs);
    if let Err(error) = log::reopen_file() {
        log::error("admin", &format!("the log file cannot be opened anew: {error}"));
    }
    Reply::ok()
}

pub(super) fn reset_counters(admin: &Admin, _: &Query) -> Reply {
    admin.state.process.registry.reset_counters();
    Reply::ok()
}

//= envoy: ?enable=<y|n>
fn profiler(query: &Query) -> Reply {
    match query.get("enable") {
        Some("y") => Reply::error(501, "The current build does not support this profiler\n"),
        Some("n") => Reply::ok(),
        _ => Reply::error(400, "?enable=<y|n>\n"),
    }
}

pub(super) fn cpu_profiler(_: &Admin, query: &Query) -> Reply {
    profiler(query)
}

pub(super) fn alloc_profiler(_: &Admin, query: &Query) -> Reply {
    match query.get("enable") {
        Some("n") => Reply::error(400, "Allocation profiler is not started"),
        _ => profiler(query),
    }
}

pub(super) fn heap_profiler(_: &Admin, _: &Query) -> Reply {
    Reply::error(501, "The current build does not support heap profiler")
}

pub(super) fn heap_dump(_: &Admin, _: &Query) -> Reply {
    Reply::error(501, "The current build does not support profiles of the heap\n")
}
