//! How the process ends: signals, `/quitquitquit`, and starts that cannot work.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::process::{
    ANY, Dir, PATIENCE, Proxy, bootstrap, listener, nowhere, run, run_as_nobody, silent_upstream, until, wait,
};

/// At once, with status 0; what runs is accounted, and the log is whole.
#[test]
fn ends_at_once_while_requests_run() {
    for how in ["TERM", "INT", "/quitquitquit"] {
        let (upstream, taken) = silent_upstream();
        let config = bootstrap("", &[listener("main", ANY, "")], upstream);
        let mut proxy = Proxy::start(&config, &["--concurrency", "1", "--drain-time-s", "600"]);
        let mut client = proxy.connect("main");
        std::io::Write::write_all(&mut client, b"GET /up/running HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
        taken.recv_timeout(PATIENCE).expect("the upstream's request");
        if how.starts_with('/') {
            assert_eq!(proxy.ask_admin("POST", how), (200, "OK\n".to_owned()));
        } else {
            proxy.signal(how);
        }
        let end = wait(&mut proxy.child);
        assert_eq!(end.code(), Some(0), "{how}: {}", proxy.output("stderr"));
        let log = proxy.output("stdout");
        assert!(log.contains("\"GET /up/running HTTP/1.1\"") && log.ends_with('\n'), "{how}: {log:?}");
        assert!(proxy.output("stderr").contains("exiting"), "{how}");
    }
}

/// SIGHUP is nobody's end; SIGUSR1 opens the logs anew.
#[test]
fn signals_that_do_not_end_it() {
    let config = bootstrap("", &[listener("main", ANY, "")], nowhere());
    let mut proxy = Proxy::start(&config, &["--concurrency", "1"]);
    for signal in ["HUP", "USR1"] {
        proxy.signal(signal);
        let answer = crate::process::ask(&mut proxy.connect("main"), crate::process::GET).expect("an answer");
        assert_eq!(answer.status, 200, "{signal}");
    }
    assert!(proxy.child.try_wait().expect("a child").is_none());
    for told in ["caught and eating SIGHUP", "caught SIGUSR1. Reopening", "] listener main: 127.0.0.1:"] {
        until(told, || proxy.output("stderr").contains(told));
    }
}

#[test]
fn starts_that_cannot_work() {
    let dir = Dir::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let socket =
        |address: &str, port: u16| format!("{{socket_address: {{address: {address}, port_value: {port}}}}}");
    let no_folder = format!("{{pipe: {{path: {}}}}}", dir.path("no/such/folder.sock"));
    for (what, address, tells) in [
        (
            "a taken port",
            socket("127.0.0.1", port),
            format!("listener 'main': cannot bind '127.0.0.1:{port}': Address already in use"),
        ),
        (
            "a foreign address",
            socket("192.0.2.1", 0),
            "cannot bind '192.0.2.1:0': Cannot assign requested address".to_owned(),
        ),
        ("no folder", no_folder, "folder.sock': No such file or directory".to_owned()),
    ] {
        for reuse_port in ["enable_reuse_port: true", "enable_reuse_port: false"] {
            let config = bootstrap("", &[listener("main", &address, reuse_port)], nowhere());
            let ended = run(&["--disable-hot-restart", "--config-yaml", &config], b"");
            assert!(
                ended.code == Some(1) && ended.stderr.contains(&tells),
                "{what}: {:?} {}",
                ended.code,
                ended.stderr
            );
        }
    }
    let admin = bootstrap("", &[], nowhere()).replacen(ANY, &socket("127.0.0.1", port), 1);
    let ended = run(&["--disable-hot-restart", "--config-yaml", &admin], b"");
    assert!(
        ended.code == Some(1) && ended.stderr.contains("Address already in use"),
        "{:?} {}",
        ended.code,
        ended.stderr
    );
    let ended = run(&["--log-path", &dir.path("no/log"), "--config-yaml", "{}"], b"");
    assert!(ended.code == Some(1) && ended.stderr.contains("No such file or directory"), "{}", ended.stderr);
}

/// A port below those that everybody may take, and a folder that is closed.
#[test]
fn no_permission_to_bind() {
    let dir = Dir::new();
    let closed = dir.path("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, Permissions::from_mode(0o000)).expect("closed");
    let socket = |port: u16| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let mut cases = vec![(format!("{{pipe: {{path: {closed}/main.sock}}}}"), format!("{closed}/main.sock"))];
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse().is_ok_and(|first: u16| first > 1) {
        cases.push((socket(1), "127.0.0.1:1".to_owned()));
    } else {
        eprintln!("SKIPPED for ports: everybody may take any here");
    }
    for (address, shown) in cases {
        let config = bootstrap("", &[listener("front", &address, "")], nowhere());
        let Some(ended) = run_as_nobody(&["--disable-hot-restart", "--config-yaml", &config]) else { break };
        let tells = format!("error adding listener 'front': cannot bind '{shown}': Permission denied");
        assert!(ended.code == Some(1) && ended.stderr.contains(&tells), "{:?} {}", ended.code, ended.stderr);
    }
    std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("opened");
}
