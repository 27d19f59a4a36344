//! The examples work as they are, and the demo shows what it promises.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::process::{Proxy, SELVEDGE, ask, run, send, wait};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut found: Vec<_> =
        fs::read_dir(folder).expect("examples").map(|e| e.expect("an entry").path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    found.sort();
    found
}

#[test]
fn every_example_is_valid() {
    let examples = examples();
    assert!(examples.len() >= 2, "{examples:?}");
    for path in examples {
        let path = path.display().to_string();
        let ended = run(&["--mode", "validate", "-c", &path], b"");
        assert_eq!(
            (ended.code, ended.stdout),
            (Some(0), format!("configuration '{path}' OK\n")),
            "{}",
            ended.stderr
        );
    }
}

/// An upstream that answers with the first line of the request.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut some = [0; 4096];
                while let Some(n) = socket.read(&mut some).ok().filter(|n| *n > 0) {
                    let text = String::from_utf8_lossy(&some[..n]).into_owned();
                    let line = text.lines().next().unwrap_or_default();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
                    if socket.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Listener, host, path, status, body.
const SERVED: &[(&str, &str, &str, u16, &str)] = &[
    ("demo.yaml", "shop.example", "/health", 200, "all is well\n"),
    ("demo.yaml", "shop.example", "/api/x", 200, "GET /x HTTP/1.1"),
    ("demo.yaml", "shop.example", "/old/x", 301, ""),
    ("demo.yaml", "other.example", "/", 404, ""),
    ("front_proxy.yaml", "any.example", "/healthz", 200, "ok\n"),
    ("front_proxy.yaml", "any.example", "/service/1/a?b=c", 200, "GET //a?b=c HTTP/1.1"),
    ("front_proxy.yaml", "any.example", "/service/2", 200, "GET / HTTP/1.1"),
    ("front_proxy.yaml", "any.example", "/split/x", 200, "GET /split/x HTTP/1.1"),
    ("front_proxy.yaml", "any.example", "/none", 404, ""),
    ("front_proxy.yaml", "www.old.example", "/x", 308, ""),
];

/// With ports of this run in place of their own.
#[test]
fn every_example_serves() {
    for path in examples() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let upstream = echo().port();
        let mut text = fs::read_to_string(&path).expect("an example");
        for (own, port) in [("10000", 0), ("9901", 0), ("10001", upstream), ("10002", upstream)] {
            text = text.replace(&format!("port_value: {own}"), &format!("port_value: {port}"));
        }
        let proxy = Proxy::start(&text, &["--concurrency", "1"]);
        let cases: Vec<_> = SERVED.iter().filter(|case| case.0 == name).collect();
        assert!(!cases.is_empty(), "nothing is asked of {name}");
        for (_, host, path, status, body) in cases {
            let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
            let answer = ask(&mut proxy.connect("front"), &request).expect("an answer");
            assert_eq!((answer.status, answer.body.as_str()), (*status, *body), "{name}: {host}{path}");
        }
    }
}

/// Its proxy holds the demo's stderr, which therefore ends with both.
#[test]
fn the_demo_ends_with_its_proxy() {
    for signal in ["INT", "TERM", "HUP"] {
        let mut demo = Command::new(SELVEDGE)
            .arg("demo")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut said = BufReader::new(demo.stdout.take().expect("piped")).lines();
        let shown = said.by_ref().map_while(Result::ok).find(|l| l.starts_with("Ctrl-C ends the demo."));
        assert!(shown.is_some(), "it does not come so far");
        send(signal, demo.id());
        assert_eq!(wait(&mut demo).code(), Some(0), "{signal}");
        let mut told = String::new();
        demo.stderr.take().expect("piped").read_to_string(&mut told).expect("text");
        assert_eq!(told, "", "{signal}");
    }
}

#[test]
fn the_demo_ends_by_itself() {
    let ended = run(&["demo", "--once"], b"");
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    for part in [
        "1. GET shop.example/health",
        "   200 OK from the proxy in ",
        "   301 Moved Permanently from the proxy in ",
        "   location: http://shop.example/new/page",
        "   504 Gateway Timeout from the proxy in ",
        " 504 UT ",
        " 404 NR ",
        "7. GET nobody.example/",
        "    7  requests ",
        "    4  answered 2xx",
    ] {
        assert!(ended.stdout.contains(part), "{part:?} is missing:\n{}", ended.stdout);
    }
    assert_eq!(ended.stdout.lines().filter(|l| l.starts_with("   log: [20")).count(), 7, "{}", ended.stdout);
    assert!(!ended.stdout.contains('\x1b'), "colours without a terminal");
    assert_eq!(ended.stderr, "");
}
