//! Limits: connections, descriptors; and how shards share the work.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::process::{ANY, Dir, GET, PATIENCE, Proxy, ask, bootstrap, drivers, listener, nowhere, until};

/// Serves up to the limit; what comes beyond is closed and counted; a place that becomes free is taken again.
#[test]
fn connection_limits() {
    let runtime =
        |key: &str| format!("layered_runtime: {{layers: [{{name: s, static_layer: {{{key}: 2}}}}]}}");
    let monitor = "overload_manager: {resource_monitors: [{name: envoy.resource_monitors.global_downstream_max_connections, typed_config: {\"@type\": type.googleapis.com/envoy.\
                   extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, \
                   max_active_downstream_connections: 2}}]}";
    for (what, more, counter) in [
        (
            "listener",
            runtime("envoy.resource_limits.listener.main.connection_limit"),
            "downstream_cx_overflow",
        ),
        ("global", runtime("overload.global_downstream_max_connections"), "downstream_global_cx_overflow"),
        ("monitor", monitor.to_owned(), "downstream_global_cx_overflow"),
    ] {
        let config = bootstrap(&more, &[listener("main", ANY, "stat_prefix: main")], nowhere());
        let proxy = Proxy::start(&config, &["--concurrency", "2"]);
        let mut held = [proxy.connect("main"), proxy.connect("main")];
        for client in &mut held {
            assert_eq!(ask(client, GET).expect("an answer").status, 200, "{what}");
        }
        for _ in 0..3 {
            assert!(ask(&mut proxy.connect("main"), GET).is_none(), "{what}: one too many is served");
        }
        assert_eq!(proxy.stat(&format!("listener.main.{counter}")), 3, "{what}");
        assert_eq!(proxy.stat("listener.main.downstream_cx_total"), 2, "{what}");
        drop(held);
        until("a free place", || ask(&mut proxy.connect("main"), GET).is_some());
    }
}

/// The action closes who has waited for some seconds, and nobody who has just come.
#[test]
fn idle_connections_are_closed_under_pressure() {
    let dir = Dir::new();
    let file = dir.write("pressure", "1");
    let overload = format!(
        "overload_manager:\n  refresh_interval: 0.05s\n  resource_monitors:\n  - name: x\n    typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: {file}}}\n  \
         actions: [{{name: envoy.overload_actions.close_idle_http_connections, triggers: [{{name: x, threshold: {{value: 0.5}}}}]}}]"
    );
    let config = bootstrap(&overload, &[listener("main", ANY, "")], nowhere());
    let proxy = Proxy::start(&config, &["--concurrency", "1"]);
    let mut client = proxy.connect("main");
    assert_eq!(ask(&mut client, GET).expect("an answer").status, 200);
    let begun = std::time::Instant::now();
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    assert_eq!(client.read(&mut [0; 16]).expect("an end"), 0);
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(proxy.stat("http.main.downstream_cx_idle_timeout"), 1);
    assert_eq!(proxy.stat("overload.envoy.overload_actions.close_idle_http_connections.active"), 1);
}

/// Ticks of the clock that the process has used.
fn cpu_ticks(proxy: &Proxy) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.child.id())).expect("a process");
    let (_, after) = stat.rsplit_once(')').expect("its name");
    after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum()
}

/// Without descriptors it waits, does not spin, and accepts again when one is free.
#[test]
fn no_descriptors_left() {
    for driver in drivers() {
        let config = bootstrap("", &[listener("main", ANY, "")], nowhere());
        let proxy = Proxy::start_limited(64, &config, &["--concurrency", "1", "--driver", driver]);
        let address = proxy.listener("main");
        let mut served = Vec::new();
        // The kernel completes connections that nobody accepted: the first that gets no answer waits in its queue.
        let mut waiting = loop {
            let mut client = TcpStream::connect(&address).expect("a connection");
            client.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
            client.write_all(GET.as_bytes()).expect("sent");
            match client.read(&mut [0; 4096]) {
                Ok(n) => assert!(n > 0, "{driver}: closed"),
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{driver}: {e}");
                    break client;
                }
            }
            served.push(client);
            assert!(served.len() < 64, "{driver}: the limit does not hold");
        };
        let before = cpu_ticks(&proxy);
        let nothing = waiting.read(&mut [0; 1]).expect_err("nothing comes");
        assert!(matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{driver}: {nothing}");
        let used = cpu_ticks(&proxy) - before;
        assert!(used <= 10, "{driver}: {used} ticks in 0.3 s: it spins");
        served.truncate(served.len() / 2);
        waiting.set_read_timeout(Some(PATIENCE)).expect("set");
        assert!(waiting.read(&mut [0; 4096]).is_ok_and(|n| n > 0), "{driver}: it does not accept again");
        let log = proxy.output("stderr");
        assert!(log.contains("no descriptors"), "{driver}: {log}");
        assert!(log.lines().count() < 60, "{driver}: it floods its log");
    }
}

#[test]
fn shards_share_the_work() {
    for (driver, reuse_port) in drivers().into_iter().flat_map(|driver| [(driver, true), (driver, false)]) {
        let more = format!("{{stat_prefix: main, enable_reuse_port: {reuse_port}}}");
        let more = more.trim_matches(['{', '}']).replace(", ", "\n    ");
        let config = bootstrap("", &[listener("main", ANY, &more)], nowhere());
        let drain = ["--drain-time-s", "1", "--drain-strategy", "immediate"];
        let proxy =
            Proxy::start(&config, &[&["--concurrency", "2", "--driver", driver][..], &drain].concat());
        // Who takes from one socket is the kernel's choice: connections come until both shards have some.
        let served = |n: usize| proxy.stat(&format!("listener.main.worker_{n}.downstream_cx_total"));
        let mut clients: Vec<_> = Vec::new();
        until("a connection on both shards", || {
            clients.extend((0..20).map(|_| proxy.connect("main")));
            clients.iter_mut().rev().take(20).for_each(|c| drop(ask(c, GET).expect("an answer")));
            served(0) > 0 && served(1) > 0
        });
        let count = clients.len() as u64;
        for client in &mut clients {
            assert_eq!(ask(client, GET).expect("an answer").body, "hi");
        }
        let what = format!("{driver}, reuse_port {reuse_port}");
        assert_eq!(served(0) + served(1), count, "{what}");
        assert_eq!(proxy.stat("listener.main.downstream_cx_total"), count, "{what}");
        assert_eq!(proxy.stat("listener.main.downstream_cx_active"), count, "{what}");
        assert_eq!(proxy.stat("http.main.downstream_rq_total"), 2 * count, "{what}");
        assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), 2 * count, "{what}");
        assert_eq!(proxy.stat("server.concurrency"), 2, "{what}");
        // Both drain: every connection is asked to go, and nobody listens any more.
        assert_eq!(proxy.ask_admin("POST", "/drain_listeners?graceful").0, 200);
        for client in &mut clients {
            until("the drain", || ask(client, GET).is_none_or(|a| a.head.contains("connection: close")));
        }
        until("the end of listening", || TcpStream::connect(proxy.listener("main")).is_err());
        until("the end of the connections", || proxy.stat("listener.main.downstream_cx_active") == 0);
        assert!(served(0) > 0 && served(1) > 0, "{what}: it lives on");
    }
}

/// A pipe that nobody reads: requests are served all the same, and lines that find no room are counted.
#[test]
fn a_log_that_takes_nothing() {
    const REQUESTS: u64 = 1_300;
    let dir = Dir::new();
    let path = dir.path("log.fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let _never_reads = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
    let stdout =
        r#"{"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}"#;
    let file = format!(
        r#"{{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {path},
             log_format: {{text_format_source: {{inline_string: "{}\n"}}}}}}"#,
        "x".repeat(1100)
    );
    let main = listener("main", ANY, "").replace(stdout, &file);
    let config = bootstrap("", &[main], nowhere());
    let proxy = Proxy::start(&config, &["--concurrency", "1", "--file-flush-min-size-kb", "1"]);
    let mut client = proxy.connect("main");
    for _ in 0..REQUESTS {
        assert_eq!(ask(&mut client, GET).expect("an answer").body, "hi");
    }
    let dropped = proxy.stat("server.selvedge.access_log_lines_dropped");
    assert!((1..REQUESTS).contains(&dropped), "{dropped} of {REQUESTS} lines");
}

#[test]
fn a_unix_listener() {
    let dir = Dir::new();
    let path = dir.path("main.sock");
    let config =
        bootstrap("", &[listener("main", &format!("{{pipe: {{path: {path}, mode: 384}}}}"), "")], nowhere());
    let proxy = Proxy::start(&config, &["--concurrency", "2"]);
    let mode = fs::metadata(&path).expect("a socket").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for _ in 0..4 {
        let mut client = UnixStream::connect(&path).expect("a connection");
        assert_eq!(ask(&mut client, GET).expect("an answer").body, "hi");
    }
    assert_eq!(proxy.stat("http.main.downstream_rq_total"), 4);
}
