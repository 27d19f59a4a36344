//! `/drain_listeners` and `/healthcheck/fail`.

use std::net::TcpStream;

use crate::process::{ANY, GET, Proxy, ask, bootstrap, listener, nowhere, until};

fn start(args: &[&str]) -> Proxy {
    let listeners = [
        listener("in", ANY, "traffic_direction: INBOUND"),
        listener("out", ANY, "traffic_direction: OUTBOUND"),
    ];
    Proxy::start(&bootstrap("", &listeners, nowhere()), args)
}

fn says_close(client: &mut TcpStream) -> bool {
    ask(client, GET).expect("an answer").head.contains("connection: close")
}

fn refuses(proxy: &Proxy, name: &str) -> bool {
    TcpStream::connect(proxy.listener(name)).is_err()
}

/// Connections are asked to go, those that come meanwhile too; after the drain time nobody listens, and it lives on.
#[test]
fn graceful() {
    let args = ["--concurrency", "2", "--drain-time-s", "1", "--drain-strategy", "immediate"];
    let mut proxy = start(&args);
    let mut client = proxy.connect("in");
    assert!(!says_close(&mut client));
    assert_eq!(proxy.ask_admin("POST", "/drain_listeners?graceful"), (200, "OK\n".to_owned()));
    until("the drain", || says_close(&mut proxy.connect("in")));
    assert!(says_close(&mut client), "an older connection");
    until("the end of the connection", || ask(&mut client, GET).is_none());
    until("the end of listening", || refuses(&proxy, "in") && refuses(&proxy, "out"));
    assert_eq!(proxy.stat("listener_manager.listener_stopped"), 2);
    assert_eq!(proxy.ask_admin("GET", "/ready"), (200, "LIVE\n".to_owned()));
    assert!(proxy.child.try_wait().expect("a child").is_none());
}

#[test]
fn at_once_and_inbound_only() {
    let proxy = start(&["--concurrency", "1"]);
    let mut client = proxy.connect("in");
    assert!(!says_close(&mut client));
    assert_eq!(proxy.ask_admin("POST", "/drain_listeners?inboundonly").0, 200);
    until("the end of listening", || refuses(&proxy, "in"));
    assert!(!says_close(&mut client), "what is connected is served on");
    assert!(!says_close(&mut proxy.connect("out")));
    assert_eq!(proxy.stat("listener_manager.listener_stopped"), 1);
}

/// Connections are asked to go for as long as it takes; it never stops to listen.
#[test]
fn skip_exit() {
    let args = ["--concurrency", "1", "--drain-time-s", "0"];
    let proxy = start(&args);
    assert_eq!(proxy.ask_admin("POST", "/drain_listeners?graceful&skip_exit&inboundonly").0, 200);
    until("the drain", || says_close(&mut proxy.connect("in")));
    assert!(!says_close(&mut proxy.connect("out")), "only inbound");
    assert_eq!(proxy.stat("listener_manager.listener_stopped"), 0);
}

/// No drain time has to pass: while the health check fails, every response says close.
#[test]
fn failing_health_check() {
    let proxy = start(&["--concurrency", "1"]);
    assert_eq!(proxy.ask_admin("POST", "/healthcheck/fail"), (200, "OK\n".to_owned()));
    assert_eq!(proxy.ask_admin("GET", "/ready"), (503, "DRAINING\n".to_owned()));
    assert!(says_close(&mut proxy.connect("in")) && says_close(&mut proxy.connect("out")));
    assert_eq!(proxy.stat("http.in.downstream_cx_drain_close"), 1);
    assert_eq!(proxy.ask_admin("POST", "/healthcheck/ok"), (200, "OK\n".to_owned()));
    assert!(!says_close(&mut proxy.connect("in")));
    assert_eq!(proxy.ask_admin("GET", "/healthcheck/fail").0, 405);
}
